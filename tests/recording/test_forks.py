"""Forks and daemons: every process writes its own record, exactly, and nobody else's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest

from tests.helpers.cores import CORES
from tests.helpers.paths import ROOT
from tests.helpers.recorded_handles import count_handles

# The parent runs `counted` 3,000 times around a fork in the middle of its loop. What the child does is told by name.
PROGRAM = """
import asyncio, ctypes, json, os, signal, sys

how, report = sys.argv[1:]
truth = {}

def counted():
    truth[os.getpid()] = truth.get(os.getpid(), 0) + 1

async def some(rounds):
    loop = asyncio.get_running_loop()
    for _ in range(rounds):
        for _ in range(100):
            loop.call_soon(counted)
        await asyncio.sleep(0)
    await asyncio.sleep(0)

def save():
    with open(f"{report}/{os.getpid()}", "w") as file:
        json.dump(truth.get(os.getpid(), 0), file)

if how == "C":
    # The watchdog's thread is gone in the child: asked to leave the GIL to it, the interpreter would wait for ever.
    sys.setswitchinterval(1000.0)

def fork():
    if how == "C":
        return ctypes.PyDLL(None).fork()  # without the interpreter's hooks
    return os.fork()

class Left(Exception):
    pass

def leave_from_a_callback(forked):
    pid = fork()
    if pid == 0:
        sys.exit(3)
    forked.set_result(pid)

async def parent():
    await some(10)
    if how == "callback":
        forked = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(leave_from_a_callback, forked)
        pid = await forked
    else:
        pid = fork()
    if pid == 0:
        if how in ("sys.exit", "C"):
            signal.alarm(30)
            sys.exit(3)
        if how == "exception":
            raise Left
        if how == "_exit":
            os._exit(3)
        if how == "goes on":
            await some(7)
            return
        if how == "own loop":
            asyncio._set_running_loop(None)
            loop = asyncio.new_event_loop()
            loop.run_until_complete(some(7))
            loop.close()
            save()
            os._exit(3)
        if how == "daemon":
            os.setsid()
            if os.fork():
                os._exit(0)
            asyncio._set_running_loop(None)
            asyncio.new_event_loop().run_until_complete(some(7))
            save()
            os._exit(0)
    if os.waitpid(pid, 0)[1] == signal.SIGALRM:
        print("the child stood still")
        sys.exit()
    await some(20)

if how == "made before":
    loop = asyncio.new_event_loop()
    pid = os.fork()
    if pid == 0:
        loop.run_until_complete(some(7))
    else:
        os.waitpid(pid, 0)
        loop.run_until_complete(some(30))
    loop.close()
    save()
elif how == "run before":
    loop = asyncio.new_event_loop()
    loop.run_until_complete(some(10))
    pid = os.fork()
    if pid == 0:
        truth.clear()
        loop.run_until_complete(some(7))
    else:
        os.waitpid(pid, 0)
        loop.run_until_complete(some(20))
    loop.close()
    save()
else:
    try:
        asyncio.run(parent())
    except Left:
        pass
    save()
"""


@pytest.mark.parametrize(
    "how",
    ["sys.exit", "exception", "callback", "_exit", "goes on", "own loop", "daemon", "made before", "run before", "C"],
)
def test_each_process_of_a_fork_has_exactly_its_own_callbacks(traced, tmp_path, how):
    if how == "C":
        pytest.importorskip("ctypes")
    # SystemExit is lost in 3.14.10 already.
    if sys.version_info >= (3, 14 if how == "sys.exit" else 15) and how in ("sys.exit", "exception", "C"):
        pytest.skip("a task's step cannot end in the child of a fork, on the standard loop either")
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    told = tmp_path / "told"
    told.mkdir()
    words = [*traced.command, "--collector", "none", str(program), how, str(told)]
    for _ in range(5 if how == "C" else 1):  # see outcome_unless_it_stands
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        run_dir = re.search(r"the record is in (\S+);", done.stderr)[1]
        try:
            counts = {pid: count for pid, count in count_handles(run_dir, "__main__.counted").items() if count}
        finally:
            subprocess.run(["rm", "-r", run_dir], check=True)
        if not done.stdout:
            break
    truth = {int(file.name): json.loads(file.read_text()) for file in told.iterdir()}
    assert 3000 in truth.values()
    if how == "goes on":
        # The child ran on in the middle of its parent's loop, which no record of its own knows.
        truth = {pid: count for pid, count in truth.items() if count == 3000}
    assert counts == {pid: count for pid, count in truth.items() if count}


# The parent stands in one handle while its child goes on in the loop: what the parent publishes stays as it is.
PUBLISHED = """
import asyncio, os
import traceloop
from traceloop.record import layout

