"""What happens between two runs: whose time it is, when records are written, who runs a handle."""

from __future__ import annotations

import asyncio
import functools
import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.helpers.cores import CORES
from tests.helpers.written_batches import note_batches
from traceloop.record import layout

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.parametrize("core", CORES)


class Written:
    """What a loop's recorder writes into its ring, as triples."""

    def __init__(self, loop: Any, patch: pytest.MonkeyPatch) -> None:
        self.doubles: list[float] = []
        self._loop = loop

        def note(ring: Any, records: list[float], text: Any) -> None:
            if ring is loop._recorder.ring:
                self.doubles += records

        note_batches(patch, note)

    def runs(self) -> dict[str, list[tuple[float, float]]]:
        """When the runs began and ended, by the name of the function, s."""
        found: dict[str, list[tuple[float, float]]] = {}
        sites = self._loop._recorder.process.site_log.sites
        triples = list(zip(self.doubles[::3], self.doubles[1::3], self.doubles[2::3], strict=True))
        for (start, ident, _), (end, _, _) in itertools.pairwise(triples):
            if ident > 0:
                name = sites[int(ident) % layout.SITE_LIMIT].qualname.rpartition(".")[2]
                found.setdefault(name, []).append((start, end))
        return found


@pytest.fixture
def loop(core):
    loop = CORES[core]()
    loop.run_until_complete(asyncio.sleep(0))
    yield loop
    loop.close()


class Heavy:
    freed: ClassVar[list[tuple[float, float]]] = []

    def __del__(self):
        begun = now = time.monotonic()
        while now < begun + 0.01:
            now = time.monotonic()
        self.freed.append((begun, now))


@pytest.mark.parametrize("held_by", ["argument", "callback", "task"])
def test_what_a_run_leaves_is_freed_in_its_time(loop, monkeypatch, held_by):
    def guilty(*_: object) -> None:
        pass

    def innocent() -> None:
        pass

    async def waiting(heavy: Heavy) -> None:
        await asyncio.sleep(0)

    def put_in() -> None:
        if held_by == "argument":
            loop.call_soon(guilty, Heavy())
        elif held_by == "callback":
            loop.call_soon(functools.partial(guilty, Heavy()))
        else:
            tasks.append(loop.create_task(waiting(Heavy())))
            tasks.clear()
        for _ in range(3):
            loop.call_soon(loop.call_soon, innocent)

    tasks: list[Any] = []
    written = Written(loop, monkeypatch)
    loop.call_soon(put_in)
    loop.call_later(0.2, loop.stop)
    loop.run_forever()
    runs = written.runs()
    name = "waiting" if held_by == "task" else "guilty"
    begun, over = Heavy.freed.pop()
    assert any(start <= begun and over <= end for start, end in runs[name])
    assert len(runs["innocent"]) == 3 and all(end <= begun or over <= start for start, end in runs["innocent"])


@pytest.mark.parametrize("how", ["plain", "debug", "monitored"])
def test_records_are_written_within_an_iteration(loop, monkeypatch, how):
    loop.set_debug(how == "debug")
    if how == "monitored":
        original = asyncio.Handle._run
        monkeypatch.setattr(asyncio.Handle, "_run", lambda handle: original(handle))
    seen: list[int] = []

    def slow() -> None:
        seen.append(loop._recorder.ring.records)
        time.sleep(0.03)

    for _ in range(4):
        loop.call_soon(slow)
    loop.call_soon(loop.stop)
    loop.run_forever()
    # What the run before the last one left has been written when the next begins.
    assert seen[0] < seen[1] < seen[2] < seen[3]


def test_handles_go_through_a_monitors_function(loop, monkeypatch):
    """aiodebug, logfire and others replace ``asyncio.Handle._run``, often while the loop runs."""
    through: list[str] = []
    original = asyncio.Handle._run

    def watching(self: Any) -> None:
        through.append(getattr(self._callback, "__name__", ""))
        return original(self)

    def called() -> None:
        pass

    async def main() -> None:
        loop.call_soon(called)
        await asyncio.sleep(0)
        assert not through
        monkeypatch.setattr(asyncio.Handle, "_run", watching)
        loop.call_soon(called)
        loop.call_later(0, called)
        loop.call_soon_threadsafe(called)
        await asyncio.sleep(0.01)
        assert through.count("called") == 3
        monkeypatch.setattr(asyncio.Handle, "_run", original)
        await asyncio.sleep(0)
        through.clear()
        await asyncio.sleep(0)
        assert not through

    written = Written(loop, monkeypatch)
    loop.run_until_complete(main())
    assert len(written.runs()["called"]) == 4


STARVED = """
import asyncio, resource, sys
from tests.helpers.cores import CORES
from traceloop.recording.process import current_process

def vm():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

async def main():
    loop = asyncio.get_running_loop()
    # The watchdog's first turn maps memory of its own; on a busy machine it comes late.
    while current_process().process_ring is None:
        await asyncio.sleep(0.01)
    alive = []
    for _ in range(3):
        resource.setrlimit(resource.RLIMIT_AS, (vm() + (48 << 20), resource.RLIM_INFINITY))
        kept = []
        def eat(size):
            # What the program itself catches must not end the loop: the last pieces are as small as a record.
            try:
                while True:
                    kept.append(bytes(size))
            except MemoryError:
                pass
        for size in (1 << 20, 1 << 12, 64):
            loop.call_soon(eat, size)
        for number in range(5):
            loop.call_soon(alive.append, number)
        loop.call_soon(kept.clear)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print("alive", len(alive))

with asyncio.Runner(loop_factory=CORES[sys.argv[1]]) as runner:
    runner.run(main())
"""


def test_a_program_that_survives_no_memory_does_so_here(core):
    done = subprocess.run([sys.executable, "-c", STARVED, core], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "alive 15\n"), done.stderr
    assert "Traceback" not in done.stderr


def test_each_of_five_thousand_callbacks_keeps_its_name(loop, monkeypatch):
    """More than the C core has places for: one takes another's."""
    written = Written(loop, monkeypatch)
    functions = []
    for number in range(5_000):
        names: dict[str, Any] = {}
        exec(f"def callback_{number}(): pass", names)
        functions.append(names[f"callback_{number}"])
    for _ in range(3):
        for function in functions:
            loop.call_soon(function)
        loop.run_until_complete(asyncio.sleep(0))
    found = written.runs()
    assert [len(found[function.__name__]) for function in functions] == [3] * len(functions)


def test_a_task_that_runs_the_loop_itself_is_seen_to_end(loop):
    """Bridges to synchronous code do so. What ran last in there is a task that goes on."""

    async def last() -> None:
        loop.stop()
        await asyncio.sleep(0)

    async def outer() -> None:
        await asyncio.sleep(0)
        me, thread = asyncio.current_task(), loop._thread_id
        inner.append(loop.create_task(last()))
        asyncio.tasks._leave_task(loop, me)
        asyncio._set_running_loop(None)
        loop._thread_id = None
        loop.run_forever()
        loop._thread_id = thread
        asyncio._set_running_loop(loop)
        asyncio.tasks._enter_task(loop, me)

    inner: list[Any] = []
    loop.run_until_complete(outer())
    loop.run_until_complete(inner[0])
    tasks = loop._recorder.tasks
    assert tasks.finished == tasks.made
