"""What others do with handles and with the queue that they lie in: the standard loop says what is right."""

from __future__ import annotations

import asyncio
import copy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cores import CORES

ROOT = Path(__file__).resolve().parents[2]
LOOPS = {"standard": asyncio.SelectorEventLoop, **CORES}

CHAIN = """
import asyncio, sys
from tests.helpers.cores import CORES

async def main():
    loop = asyncio.get_running_loop()
    for schedule, taken in ((loop.call_soon, loop._ready), (lambda call: loop.call_later(9, call), loop._scheduled)):
        handle = None
        for _ in range(200_000):
            handle = schedule(print if handle is None else handle)
            taken.pop()
        del handle
    print("freed")

with asyncio.Runner(loop_factory=CORES[sys.argv[1]]) as runner:
    runner.run(main())
"""


@pytest.fixture(params=list(LOOPS))
def loop(request):
    loop = LOOPS[request.param]()
    yield loop
    loop.close()


@pytest.mark.parametrize("core", CORES)
def test_a_long_chain_of_handles_is_freed_without_recursion(core):
    """Each handle is the callback of the next one: freeing the last frees them all."""
    done = subprocess.run(
        [sys.executable, "-c", CHAIN, core], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "freed\n"), done.stderr


def test_who_schedules_for_each_handle_in_the_queue_comes_to_an_end(loop):
    handles = [loop.call_soon(int) for _ in range(3)]
    seen = []
    try:
        for handle in loop._ready:
            seen.append(handle)
            if len(seen) > 3:
                break
            loop.call_soon(int)
    except RuntimeError:  # a deque's, after the first
        pass
    assert seen and seen == handles[: len(seen)]


def test_a_queue_reads_as_a_deque(loop):
    handles = [loop.call_soon(int) for _ in range(3)]
    queue = loop._ready
    assert list(queue) == handles
    assert list(reversed(queue)) == handles[::-1]
    assert queue[0] is handles[0] and queue[-1] is handles[2]
    assert handles[1] in queue and len(queue) == 3
    queue.rotate(1)
    assert list(queue) == [handles[2], handles[0], handles[1]]
    queue.remove(handles[0])
    assert list(queue.copy()) == list(copy.copy(queue)) == [handles[2], handles[1]]


@pytest.mark.parametrize("kind", ["soon", "later"])
def test_a_handle_made_of_the_type_that_is_found_is_whole_or_refused(loop, kind):
    ran = []
    found = type(loop.call_soon(int) if kind == "soon" else loop.call_later(0, int))
    when = [] if kind == "soon" else [loop.time() - 1]
    try:
        handle = found(*when, ran.append, ("ran",), loop)
    except TypeError:
        # Those of the Python core have no constructor, for speed; in debug mode the other has them too.
        assert type(loop) is CORES["python"] or (type(loop) is CORES["c"] and loop.get_debug())
        return
    assert "append" in repr(handle)
    loop._ready.append(handle)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert ran == ["ran"]
