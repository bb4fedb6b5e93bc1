"""The look from outside asks for a dump where the GIL is kept, and only there: a signal that meets the interpreter
between two Python lines can end the process.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from tests.helpers.observed import Observed, environment, observe, program, start
from tests.helpers.waiting import until
from traceloop.collector.stall_probe import StallProbe
from traceloop.reading.follower import RunFollower
from traceloop.record.proc import process_start_ticks

# Stacks and causes are told by clocks: on a busy machine something else is to blame.
pytestmark = pytest.mark.timing

STARVED = """
import asyncio, os, threading, time
from traceloop import EventLoop

async def main():
    await asyncio.sleep(0.3)  # the watchdog turns
    cpu = {min(os.sched_getaffinity(0))}
    for thread in map(int, os.listdir("/proc/self/task")):
        os.sched_setaffinity(thread, cpu)
        if thread != threading.get_native_id():
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    handler()

def handler():
    end = time.thread_time() + 1.5
    while time.thread_time() < end:
        pass

with asyncio.Runner(loop_factory=EventLoop) as runner:
    runner.run(main())
"""

KEPT = """
import asyncio, time
from traceloop import EventLoop

async def main():
    await asyncio.sleep(0.3)
    handler()

def handler():
    end = time.thread_time() + 1
    while time.thread_time() < end:
        sum(range(30_000_000))

with asyncio.Runner(loop_factory=EventLoop) as runner:
    runner.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="needs Linux")
def test_a_watchdog_without_a_processor_is_no_reason(tmp_path):
    """Python code runs, and gives the GIL away when asked: the watchdog does not come to ask."""
    path = tmp_path / "starved.py"
    path.write_text(STARVED)
    observed = observe(tmp_path, path)
    assert any(info.culprit == "__main__.handler" for info in observed.slow())
    assert observed.probe.asked == 0
    assert observed.probe.refused == {}


def test_a_call_that_keeps_the_gil_is_one(tmp_path):
    path = tmp_path / "kept.py"
    path.write_text(KEPT)
    observed = observe(tmp_path, path)
    assert observed.probe.asked >= 1
    (info,) = (info for info in observed.slow() if info.culprit == "__main__.handler")
    assert "handler" in [qualname for stack in info.stacks for _, _, _, qualname in stack.frames]


def test_a_call_that_is_over_before_the_signal_goes_is_none(tmp_path, monkeypatch):
    """The collector itself may have waited for a processor between its look and the signal."""
    own = f'{{"signal": {signal.SIGUSR2}, "fd": %d, "pid": {os.getpid()}, "start_ticks": {process_start_ticks()}}}'
    monkeypatch.setattr(StallProbe, "_index", lambda *_: SimpleNamespace())
    monkeypatch.setattr("signal.pidfd_send_signal", lambda *_: sent.append(1))
    sent: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        with (tmp_path / "dump").open("w") as dump:
            (tmp_path / "dump.json").write_text(own % dump.fileno())
            folder = SimpleNamespace(path=str(tmp_path), pid=os.getpid(), start_ticks=process_start_ticks())
            for lasts in (False, True):
                sent.clear()
                process = SimpleNamespace(times=[], asked_at=0.0)
                follower = SimpleNamespace(folder=folder)
                probe = StallProbe(RunFollower(tmp_path))
                probe._ask(follower, process, 1.0, lambda lasts=lasts: lasts)
                assert (probe.asked, len(sent), probe.refused) == (int(lasts), int(lasts), {})
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize(
    "advert",
    ["[" * 4096, "[]", *(f'{{"signal": {number}, %s}}' for number in ("0", "-1", "1e999", "4000000000"))],
)
def test_an_advertisement_that_cannot_be_true_is_refused(tmp_path, advert):
    own = f'"fd": 3, "pid": {os.getpid()}, "start_ticks": {process_start_ticks()}'
    (tmp_path / "dump.json").write_text(advert.replace("%s", own))
    folder = SimpleNamespace(path=str(tmp_path), pid=os.getpid(), start_ticks=process_start_ticks())
    probe = StallProbe(RunFollower(tmp_path))
    probe._ask(SimpleNamespace(folder=folder), SimpleNamespace(), 0.0)
    assert (probe.asked, probe.refused) == (0, {"not advertised": 1})


