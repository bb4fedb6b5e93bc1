"""`traceloop export`: the file is whole or not there; one line for what cannot be exported."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from tests.helpers.exported import record, traceloop
from tests.helpers.observed import environment, program
from tests.helpers.paths import ROOT
from traceloop.cli.export import FORMATS
from traceloop.record import files


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return record(tmp_path_factory.mktemp("exported"))


@pytest.mark.parametrize("which", FORMATS)
def test_a_file_of_each_format(kept, tmp_path, which):
    path = tmp_path / "out"
    done = traceloop("export", kept, "--format", which, "-o", path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"traceloop: wrote {path}: ") and done.stdout == ""
    assert path.stat().st_size > 0
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_without_a_name_it_is_written_beside(kept, tmp_path):
    done = traceloop("export", kept, "--format", "jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["traceloop.jsonl"]


def test_what_cannot_be_written_leaves_what_was_there(kept, tmp_path):
    path = tmp_path / "no" / "out"
    done = traceloop("export", kept, "--format", "jsonl", "-o", path)
    assert done.returncode == 2
    assert done.stderr == f"traceloop: cannot write {path}: No such file or directory; see traceloop export --help\n"
    done = traceloop("export", kept, "--format", "jsonl", "-o", "/dev/full")
    assert done.returncode == 1
    assert done.stderr == "traceloop: cannot write /dev/full: No space left on device\n"


PROFILES = [name for name, each in FORMATS.items() if each.module.startswith("profiles.")]


@pytest.fixture(scope="module")
def without_profile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unprofiled")
    run_dir = folder / "record"
    run_dir.mkdir()
    text = "async def main():\n    await asyncio.sleep(0)\nrun(main())\n"
    subprocess.run([sys.executable, program(folder, text)], env=environment(run_dir), check=True, timeout=120)
    return run_dir


@pytest.mark.parametrize("which", PROFILES)
def test_a_record_without_a_profile(without_profile, tmp_path, which):
    for where in (tmp_path / "out", "-"):
        done = traceloop("export", without_profile, "--format", which, "-o", where)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "traceloop: the record has no profile: traceloop run --profile takes one\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["export {} --format jsonl -o -", "report {}", "diff {} {}", "--help"])
def test_nobody_reads_stdout_any_more(kept, words):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "traceloop", *(str(kept) if word == "{}" else word for word in words.split())]
    try:
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=writing, stderr=subprocess.PIPE, timeout=120
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("words", ["report {}", "report {} --json", "diff {} {}", "explain deadlock", "--help"])
def test_there_is_no_room_for_stdout(kept, words):
    command = [sys.executable, "-m", "traceloop", *(str(kept) if word == "{}" else word for word in words.split())]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, env=environ, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, "traceloop: stdout cannot be written: No space left on device\n")


def test_no_record_at_all(tmp_path):
    done = traceloop("export", tmp_path, "--format", "jsonl", "-o", "-")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"traceloop: no record of a run in {tmp_path}\n"


@pytest.mark.parametrize("which", FORMATS)
def test_a_record_of_which_nothing_can_be_read(tmp_path, which):
    folder = tmp_path / "p-1-1"
    folder.mkdir()
    (folder / files.loop_ring(0)).write_bytes(os.urandom(100_000))
    out = tmp_path / "out"
    done = traceloop("export", tmp_path, "--format", which, "-o", out)
    assert done.returncode == 1
    assert "not a ring" in done.stderr and "nothing of the record" in done.stderr
    assert all(line.startswith("traceloop: ") for line in done.stderr.splitlines())
    assert not out.exists()


def test_a_record_that_is_being_written(tmp_path):
    run_dir = tmp_path / "record"
    run_dir.mkdir()
    text = """
async def main():
    for _ in range(100):
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
run(main())
"""
    arguments = [sys.executable, program(tmp_path, text)]
    with subprocess.Popen(
        arguments, env=environment(run_dir), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        out = tmp_path / "out"
        done = traceloop("export", run_dir, "--format", "jsonl", "-o", out)
        assert process.poll() is None
        process.communicate("\n")
    assert done.returncode == 0, done.stderr
    assert "; the run goes on\n" in done.stderr
    assert sum(json.loads(line)["type"] == "run" for line in out.read_text().splitlines()) >= 100


def test_ctrl_c_leaves_nothing(kept, tmp_path):
    code = (
        "import os, signal\n"
        "from traceloop.exporters.timelines import json_lines\n"
        "json_lines.JsonLines.finish = lambda self: os.kill(os.getpid(), signal.SIGINT)\n"
        "from traceloop.cli.main import main\n"
        "main()\n"
    )
    words = ["export", str(kept), "--format", "jsonl", "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 130, done
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_progress_on_a_terminal_only(kept, tmp_path):
    """On a terminal the line comes and goes; the kept record is too short for one, so the wait is taken out."""
    code = (
        "import sys\n"
        "from traceloop.cli import progress\n"
        "progress._AFTER_SECONDS = 0.0\n"
        "from traceloop.cli.main import main\n"
        "main()\n"
    )
    ours, theirs = pty.openpty()
    words = ["export", str(kept), "--format", "jsonl", "-o", str(tmp_path / "out")]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # the other side was closed
                break
            if not data:
                break
            shown += data
    os.close(ours)
    assert process.returncode == 0
    assert b"% of " in shown and b" records" in shown
    last = shown.rpartition(b"\x1b[K")[2]
    assert last.startswith(b"traceloop: wrote ")
