"""Which signal is used to ask for stacks: one that nobody else has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.helpers.cores import CORES, NATIVE
from tests.helpers.paths import ROOT
from traceloop.recording.own_file import OwnFile
from traceloop.recording.watchdog.fault_dump import NEEDS_GUARD, chosen_signal

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="real-time signals are Linux's")


@pytest.mark.parametrize("text", ["off", "OFF", "0", "none", "false", "no", " off "])
def test_none_at_all(text: str) -> None:
    assert chosen_signal(text) == 0


def test_the_one_that_is_named() -> None:
    assert chosen_signal("SIGRTMIN") == signal.SIGRTMIN
    assert chosen_signal("sigrtmin+3") == signal.SIGRTMIN + 3
    assert chosen_signal(str(int(signal.SIGRTMIN) + 4)) == signal.SIGRTMIN + 4
    assert chosen_signal("SIGUSR2") == signal.SIGUSR2


@pytest.mark.parametrize("text", ["SIGNOTHING", "SIGRTMIN+x", "SIGRTMIN+90", "9999", "-3", "what", "SIG_IGN", "sig"])
def test_what_names_no_signal_chooses_none(text: str) -> None:
    assert chosen_signal(text) == 0


def test_a_signal_that_the_program_handles_is_left_to_it() -> None:
    number = signal.SIGRTMIN + 6
    before = signal.signal(number, lambda *_: None)
    try:
        assert chosen_signal(str(int(number))) == 0
    finally:
        signal.signal(number, before)
    assert chosen_signal(str(int(number))) == number


def test_by_itself_it_takes_a_free_one_of_the_middle() -> None:
    first = chosen_signal("")
    assert signal.SIGRTMIN + 8 < first <= signal.SIGRTMAX - 13
    before = signal.signal(first, signal.SIG_IGN)
    try:
        assert chosen_signal("") == first - 1
    finally:
        signal.signal(first, before)


def test_handlers_of_c_code_and_blocked_signals_are_seen() -> None:
    text = """
import ctypes, signal
from traceloop.recording.watchdog.fault_dump import chosen_signal
first = chosen_signal("")
libc = ctypes.CDLL(None)
libc.signal(first, 1)  # SIG_IGN, unknown to Python
assert chosen_signal("") == first - 1
signal.pthread_sigmask(signal.SIG_BLOCK, {first - 1})
assert chosen_signal("") == first - 2
"""
    subprocess.run([sys.executable, "-c", text], check=True, timeout=120)


ENDS_LONG = """
import asyncio, functools, json, os, signal, sys
from pathlib import Path
from traceloop import EventLoop

folder = Path(os.environ["OTEL_PYTHON_TRACELOOP_RUN_DIR"])

async def holds(freed):
    kept = freed()

async def main():
    while not (adverts := list(folder.glob("p-*/dump.json"))):
        await asyncio.sleep(0.01)
    number = json.loads(adverts[0].read_text())["signal"]
    class Freed:  # C code runs while it is freed, and meanwhile the collector asks for stacks
        __del__ = staticmethod(functools.partial(signal.raise_signal, number))
    for _ in range(3):
        await asyncio.create_task(holds(Freed))
    def takes():
        signal.raise_signal(number)
    takes()
    (dump,) = folder.glob("p-*/dump")
    print(" in takes" in dump.read_text())

with asyncio.Runner(loop_factory=EventLoop) as runner:
    runner.run(main())
"""


@pytest.mark.skipif(NEEDS_GUARD and NATIVE is None, reason="no dumps on CPython 3.13.0 without the C core")
@pytest.mark.parametrize("core", CORES)
def test_a_dump_while_a_coroutine_frees_what_it_held_ends_no_process(tmp_path, core: str) -> None:
    """CPython 3.13.0's faulthandler crashes there."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OTEL_PYTHON_TRACELOOP_RUN_DIR": str(tmp_path)}
    environ["OTEL_PYTHON_TRACELOOP_CORE"] = core
    done = subprocess.run([sys.executable, "-c", ENDS_LONG], env=environ, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


CANNOT_OPEN = """
import asyncio
from traceloop import EventLoop
from traceloop.recording.watchdog import fault_dump

fault_dump.OwnFile = None
for _ in range(3):
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(asyncio.sleep(0))
print("ran")
"""


@pytest.mark.parametrize("core", CORES)
def test_a_fault_of_ours_by_which_no_crash_would_leave_stacks_is_reported_once(tmp_path, core: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OTEL_PYTHON_TRACELOOP_RUN_DIR": str(tmp_path)}
    environ["OTEL_PYTHON_TRACELOOP_CORE"] = core
    done = subprocess.run([sys.executable, "-c", CANNOT_OPEN], env=environ, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert done.stderr.count("traceloop: the stacks of a crash would not be kept; the application runs on") == 1


# -- a file of ours among the program's descriptors


def test_a_descriptor_that_is_another_files_by_now_is_neither_written_nor_closed(tmp_path) -> None:
    ours = OwnFile(str(tmp_path / "ours"))
    number = ours.fileno()
    assert number >= 200
    assert ours.append(b"1\n")
    os.close(number)
    assert ours.size() is None and ours.read(0, 10) == b""
    with open(tmp_path / "theirs", "w+b") as theirs:
        os.dup2(theirs.fileno(), number)
        assert ours.size() is None
        assert ours.append(b"2\n")  # it is opened again
        assert ours.fileno() != number
        ours.close()
        os.write(number, b"theirs\n")
        os.close(number)
    assert (tmp_path / "theirs").read_bytes() == b"theirs\n"
    assert (tmp_path / "ours").read_bytes() == b"1\n2\n"


def test_a_file_that_cannot_be_opened_again_is_left_alone(tmp_path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    ours = OwnFile(str(folder / "ours"))
    os.close(ours.fileno())
    (folder / "ours").unlink()
    folder.rmdir()
    assert not ours.append(b"1\n")
    ours.close()