#: A call by ctypes' PyDLL keeps the GIL, and this one sleeps; its twin gives it away.
SLEEPS = """
import asyncio, ctypes
from traceloop import EventLoop

async def main():
    await asyncio.sleep(0.3)
    handler()

def handler():
    ctypes.LIBRARY(None).usleep(2_500_000)

with asyncio.Runner(loop_factory=EventLoop) as runner:
    runner.run(main())
"""


def told_of(tmp_path, text):
    """Runs a program to its end. Its process, what was observed of it, and the lines of the look from outside."""
    path = tmp_path / "program.py"
    path.write_text(text)
    process = start(tmp_path / "run", path)
    observed = Observed(tmp_path / "run")
    lines = []
    observed.probe = StallProbe(observed.follower, lines.append)
    while process.poll() is None:
        observed.poll()
        time.sleep(0.02)
    _, errors = process.communicate()
    observed.poll(last=True)
    assert process.returncode == 0, errors
    return process, observed, lines


#: A thread that computes with the GIL given away.
HASHES = """
import hashlib, threading
threading.Thread(target=hashlib.pbkdf2_hmac, args=("sha256", b"a", b"b", 10_000_000), daemon=True).start()
"""


def test_a_call_that_sleeps_and_keeps_the_gil_is_told_beside_a_thread_that_computes(tmp_path):
    process, _, (line,) = told_of(tmp_path, HASHES + SLEEPS.replace("LIBRARY", "PyDLL"))
    assert line.startswith(f"stall: the loop's thread of process {process.pid} sleeps in a system call beside a thread")


@pytest.mark.parametrize(("library", "told"), [("PyDLL", True), ("CDLL", False)])
def test_a_call_that_sleeps_and_keeps_the_gil_is_told_while_it_lasts(tmp_path, library, told):
    process, observed, lines = told_of(tmp_path, SLEEPS.replace("LIBRARY", library))
    begun = f"stall: the loop's thread of process {process.pid} sleeps in a system call"
    over = f"stall over: a system call blocked the loop and every other thread of process {process.pid} for about "
    assert [line.startswith(each) for line, each in zip(lines, (begun, over), strict=False)] == [True] * len(lines)
    assert bool(lines) == told
    assert observed.probe.asked == 0  # a signal would end the sleep
    # The process itself names the place, at the end or while it lasts.
    assert any(info.culprit == "__main__.handler" for info in observed.slow())


#: A loop's callback waits in a thread of its own, with the GIL given away. Meanwhile the main thread keeps the GIL.
SLEEPS_BESIDE = """
import asyncio, ctypes, threading, time
from traceloop import EventLoop

over = threading.Event()

async def main():
    over.wait()

def run():
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(main())

thread = threading.Thread(target=run)
thread.start()
time.sleep(1.5)
HOLD
over.set()
thread.join()
"""


@pytest.mark.parametrize("hold", ["ctypes.PyDLL(None).usleep(1_500_000)", "sum(range(60_000_000))"])
def test_a_loop_that_sleeps_beside_a_thread_that_keeps_the_gil_is_not_the_one(tmp_path, hold):
    _, _, lines = told_of(tmp_path, SLEEPS_BESIDE.replace("HOLD", hold))
    assert not [line for line in lines if "gets the GIL" in line or "every other thread" in line]


#: It waits for a byte, with the GIL, and that is all.
KEPT_TO_THE_END = """
import asyncio, ctypes, os, sys
from traceloop import EventLoop

async def main():
    await asyncio.sleep(0.3)
    ctypes.PyDLL(None).read(os.open(sys.argv[1], os.O_RDWR), ctypes.create_string_buffer(1), 1)

with asyncio.Runner(loop_factory=EventLoop) as runner:
    runner.run(main())
"""


def test_a_stall_that_was_told_is_over_where_its_process_ends(tmp_path):
    path = tmp_path / "kept.py"
    path.write_text(KEPT_TO_THE_END)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = start(tmp_path / "run", path, pipe)
    observed = Observed(tmp_path / "run")
    lines = []
    observed.probe = StallProbe(observed.follower, lines.append)
    until(lambda: observed.poll() or lines, "the stall's line")
    pipe.write_bytes(b"x")
    process.communicate()  # the next look comes when it has ended
    observed.poll(last=True)
    assert [line.partition(":")[0] for line in lines] == ["stall", "stall over"]


