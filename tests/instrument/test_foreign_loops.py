"""Libraries that turn the loop by themselves, or put loops of their own upon ours."""

import asyncio
import re
import subprocess

import pytest

from traceloop.loop.event_loop import EventLoop

# What nest_asyncio does to a loop's class, in little: iterations of its own, which may nest.
NESTING = """
import asyncio, heapq, sys, threading, time
from asyncio import events

def swap_current_task(loop, task):
    if sys.version_info >= (3, 14):  # the dictionary is out of use; before, this raises for a loop that is not in it
        return asyncio.tasks._swap_current_task(loop, task)
    before = asyncio.tasks._current_tasks.pop(loop, None)
    if task is not None:
        asyncio.tasks._current_tasks[loop] = task
    return before

def run_once(self):
    ready, scheduled = self._ready, self._scheduled
    while scheduled and scheduled[0]._cancelled:
        heapq.heappop(scheduled)
    timeout = 0 if ready else max(scheduled[0]._when - self.time(), 0) if scheduled else None
    self._process_events(self._selector.select(timeout))
    end = self.time() + self._clock_resolution
    while scheduled and scheduled[0]._when < end:
        ready.append(heapq.heappop(scheduled))
    for _ in range(len(ready)):
        if ready and not (handle := ready.popleft())._cancelled:
            task = swap_current_task(self, None)
            try:
                handle._run()
            finally:
                swap_current_task(self, task)

def run_until_complete(self, future):
    self._thread_id = threading.get_ident()
    before = events._get_running_loop()
    events._set_running_loop(self)
    try:
        future = asyncio.ensure_future(future, loop=self)
        while not future.done():
            self._run_once()
        return future.result()
    finally:
        events._set_running_loop(before)
        if before is None:
            self._thread_id = None

loop = asyncio.new_event_loop()
type(loop)._run_once = run_once
type(loop).run_until_complete = run_until_complete

async def step(number):
    for _ in range(number):
        await asyncio.sleep(0.0001)

def hold():
    time.sleep(1.5)

async def main():
    await step(200)
    other = loop.create_task(step(5))
    await asyncio.sleep(0)
    loop.run_until_complete(step(20))  # inside of a handle
    assert other.done()  # it began outside and ended in there
    hold()
    return "done"

print(loop.run_until_complete(main()))
"""


def reported(traced, folder, text, *options):
    """Runs the program with a report at its end."""
    path = folder / "program.py"
    path.write_text(text)
    return subprocess.run(
        [*traced.command, "--no-metrics", "--report", *options, str(path)], capture_output=True, text=True, timeout=120
    )


def test_iterations_of_somebody_elses(traced, tmp_path):
    # On a busy machine the nested iterations take longer than the usual threshold, and would be the culprit.
    done = reported(traced, tmp_path, NESTING, "--slow-threshold", "1")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    # Its first step and one after each sleep; and those of the others, inside the last of these: callbacks by time.
    assert re.search(r"^ +__main__\.main +202 ", done.stderr, re.MULTILINE), done.stderr
    assert re.search(r"^ +__main__\.step +27 ", done.stderr, re.MULTILINE), done.stderr
    assert re.search(r"^ +ending a sleep +225 ", done.stderr, re.MULTILINE), done.stderr
    # The slow one, with whose fault it was, why (measured, although nothing stops the loop), and how often.
    assert re.search(r"program\.py:\d+ in hold blocks the loop: it sleeps\n +[\d.]+ s once", done.stderr), done.stderr
    assert "tasks: 3 made, 3 ended" in " ".join(done.stderr.split())
    assert "blocks the loop" in done.stderr


