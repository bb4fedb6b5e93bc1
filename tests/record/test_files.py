"""Names of the files of a run, made and parsed; and how a record's files are opened, whoever made them."""

from __future__ import annotations

import os

import pytest

from traceloop.record import files


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("p-12-345", (12, 345, 1)),
        ("p-12-345-2", (12, 345, 2)),
        ("p-12-0", (12, 0, 1)),
        ("p-12", None),
        ("p-12-345-2-1", None),
        ("p-x-345", None),
        ("p--12-345", None),
        ("q-12-345", None),
        ("p-12-345\n", None),
        ("p-\u0661-345", None),
        ("p-12-" + "9" * 5000, None),
        ("", None),
    ],
)
def test_a_process_is_named_by_its_folder(name, parts):
    found = files.parse_process_name(name)
    assert (found and (found.pid, found.start_ticks, found.generation)) == parts
    if found:
        assert str(found) == name


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (files.loop_ring(0), 0),
        (files.loop_ring(117), 117),
        (files.PROCESS_RING, -1),
        ("loop-.ring", None),
        ("loop-1", None),
        ("loop-01.ring", None),
        ("loop--1.ring", None),
        ("1.ring", None),
        ("1", None),
        ("sites", None),
    ],
)
def test_a_ring_is_named_by_its_number(name, number):
    assert files.ring_number(name) == number


def test_only_regular_files_are_opened(tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(b"12345")
    assert files.read_file(plain, 3) == b"123" and files.read_file(plain, 10) == b"12345"
    assert files.is_file(plain)
    pipe, link, folder, device = tmp_path / "pipe", tmp_path / "link", tmp_path / "folder", tmp_path / "device"
    os.mkfifo(pipe)
    link.symlink_to(plain)
    folder.mkdir()
    device.symlink_to("/dev/zero")
    for path in (pipe, link, folder, device, tmp_path / "nothing"):
        assert not files.is_file(path)
        with pytest.raises(OSError):
            files.read_file(path, 10)
    with pytest.raises(OSError):
        files.read_file("/dev/zero", 10)
