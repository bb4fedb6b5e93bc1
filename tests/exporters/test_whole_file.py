"""Files that have their name once they are complete."""

from __future__ import annotations

import os
import threading

import pytest

from traceloop.exporters.whole_file import whole_file


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "out"
    path.write_text("before")
    with pytest.raises(ValueError), whole_file(str(path)) as out:
        out.write(b"half")
        raise ValueError
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["out"]
    with whole_file(str(path)) as out:
        out.write(b"after")
    assert path.read_text() == "after" and os.listdir(tmp_path) == ["out"]


def test_a_pipe_is_written_and_not_replaced(tmp_path):
    """Nor is a device: for root `--html /dev/null` would replace it for the whole machine."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    with whole_file(str(path)) as out:
        out.write(b"text")
    reader.join()
    assert read == [b"text"] and path.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_the_target_of_a_link_is_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere" / "out")
    for text in (b"first", b"second"):
        with whole_file(str(link)) as out:
            out.write(text)
        assert link.is_symlink() and (tmp_path / "elsewhere" / "out").read_bytes() == text
