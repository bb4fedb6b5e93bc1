"""Where our lines go: to the root's stderr, never into a stranger's, and never at the program's cost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest

import traceloop.notices
from tests.helpers.cores import CORES
from tests.helpers.differential import clean_environ, notices, outcome
from tests.helpers.paths import ROOT
from tests.helpers.traced import Traced
from traceloop.cli.runs import read
from traceloop.record import files
from traceloop.settings import RUN_DIR

SLOW = """
import asyncio, time
async def main():
    time.sleep(0.6)
asyncio.run(main())
"""
PARENT = """
import subprocess, sys
child = subprocess.run([sys.executable, "child.py"], capture_output=True, text=True)
print(repr(child.stderr), child.returncode)
"""


def test_a_childs_captured_stderr_has_no_line_of_ours(traced: Traced, tmp_path: Path) -> None:
    """A parent that reads its child's stderr may take any line for a failure. The root's stderr has it instead."""
    (tmp_path / "child.py").write_text(SLOW)
    (tmp_path / "app.py").write_text(PARENT)
    result = outcome([*traced.command, "--no-metrics", "app.py"], tmp_path)
    assert (result.status, result.stdout) == (0, "'' 0\n")
    stalls = [line for line in notices(result) if "stall: __main__.main (" in line and "child.py:4" in line]
    assert len(stalls) == 1, result.stderr


def test_a_child_with_the_roots_stderr_speaks_for_itself(traced: Traced, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(SLOW)
    (tmp_path / "app.py").write_text(PARENT.replace(", capture_output=True", ""))
    # Nobody reads the record: what is said, the child has said.
    result = outcome([*traced.command, "--collector", "none", "app.py"], tmp_path)
    assert result.stdout == "None 0\n"
    assert [line for line in notices(result) if "stall: __main__.main (" in line], result.stderr
    for folder in re.findall(r"the record is in (\S+);", result.stderr):
        shutil.rmtree(folder)


def test_without_a_collector_the_record_is_written_where_it_is_to_be_kept(traced: Traced, tmp_path: Path) -> None:
    """Nobody is there to copy it: it stayed in shared memory."""
    (tmp_path / "app.py").write_text("import asyncio\nasyncio.run(asyncio.sleep(0.01))\n")
    result = outcome([*traced.command, "--collector", "none", "--record", "kept", "app.py"], tmp_path)
    (kept,) = (tmp_path / "kept").iterdir()
    assert notices(result) == [f"traceloop: the record is in {kept}; `traceloop report {kept}` reads it"]
    statistics, crashes, problems = read(str(kept))
    assert (crashes, problems) == ([], [])
    assert sum(loop.callbacks.runs for loop in statistics.loops()) > 3


def test_the_lines_of_others_are_bounded(traced: Traced, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(
        "import asyncio\nfrom traceloop import notices\n"
        "async def main():\n    for number in range(1000):\n        notices.say(f'line {number}')\n"
        "        await asyncio.sleep(0.001)\n"
        "asyncio.run(main())\n"
    )
    (tmp_path / "app.py").write_text(PARENT)
    result = outcome([*traced.command, "--no-metrics", "app.py"], tmp_path)
    assert (result.status, result.stdout) == (0, "'' 0\n")
    assert 1 <= len([line for line in notices(result) if line.startswith("traceloop: line ")]) <= 60


@pytest.mark.parametrize("how", ["/dev/full", "closed pipe", "closed pipe and SIGPIPE"])
def test_a_stderr_that_cannot_be_written_harms_nothing(how: str, traced: Traced, tmp_path: Path) -> None:
    """The program was not started (status 1) where there was a notice to be said, or ended by SIGPIPE."""
    sigpipe = "import signal; signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n" if "SIGPIPE" in how else ""
    (tmp_path / "app.py").write_text(sigpipe + SLOW + "print('ran')\n")
    if how == "/dev/full":
        stderr = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, stderr = os.pipe()
        os.close(reader)
    try:
        # A notice before the program, the stall's within it, the summary behind it.
        done = subprocess.run(
            [*traced.command, "--metrics-port", "0", "app.py"],
            cwd=tmp_path,
            env=clean_environ({"OTEL_PYTHON_TRACELOOP_SPAN": "1"}),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=120,
        )
    finally:
        os.close(stderr)
    assert (done.returncode, done.stdout) == (0, "ran\n")


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("mode", ["w", "a"])
def test_in_a_file_no_line_of_ours_continues_one_of_the_programs(
    mode: str, core: str, traced: Traced, tmp_path: Path
) -> None:
    half = "import sys\nprint('half a line', end='', file=sys.stderr, flush=True)\n"
    (tmp_path / "app.py").write_text(half + SLOW + half)
    with open(tmp_path / "errors", mode) as errors:
        errors.write("before\n")
        errors.flush()
        done = subprocess.run(
            [*traced.command, "--no-metrics", "app.py"],
            cwd=tmp_path,
            env=clean_environ({"OTEL_PYTHON_TRACELOOP_CORE": core}),
            stderr=errors,
            timeout=120,
        )
    assert done.returncode == 0
    first, half_line, *stalls, other_half, summary = (tmp_path / "errors").read_text().splitlines()
    assert (first, half_line, other_half) == ("before", "half a line", "half a line")
    assert stalls and all(line.startswith("traceloop: stall") for line in stalls)
    assert summary.startswith("traceloop: 1 loop, ")


def test_a_refusal_that_cannot_be_said_has_its_status(traced: Traced, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*traced.command, "--no-such-option", "app.py"], cwd=tmp_path, stderr=full, timeout=120)
    assert done.returncode == 2


def test_a_line_is_said_without_control_characters() -> None:
    code = "from traceloop import notices; notices.say('a\\x1b[2J\\rtraceloop: b\\n\\nc')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "traceloop: a\\x1b[2J\\rtraceloop: b\ntraceloop: \ntraceloop: c\n"


def test_lines_that_were_not_kept_are_counted_across_an_exec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / files.WAKE)
    collector = os.open(tmp_path / files.WAKE, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setenv(RUN_DIR, str(tmp_path))
    monkeypatch.setattr(traceloop.notices, "_held", deque())
    for number in range(103):
        traceloop.notices._hold(f"traceloop: line {number}\n")
    traceloop.notices.hand_over_held()
    lines = os.read(collector, 1 << 16).decode().splitlines()
    os.close(collector)
    assert lines == [*(f"line {number}" for number in range(100)), "and 3 more lines, which were not kept"]


def test_a_lock_of_the_programs_on_its_stderr_stays(tmp_path: Path) -> None:
    """A process that closes any descriptor of a file loses its POSIX locks on it."""
    code = """
import fcntl, subprocess, sys
from traceloop import notices

asks = '''
import fcntl
with open("errors", "r+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
'''
fcntl.lockf(2, fcntl.LOCK_EX)
sys.stderr.write("half a line")
notices.say("a line")
print(subprocess.run([sys.executable, "-c", asks], stderr=subprocess.PIPE, text=True).stderr.splitlines()[-1])
"""
    with open(tmp_path / "errors", "w") as errors:
        command = [sys.executable, "-c", code]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert done.stdout.startswith("BlockingIOError"), done.stdout
    assert "a line" in (tmp_path / "errors").read_text()
