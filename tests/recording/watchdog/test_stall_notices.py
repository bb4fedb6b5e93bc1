"""The lines that a process says of its own stalls."""

import os
import re
import subprocess
import sys

import pytest

import traceloop.notices
from tests.helpers.observed import observe
from traceloop.record.holders import Holder
from traceloop.recording.watchdog import stall_notices
from traceloop.recording.watchdog.stall_notices import StallNotices

# Stacks and causes are told by clocks: on a busy machine something else is to blame.
pytestmark = pytest.mark.timing

PROGRAM = """
import asyncio, time
from traceloop import EventLoop
async def main():
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.05)
    loop.call_soon(time.sleep, 0.3)
    await asyncio.sleep(0.05)
with asyncio.Runner(loop_factory=EventLoop) as runner:
    runner.run(main())
"""


def test_a_c_function_that_the_loop_calls_has_no_place(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    observed = observe(tmp_path, path, OTEL_PYTHON_TRACELOOP_ROOT_PID="1")
    assert observed.errors.startswith("traceloop: stall: time.sleep blocks the loop of MainThread in process ")


FORKS = """
import asyncio, os, time
from traceloop import EventLoop
async def main():
    asyncio.get_running_loop().slow_callback_duration = 1.0
    await asyncio.sleep(0.2)
    time.sleep(0.8)  # the watchdog takes samples of this run
    pid = os.fork()  # the watchdog is gone until the loop flushes
    if not pid:
        time.sleep(0.8)
        os._exit(0)
    os.waitpid(pid, 0)
    await asyncio.sleep(0.2)
with asyncio.Runner(loop_factory=EventLoop) as runner:
    runner.run(main())
"""


def test_a_stall_is_over_no_sooner_than_it_was_last_seen(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(FORKS)
    errors = observe(tmp_path, path, OTEL_PYTHON_TRACELOOP_ROOT_PID="1").errors
    begun = re.findall(r"stall: __main__.main .* ([0-9.]+) s so far", errors)
    over = re.findall(r"stall over: __main__.main blocked .* about ([0-9.]+) s", errors)
    assert begun and len(begun) == len(over), errors
    assert all(float(first) <= float(last) for first, last in zip(begun, over, strict=True)), errors


@pytest.mark.parametrize("others", [(), ("p-2-3",)])
def test_lines_after_the_first_say_which_process_where_there_are_several(monkeypatch, tmp_path, others):
    monkeypatch.setattr(stall_notices, "in_run", lambda: True)
    me = f"p-{os.getpid()}-7"
    for name in (me, f"{me}-2", *others):  # the second is the same process after an exec
        (tmp_path / name).mkdir()
    notices = StallNotices(str(tmp_path))
    assert notices.started("app.handle", "app.load", "", 0.1, 0, "MainThread")
    notices.goes_on("app.handle", "app.parse", "app.py:4", 0.2, "MainThread")
    notices.waits_for(Holder("lock", "worker", ("app.py", 3, "app", "hold")), 0.3, "MainThread")
    notices.ended({"app.parse": 0.3}, 0.3, "MainThread")
    notices.ended({"app.load": 0.1, "app.parse": 0.2}, 0.3, "MainThread")
    which = f"the loop of MainThread in process {os.getpid()}"
    that, the = (which, which) if others else ("that loop", "the loop")
    _, goes_on, waits, ended, parts = notices._lines
    assert goes_on == f"stall: now app.parse (app.py:4) within app.handle blocks {that}: 0.20 s so far"
    assert waits.startswith(f"stall: {that} is blocked for 0.30 s so far: it ")
    assert ended == f"stall over: app.parse blocked {the} for about 0.30 s"
    assert parts == f"stall over: {the} was blocked for about 0.30 s: 0.10 s by app.load, 0.20 s by app.parse"


LIBRARY = """
import asyncio, logging, time, traceloop
logging.basicConfig(format="%(name)s %(message)s")
async def main():
    await asyncio.sleep(0.01)
    time.sleep(0.4)
    await asyncio.sleep(0.01)
def alone():
    with asyncio.Runner(loop_factory=traceloop.new_event_loop) as runner:
        runner.run(main())
"""


def run_program(text):
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120, check=True)


def test_a_loop_without_a_run_says_nothing():
    done = run_program(LIBRARY + "alone(); traceloop.run(main())")
    assert done.stdout + done.stderr == ""


def test_a_loop_in_a_run_that_the_program_begins_says_its_stalls():
    done = run_program(LIBRARY + "alone(); traceloop.start(collector='thread', metrics=False, spans='off'); alone()")
    assert done.stderr.count("stall: time.sleep") + done.stderr.count("stall: __main__.main") == 1


def test_a_kind_is_said_once_and_then_counted(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(stall_notices, "monotonic", lambda: clock[0])
    monkeypatch.setattr(stall_notices, "in_run", lambda: True)
    notices = StallNotices()

    def stalls(culprit):
        return notices.started("app.handle", culprit, "app.py:3", 0.1, 2, "MainThread")

    assert stalls("app.load") and stalls("app.parse")
    for _ in range(300):
        clock[0] += 0.09
        assert not stalls("app.load")
    clock[0] += 5.0
    assert stalls("app.load") and not stalls("app.load")
    assert len(notices._lines) == 3
    assert notices._lines[0].endswith(": 0.10 s so far, 2 callbacks waiting")
    assert notices._lines[2].endswith(", 301 times in the last 32 s")
    assert "not logged" not in notices._lines[2]


def test_many_kinds_are_bounded_too(monkeypatch):
    monkeypatch.setattr(stall_notices, "monotonic", lambda: 1000.0)
    monkeypatch.setattr(stall_notices, "in_run", lambda: True)
    notices = StallNotices()
    said = [notices.started("app.handle", f"app.f{n}", "", 0.1, 0, "MainThread") for n in range(1000)]
    assert sum(said) == traceloop.notices.MAX_STALLS_A_MINUTE
