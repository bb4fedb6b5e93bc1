"""`report` and `top` on folders that somebody else made: one line, no waiting, nothing read that is no file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers.exported import record
from tests.helpers.paths import ROOT
from traceloop.cli import runs
from traceloop.record import files


def command(*words: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = (sys.executable, "-m", "traceloop", *words)
    return subprocess.run(words, env=environ, capture_output=True, text=True, timeout=120)


def plant(path, name, what):
    target = path / name
    if what == "pipe":
        os.mkfifo(target)
    elif what == "device":
        target.symlink_to("/dev/zero")
    else:
        target.mkdir()


@pytest.mark.parametrize("what", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", [files.RUN, files.PROCESS, files.SITES, files.PROCESS_RING, files.loop_ring(0)])
def test_a_report_of_what_is_no_file(tmp_path, name, what):
    process = tmp_path / "p-1-1"
    process.mkdir()
    plant(tmp_path if name == files.RUN else process, name, what)
    done = command("report", str(tmp_path))
    assert "Traceback" not in done.stderr, done.stderr
    if "ring" in name:  # nothing is left to report on: least of all that there was no trouble
        assert (done.returncode, done.stdout) == (1, "")
        assert f"nothing of the record in {tmp_path} could be read" in done.stderr
        assert f"{name}: " + ("a symbolic link, " if what == "device" else "") + "not a regular file" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert "Errno" not in done.stderr
    else:
        assert done.returncode == 0, done.stderr
    assert all(line.startswith("traceloop: ") for line in done.stderr.splitlines())
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("words", [("report",), ("report", "--json"), ("tasks",), ("export", "--format", "jsonl")])
def test_stdout_that_is_closed(tmp_path, words):
    kept = record(tmp_path, "from traceloop.recording.process import current_process\ncurrent_process()\n")
    words = (*words, str(kept), *(["-o", "-"] if words[0] == "export" else []))
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "traceloop", *words]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(shell, env=environ, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


#: Root reads everything, unless it gives up the right to.
AS_ANYBODY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []


@pytest.mark.skipif(bool(AS_ANYBODY) and not shutil.which("setpriv"), reason="root without setpriv reads everything")
@pytest.mark.parametrize(
    "words", [("report",), ("tasks",), ("top", "--once"), ("check",), ("export", "--format", "otlp")]
)
@pytest.mark.parametrize(("closed", "mode"), [("", 0), ("", 0o444), ("p-1-1", 0), ("p-1-1/loop-0.ring", 0)])
def test_a_record_that_may_not_be_read(tmp_path, words, closed, mode):
    record = tmp_path / "record"
    (record / "p-1-1").mkdir(parents=True)
    (record / "p-1-1" / files.loop_ring(0)).write_bytes(b"")
    (record / closed).chmod(mode)
    try:
        argv = [*AS_ANYBODY, sys.executable, "-m", "traceloop", *words, str(record)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    finally:
        (record / closed).chmod(0o700)
    if done.stderr.startswith("setpriv:"):
        pytest.skip(done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("traceloop: ") and done.returncode in (1, 2) and done.stdout == ""
    if words[0] != "top" or closed == "":  # which reads no more of a run that has ended
        assert "Permission denied" in line and "Errno" not in line and str(record / closed) in line


@pytest.mark.parametrize("name", [files.PROCESS_RING, files.loop_ring(0)])
def test_the_tasks_of_what_is_no_ring(tmp_path, name):
    (tmp_path / "p-1-1").mkdir()
    (tmp_path / "p-1-1" / name).write_bytes(b"too short")
    done = command("tasks", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"traceloop: nothing of the record in {tmp_path} could be read: ")
    assert line.endswith(f"{name}: too short for a ring")


@pytest.mark.parametrize("words", [("report",), ("tasks",), ("check",), ("diff",), ("export", "--format", "jsonl")])
def test_many_rings_that_cannot_be_read_are_one_line(tmp_path, words):
    process = tmp_path / "p-1-1"
    process.mkdir()
    for number in range(5):
        (process / files.loop_ring(number)).write_bytes(b"too short")
    done = command(*words, str(tmp_path), *([str(tmp_path)] if words == ("diff",) else []))
    assert done.returncode == (2 if words == ("check",) else 1) and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"traceloop: nothing of the record in {tmp_path} could be read: 5 rings cannot be read; ")
    assert line.endswith("loop-0.ring: too short for a ring")


def test_the_tasks_of_a_program_without_a_loop(tmp_path):
    kept = record(tmp_path, "from traceloop.recording.process import current_process\ncurrent_process()\n")
    done = command("tasks", str(kept))
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition(": ")[2] for line in done.stdout.splitlines()[:1]] == ["0 tasks, 0 waiting"]


def test_top_looks_into_own_folders_only(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    own, linked, other = (tmp_path / f"traceloop-{os.getuid()}-{name}" for name in ("own", "linked", "other"))
    for path in (own, other):
        path.mkdir()
        (path / files.RUN).write_text("{}")
    linked.symlink_to(own)
    planted = tmp_path / f"traceloop-{os.getuid()}-planted"
    planted.mkdir()
    os.mkfifo(planted / files.RUN)
    (tmp_path / "traceloop-4242-x").mkdir()
    found = [path for path in runs._run_directories() if path.startswith(str(tmp_path))]
    assert sorted(found) == sorted(map(str, (own, other)))
    if os.getuid() == 0:
        os.chown(other, 12345, 12345)
        found = [path for path in runs._run_directories() if path.startswith(str(tmp_path))]
        assert found == [str(own)]