async def main():
    words = asyncio.get_running_loop()._recorder.words
    await asyncio.sleep(0.01)
    before = words[layout.W_RUNNING]
    child = os.fork()
    if child == 0:
        for _ in range(5):
            await asyncio.sleep(0.02)
        os._exit(0)
    os.waitpid(child, 0)
    print(before > 0.0, words[layout.W_RUNNING] == before)

with traceloop.start(collector="none", report=False):
    traceloop.run(main())
"""


@pytest.mark.parametrize("core", CORES)
def test_a_child_that_goes_on_in_the_loop_publishes_nothing_in_its_parents_name(tmp_path, core):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environ |= {"OTEL_PYTHON_TRACELOOP_CORE": core, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", PUBLISHED]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr
    for run_dir in re.findall(r"the record is in (\S+);", done.stderr):
        subprocess.run(["rm", "-r", run_dir], check=True)


CLOSED = """
import asyncio, ctypes, os, signal, sys
import traceloop
from traceloop.record import layout

sys.setswitchinterval(1000.0)  # the child has no other thread that could take the GIL

async def main():
    words = asyncio.get_running_loop()._recorder.words
    child = ctypes.PyDLL(None).fork()  # without the interpreter's hooks
    if child == 0:
        signal.alarm(30)
        sys.exit(3)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(words[layout.W_OPEN], words[layout.W_STOPPED], words[layout.W_RUNNING] > 0.0)

with traceloop.start(collector="none", report=False):
    traceloop.run(main())
"""


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="a task's step cannot end in the child of a fork")
@pytest.mark.parametrize("core", CORES)
def test_a_child_without_hooks_closes_its_own_loop_and_not_its_parents(tmp_path, core):
    """Its parent, if it was killed then, seemed to have ended well."""
    pytest.importorskip("ctypes")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OTEL_PYTHON_TRACELOOP_CORE": core, "TMPDIR": str(tmp_path)}
    done = outcome_unless_it_stands([CLOSED], environ)
    assert done.stdout == "3\n1.0 0.0 True\n", done.stderr


def outcome_unless_it_stands(words, environ):
    """What a program prints that forks without the interpreter's hooks.

    The GIL may have been waited for by chance at that moment. Nothing tells its condition, in a child that the
    interpreter does not know of, that nobody waits there: the child stands still, and an alarm ends it.
    """
    for _ in range(5):
        command = [sys.executable, "-c", *words]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
        for folder in re.findall(r"the record is in (\S+);", done.stderr):
            subprocess.run(["rm", "-r", folder], check=True)
        if not done.stdout.startswith("-14\n"):
            break
    return done


# A thread stands for the watchdog's, which a busy machine may have stopped in the middle of its work.
LOCKED = """
import asyncio, ctypes, os, signal, sys, threading
import traceloop
from traceloop.recording.watchdog import process_watchdog

sys.setswitchinterval(1000.0)  # the child has no other thread that could take the GIL

async def main():
    watchdog = process_watchdog._active
    held, over = threading.Event(), threading.Event()
    def hold():
        with watchdog._looking, watchdog._lock:
            held.set()
            over.wait()
    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    held.wait()
    child = ctypes.PyDLL(None).fork()  # without the interpreter's hooks
    if child == 0:
        signal.alarm(30)
        if sys.argv[1] == "loop":
            asyncio._set_running_loop(None)
            traceloop.run(asyncio.sleep(0))
            os._exit(3)
        sys.exit(3)
    status = os.waitpid(child, 0)[1]
    over.set()
    thread.join()
    print(os.waitstatus_to_exitcode(status))

with traceloop.start(collector="none", report=False):
    traceloop.run(main())
"""


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="a task's step cannot end in the child of a fork")
@pytest.mark.parametrize("how", ["ends", "loop"])
def test_a_child_without_hooks_waits_for_no_lock_of_its_parents_watchdog(tmp_path, how):
    pytest.importorskip("ctypes")
    if how == "loop" and sys.version_info >= (3, 14):
        pytest.skip("the child's thread is in its parent's task and enters no other, on the standard loop either")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = outcome_unless_it_stands([LOCKED, how], environ)  # our locks were held for certain
    assert done.stdout == "3\n", done.stderr