KEPT_AGAIN = """
import asyncio, os, sys, time
from traceloop import EventLoop

async def main():
    await asyncio.sleep(0.3)
    for _ in range(200):
        handler()
        await asyncio.sleep(0.1)
        print(flush=True)
        if not sys.stdin.readline():
            break

def handler():
    end = time.thread_time() + 0.5
    while time.thread_time() < end:
        sum(range(30_000_000))

with asyncio.Runner(loop_factory=EventLoop) as runner:
    runner.run(main())
"""


def test_stalls_under_the_gil_are_said_once_and_then_counted(tmp_path):
    path = tmp_path / "kept_again.py"
    path.write_text(KEPT_AGAIN)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(path)], env=environment(run_dir), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    observed = Observed(run_dir)
    lines = []
    observed.probe = StallProbe(observed.follower, lines.append)
    reader = threading.Thread(target=lambda: [dumps.append(observed.probe.asked) for _ in process.stdout])
    dumps = []
    reader.start()
    try:
        # Until dumps of three stalls were asked for: it goes on with the next stall when it is told to.
        answered = 0
        while process.poll() is None:
            observed.poll()
            if len(dumps) > answered:
                answered = len(dumps)
                if len(set(dumps)) > 2:
                    break
                process.stdin.write("\n")
                process.stdin.flush()
            time.sleep(0.01)
        process.stdin.close()
        process.wait()
    finally:
        process.kill()
        reader.join()
        process.stdout.close()
    assert len(set(dumps)) > 2
    # Between two calls a busy machine may give the process time to say of one of the stalls that it has begun.
    begun, over = (line for line in lines if not line.startswith("stall: now __main__.handler ("))
    text = f"blocks the loop and every other thread of process {process.pid}: "
    assert begun.startswith("stall: __main__.handler (") and text in begun
    assert over.startswith(
        f"stall over: __main__.handler blocked the loop and every other thread of process {process.pid} for about "
    )


TWO_PARTS = """
import itertools

def in_python():
    loop, begin = asyncio.get_running_loop(), time.monotonic()
    while time.monotonic() < begin + 120 and not (UNTIL):
        pass

def under_the_gil():
    begin = time.perf_counter()
    sum(itertools.repeat(1, 1_000_000))
    sum(itertools.repeat(1, int(2_000_000 / (time.perf_counter() - begin))))

async def main():
    await asyncio.sleep(0.2)
    asyncio.get_running_loop().call_soon(handler)
    await asyncio.sleep(0)
    await asyncio.sleep(1)  # who looks from outside sees that the stall is over

def handler():
    PARTS

run(main())
"""


@pytest.mark.parametrize(
    ("parts", "until"),
    [
        ("in_python(); under_the_gil()", "loop._recorder.words[layout.W_SAID]"),
        ("under_the_gil(); in_python()", "time.monotonic() > begin + 0.5"),
    ],
)
def test_a_stall_begins_once_whether_its_process_or_the_collector_says_so(tmp_path, parts, until):
    text = TWO_PARTS.replace("PARTS", parts).replace("UNTIL", until)
    path = program(tmp_path, "from traceloop.record import layout\n" + text)
    process = start(tmp_path / "run", path, OTEL_PYTHON_TRACELOOP_ROOT_PID="1")
    observed = Observed(tmp_path / "run")
    lines = []
    observed.probe = StallProbe(observed.follower, lines.append)
    try:
        while process.poll() is None:
            observed.poll()
            time.sleep(0.01)
        lines += process.communicate()[1].splitlines()
    finally:
        process.kill()
        process.communicate()
    of_handler = [each.removeprefix("traceloop: ") for each in lines if "in_python" in each or "under_the_gil" in each]
    assert len([each for each in of_handler if each.startswith("stall: __main__")]) == 1, lines
    assert len([each for each in of_handler if each.startswith("stall over: ")]) == 1, lines
