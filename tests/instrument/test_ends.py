"""However a traced program ends: what it recorded is counted, a crash is told by name, and its record can be read."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.helpers.differential import Outcome, clean_environ, notices, outcome
from tests.helpers.traced import Traced
from tests.helpers.waiting import until

PROGRAM = """
import asyncio, ctypes, faulthandler, os, signal, sys, time

def end():
    how = sys.argv[1]
    if how == "exception": raise ValueError("mine")
    if how == "sys.exit": sys.exit(3)
    if how == "os._exit": os._exit(4)
    if how == "string_at": ctypes.string_at(0)
    if how == "sigsegv": faulthandler._sigsegv()
    if how == "abort": os.abort()
    if how == "exec": os.execv("/bin/sh", ["sh", "-c", "exit 6"])
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(10)

async def work():
    for _ in range(20):
        await asyncio.sleep(0)

async def last():
    end()

async def main():
    if sys.argv[2] == "later":
        await asyncio.gather(*[work() for _ in range(50)])
        await asyncio.sleep(0.1)
    if sys.argv[2] == "slow":
        time.sleep(0.5)
    await last()

asyncio.run(main())
"""

#: how -> status
ORDERLY = {"return": 0, "exception": 1, "sys.exit": 3, "os._exit": 4, "exec": 6, "SIGTERM": -15, "SIGHUP": -1}
CRASHES = {
    "SIGKILL": (-signal.SIGKILL, "ended without an exit record"),
    "string_at": (-signal.SIGSEGV, "crashed (Segmentation fault)"),
    "sigsegv": (-signal.SIGSEGV, "crashed (Segmentation fault)"),
    "abort": (-signal.SIGABRT, "crashed (Aborted)"),
}


@pytest.fixture
def run(traced: Traced, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Runs the program, and removes the record that its crash leaves behind."""
    records: list[str] = []

    def run(how: str, when: str, *options: str) -> Outcome:
        (tmp_path / "app.py").write_text(PROGRAM)
        result = outcome([*traced.command, "--no-metrics", *options, "app.py", how, when], tmp_path)
        records.extend(re.findall(r"`traceloop report ([^`]+)`", result.stderr))
        return result

    yield run
    for record in records:
        shutil.rmtree(record, ignore_errors=True)


def callbacks(result: Outcome) -> int:
    found = re.search(r"traceloop: 1 loop, ([\d,]+) callbacks?,", result.stderr)
    assert found, result.stderr
    return int(found.group(1).replace(",", ""))


@pytest.mark.parametrize("how", ORDERLY)
def test_an_end_that_is_no_crash_loses_nothing(how: str, run) -> None:  # type: ignore[no-untyped-def]
    result = run(how, "later")
    assert result.status == ORDERLY[how], result.stderr
    assert callbacks(result) >= 1050
    assert not re.search("without an exit record|crashed", result.stderr)


@pytest.mark.parametrize("how", ORDERLY)
def test_nor_does_one_in_the_first_iteration(how: str, run) -> None:  # type: ignore[no-untyped-def]
    result = run(how, "at once")
    assert result.status == ORDERLY[how], result.stderr
    assert callbacks(result) >= 0
    assert not re.search("without an exit record|crashed", result.stderr)


# The signal comes while the recorder holds a lock that the end of the recording wants too.
IN_THE_RECORDERS_WORK = """
import asyncio, os, signal, sys
from traceloop.recording import own_file
from traceloop.recording.watchdog import fault_dump

where, how = sys.argv[1:]
if how == "os._exit":
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(4))

def signalled(owner, name):
    inner = getattr(owner, name)

    def replaced(*arguments, **keywords):
        setattr(owner, name, inner)
        os.kill(os.getpid(), signal.SIGTERM)
        return inner(*arguments, **keywords)

    setattr(owner, name, replaced)

async def work():
    await asyncio.sleep(0)

def never_named_before():
    pass

async def main():
    await asyncio.gather(*[work() for _ in range(50)])
    if where == "naming":
        signalled(own_file, "_write")
        asyncio.get_running_loop().call_soon(never_named_before)
    await asyncio.sleep(600)

if where == "watchdog's start":
    signalled(fault_dump.FaultDump, "install")
asyncio.run(main())
"""