def test_a_loop_upon_ours_that_has_timers_of_its_own(traced):
    code = """
import asyncio
class Untouchable:
    def clear(self): pass
class Loop(asyncio.SelectorEventLoop):
    def __init__(self):
        super().__init__()
        self._scheduled = Untouchable()
loop = Loop()
print(type(loop._scheduled).__name__)
loop.close()
"""
    done = subprocess.run([*traced.command, "--no-metrics", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "Untouchable\n"), done.stderr


@pytest.mark.parametrize("module", ["traceloop", "traceloop.loop.event_loop"])
def test_tasks_are_named_as_without_us(traced, module):
    code = f"""
import asyncio, {module}
async def main(): print(asyncio.current_task().get_name())
asyncio.run(main())
"""
    done = subprocess.run([*traced.command, "--no-metrics", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "Task-1\n"


def test_a_clock_that_a_test_puts_on_a_running_loop_is_no_stall(traced):
    """looptime does so: the loop's times are the test's own for a while."""
    code = """
import asyncio, time

class Loop(asyncio.SelectorEventLoop):
    fake = None
    def time(self):
        return super().time() if self.fake is None else self.fake

async def main():
    loop.fake = 0.0
    await asyncio.sleep(0)
    for _ in range(5):
        time.sleep(0.2)
        await asyncio.sleep(0)
    loop.fake = None
    await asyncio.sleep(0.01)

loop = Loop()
loop.run_until_complete(main())
loop.close()
print("done")
"""
    command = [*traced.command, "--no-metrics", "--slow-threshold", "0.1", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "so far" not in done.stderr, done.stderr


def test_a_subclass_of_ours_that_another_library_drives_is_named(traced):
    """A Qt loop, in little: it runs its callbacks by itself."""
    code = """
import asyncio

class Loop(asyncio.SelectorEventLoop):
    def __init__(self):
        super().__init__()
        self.calls = []
    def call_soon(self, callback, *args, context=None):
        handle = asyncio.Handle(callback, args, self, context)
        self.calls.append(handle)
        return handle
    def run_until_complete(self, future):
        asyncio._set_running_loop(self)
        task = asyncio.ensure_future(future, loop=self)
        while not task.done():
            self.calls.pop(0)._run()
        asyncio._set_running_loop(None)
        return task.result()

async def main():
    await asyncio.sleep(0)
    return "done"

class Plain(asyncio.SelectorEventLoop):
    pass

loop = Plain()
asyncio._set_running_loop(loop)  # by hand: it ran nothing of its own
asyncio._set_running_loop(None)
loop.run_until_complete(main())
loop.close()
loop = Loop()
print(loop.run_until_complete(main()))
loop.close()
"""
    done = subprocess.run([*traced.command, "--no-metrics", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "untraced: __main__.Loop" in done.stderr, done.stderr
    assert "__main__.Plain" not in done.stderr


# A loop of the program's own that looks at each iteration, as profilers and bridges to other loops do.
COUNTING = """
import asyncio, time

class Loop(asyncio.SelectorEventLoop):
    turns = 0

    def _run_once(self):
        self.turns += 1
        super()._run_once()

async def step(number):
    for _ in range(number):
        await asyncio.sleep(0.0001)
    await asyncio.sleep(0.5)

async def hold():
    time.sleep(0.3)

for _ in range(2):
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(step(100))
        runner.run(hold())
        print(runner.get_loop().turns > 100)
"""


def test_a_subclass_that_has_an_iteration_around_ours_is_recorded(traced, tmp_path):
    done = reported(traced, tmp_path, COUNTING)
    assert (done.returncode, done.stdout) == (0, "True\nTrue\n"), done.stderr
    assert re.search(r"__main__\.step +204 ", done.stderr), done.stderr
    assert re.search(r"program\.py:\d+ in hold blocks the loop: it sleeps\n", done.stderr), done.stderr
    assert re.search(r"^ +__main__\.hold +2 ", done.stderr, re.MULTILINE), done.stderr
    # It waits for a second in all, and that counts as such.
    idle = re.search(r"active (\S+) (m?s) .*, idle (\S+) s", done.stderr)
    assert idle, done.stderr
    assert float(idle[3]) > 0.9


def test_a_timer_cancelled_in_debug_mode_that_somebody_else_moved():
    loop = EventLoop()
    try:
        loop.set_debug(True)
        timer = loop.call_later(10, print)
        timer.cancel()
        loop._ready.append(timer)
        handle = loop.call_soon(str)
        loop._ready.remove(handle)
        handle._run()
        loop.set_debug(False)
        loop.run_until_complete(asyncio.sleep(0))
        assert not loop._recorder._broken
    finally:
        loop.close()