@pytest.mark.parametrize("where", ["watchdog's start", "naming"])
@pytest.mark.parametrize("how", ["SIGTERM", "os._exit"])
def test_a_signal_in_the_recorder_s_own_work_ends_the_program_all_the_same(
    where: str, how: str, traced: Traced, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(IN_THE_RECORDERS_WORK)
    result = outcome([*traced.command, "--no-metrics", "app.py", where, how], tmp_path)
    assert result.status == ORDERLY[how], result.stderr
    assert not re.search("without an exit record|crashed", result.stderr)


@pytest.mark.parametrize("how", CRASHES)
def test_a_crash_is_told_and_what_was_recorded_is_counted(how: str, run) -> None:  # type: ignore[no-untyped-def]
    status, word = CRASHES[how]
    result = run(how, "later")
    assert result.status == status, result.stderr
    assert callbacks(result) >= 1050
    (line,) = [line for line in notices(result) if word in line]
    assert re.search(r"its loop MainThread had not polled since \d\d:\d\d:\d\d", line)
    assert "`traceloop report " in line
    if how != "SIGKILL":
        assert "__main__.main, in __main__.end (" in line


@pytest.mark.parametrize("how", CRASHES)
def test_a_crash_in_the_first_iteration(how: str, run) -> None:  # type: ignore[no-untyped-def]
    status, word = CRASHES[how]
    result = run(how, "at once")
    assert result.status == status, result.stderr
    (line,) = [line for line in notices(result) if word in line]
    assert "had not polled since" in line
    if how != "SIGKILL":
        assert "__main__.main, in __main__.end (" in line
    assert callbacks(result) >= 0


def test_a_stall_that_sigkill_ended_is_named_by_what_the_watchdog_saw(run) -> None:  # type: ignore[no-untyped-def]
    result = run("SIGKILL", "slow")
    (line,) = [line for line in notices(result) if "without an exit record" in line]
    assert re.search(r"had not polled since \d\d:\d\d:\d\d, and ran __main__.main", line)


@pytest.mark.parametrize("how", ["SIGKILL", "sigsegv"])
def test_the_record_of_a_crash_gives_the_same_text_again(how: str, run, traced: Traced) -> None:  # type: ignore[no-untyped-def]
    result = run(how, "later", "--report")
    said = [line.removeprefix("traceloop: ") for line in result.stderr.splitlines()]
    at_exit = said[next(index for index, line in enumerate(said) if "`traceloop report " in line) :]
    found = re.search(r"; `traceloop report ([^`]+)` shows its record", result.stderr)
    assert found
    # Who reads the record is not told how to read it.
    at_exit[0] = at_exit[0].removesuffix(found[0])
    again = subprocess.run(
        [traced.command[0], "report", found.group(1)], capture_output=True, text=True, env=clean_environ(), check=True
    )
    assert [line.removeprefix("traceloop: ").rstrip() for line in again.stdout.splitlines()] == at_exit


def test_an_exec_that_fails_is_no_excuse_for_a_later_crash(traced: Traced, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import asyncio, os\n"
        "async def main():\n"
        "    try:\n        os.execv('/nonexistent', ['x'])\n    except OSError:\n        pass\n"
        "    await asyncio.sleep(0.3)\n    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    result = outcome([*traced.command, "--no-metrics", "app.py"], tmp_path)
    (line,) = [line for line in notices(result) if "without an exit record" in line]
    shutil.rmtree(re.findall(r"`traceloop report ([^`]+)`", line)[0], ignore_errors=True)


def test_who_reads_the_output_of_a_daemon_s_starter_sees_its_end(traced: Traced, tmp_path: Path) -> None:
    """The collector holds a piped stderr, to tell of a crash on it, but no longer than the program does."""
    (tmp_path / "app.py").write_text(
        "import asyncio, os, time\n"
        "asyncio.run(asyncio.sleep(0.001))\n"
        "if os.fork():\n    os._exit(0)\n"
        "for descriptor in range(3):\n    os.close(descriptor)\n"
        "open('pid.new', 'w').write(str(os.getpid()))\nos.rename('pid.new', 'pid')\n"
        "asyncio.run(asyncio.sleep(600))\n"
    )
    result = outcome([*traced.command, "--no-metrics", "app.py"], tmp_path)
    assert result.status == 0 and "<timed out>" not in result.stderr
    pid = int(until((tmp_path / "pid").exists) and (tmp_path / "pid").read_text())
    os.kill(pid, signal.SIGTERM)  # it was still there


def test_a_program_that_closes_its_stderr_lets_its_reader_go(traced: Traced, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import asyncio, os\nos.close(1)\nos.close(2)\nasyncio.run(asyncio.sleep(600))\n"
    )
    process = subprocess.Popen(
        [*traced.command, "--no-metrics", "app.py"],
        cwd=tmp_path, env=clean_environ(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        process.stdout.read()
        assert process.poll() is None
    finally:
        process.terminate()
        process.communicate(timeout=120)


def test_a_program_that_goes_on_as_an_interpreter_without_traceloop_is_told_of(traced: Traced, tmp_path: Path) -> None:
    """A pex with an environment of its own does; nothing of ours runs there, and nothing was said."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    python = str(bare / "bin" / "python")
    text = (
        f"import os, sys\nif sys.prefix != {str(bare)!r}:\n    os.execv({python!r}, [{python!r}, __file__])\n"
        "import asyncio\nasyncio.run(asyncio.sleep(0.01))\nprint('ran', flush=True)\nsys.stdin.read()\n"
    )
    (tmp_path / "app.py").write_text(text)
    with (tmp_path / "stderr").open("wb") as stderr:
        command = [*traced.command, "--metrics-port", "0", "app.py"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=tmp_path, env=clean_environ(), stderr=stderr, **pipes)  # type: ignore[call-overload]
        assert process.stdout.readline() == b"ran\n"
        # The collector has begun to look.
        url = until(lambda: re.search(r"http://\S+/metrics", (tmp_path / "stderr").read_text()))[0]
        urllib.request.urlopen(url, timeout=120).close()
        process.communicate(b"")
    assert process.returncode == 0
    line = until(lambda: re.search("nothing was recorded: .*\n", (tmp_path / "stderr").read_text()))[0]
    assert "went on by exec in an interpreter without traceloop" in line and "bin/python -m pip install " in line


# A signal comes while the process ends, and the program's handler raises.
IN_THE_LAST_FLUSH = """
import asyncio, signal, sys
from traceloop.recording import at_exit

flush = at_exit.flush

def handler(number, frame):
    raise RuntimeError("mine")

def interrupted():
    at_exit.flush = flush
    signal.raise_signal(signal.SIGUSR1)

signal.signal(signal.SIGUSR1, handler)
asyncio.run(asyncio.sleep(0))
at_exit.flush = interrupted
if sys.argv[1] == "signal":
    async def end():
        signal.raise_signal(signal.SIGTERM)
    asyncio.run(end())
"""


@pytest.mark.parametrize("how", ["return", "signal"])
def test_what_a_handler_raises_at_the_end_is_shown_as_python_shows_it(  # type: ignore[no-untyped-def]
    how: str, traced: Traced, tmp_path: Path
):
    (tmp_path / "app.py").write_text(IN_THE_LAST_FLUSH)
    result = outcome([*traced.command, "--no-metrics", "app.py", how], tmp_path)
    if how == "signal":
        assert result.status == -signal.SIGTERM
    else:
        assert result.status == 0
        assert "Exception ignored in atexit callback" in result.stderr and "RuntimeError: mine" in result.stderr
    assert "may be missing" not in result.stderr
