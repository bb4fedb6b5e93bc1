"""Leaks of a running loop, found and named by the process itself; and the cost of looking."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from traceloop.loop.event_loop import EventLoop
from traceloop.reading.decoding.ring_reader import RingReader
from traceloop.reading.decoding.stream import LoopStream
from traceloop.reading.statistics.growth import HeapGrowth, growth_of
from traceloop.recording.heaps import growth_rules as growth
from traceloop.recording.heaps import memory
from traceloop.recording.heaps.allocation_trace import TRACE_SECONDS, AllocationTrace
from traceloop.recording.heaps.gc_pauses import GCPauses
from traceloop.recording.heaps.sampler import LoopSamples, Sampler
from traceloop.recording.heaps.timer_origins import EVERY, NOTED_TIMERS, CreationSites, callbacks_waiting
from traceloop.recording.outbox import Outbox, outbox_of
from traceloop.recording.process import Process
from traceloop.recording.recorder import Recorder
from traceloop.settings import Settings


@pytest.fixture
def process() -> Process:
    return Process(Settings(ring_size=1 << 20))


@pytest.fixture
def loop(process: Process) -> Iterator[EventLoop]:
    loop = EventLoop(recorder=Recorder(process))
    yield loop
    loop.close()


def decoded(process: Process) -> Any:
    assert process.process_ring is not None
    return LoopStream().feed(RingReader(process.process_ring.buffer).read())[-1]


def growths(process: Process) -> list[HeapGrowth]:
    if process.process_ring is None:
        return []
    found = [growth_of(event.data) for event in decoded(process).events]
    return [each for each in found if each is not None]


def expire() -> None:
    pass


def handle_request(loop: Any) -> None:
    loop.call_later(3600, expire)


def handle_request_well(loop: Any) -> None:
    loop.call_later(3600, expire).cancel()


async def session(seconds: float) -> None:
    await asyncio.sleep(seconds)


def sample_for(sampler: Sampler, samples: LoopSamples, seconds: int, each: Any) -> None:
    """Goes through ``seconds`` of samples in no time: ``each`` does what a second of the program would."""
    begin = time.monotonic()
    sampler.memory.due = float("inf")
    for second in range(seconds):
        each()
        samples.timers_due = 0.0
        sampler._sample_all(begin + second)


def test_a_timer_a_request_is_named_with_callback_and_code(loop: EventLoop, process: Process) -> None:
    sampler = Sampler(process)
    samples = sampler.loop_started(loop)

    def one_second() -> None:
        for _ in range(100):
            handle_request(loop)

    sample_for(sampler, samples, 30, one_second)
    (found,) = growths(process)
    assert found.heap == "timer" and found.unit == "entries" and found.before == 0 and found.after >= 1200
    assert found.end - found.start < 27
    assert found.top[0][0] == f"{__name__}.expire"
    assert found.top[0][1] == pytest.approx(found.after, rel=0.1)
    place, number = found.more[0]
    assert place.startswith(f"{__name__}.handle_request:")
    assert number == pytest.approx(found.after, rel=0.9)  # a sample of some fifteen
    assert f"{__name__}.expire" in found.text and "handle_request" in found.text


def test_its_healthy_twin_is_silent_and_left_alone(loop: EventLoop, process: Process) -> None:
    sampler = Sampler(process)
    samples = sampler.loop_started(loop)
    second = 0

    def one_second() -> None:
        nonlocal second
        second += 1
        for _ in range(100):
            handle_request_well(loop)
        if second % 60 < 2:  # a burst, gone within the window
            burst.extend(loop.call_later(5, expire) for _ in range(5000))
        elif burst:
            for handle in burst:
                handle.cancel()
            burst.clear()
        loop._timer_heap.sweep()

    burst: list[Any] = []
    sample_for(sampler, samples, 600, one_second)
    assert growths(process) == []
    assert "call_at" not in vars(loop)
    waiting = len(loop._timer_heap) - loop._timer_cancelled_count
    assert sum(number for _, number in samples.sites.top()) == pytest.approx(waiting, rel=0.7, abs=500)


def test_timers_of_sleep_and_timeout_count_for_the_code_that_waits(loop: EventLoop) -> None:
    async def limited() -> None:
        async with asyncio.timeout(3600):
            await asyncio.Event().wait()

    async def main() -> None:
        tasks = [asyncio.create_task(session(3600)) for _ in range(30)]
        tasks += [asyncio.create_task(limited()) for _ in range(10)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        names = dict(callbacks_waiting(loop._timer_heap))
        assert names == {
            f"{__name__}.session": 30,
            f"{__name__}.test_timers_of_sleep_and_timeout_count_for_the_code_that_waits.<locals>.limited": 10,
        }
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    loop.run_until_complete(main())


@pytest.mark.timing
def test_a_big_heap_is_sampled_not_walked(loop: EventLoop) -> None:
    for _ in range(50_000):
        loop.call_later(3600, expire)
    for _ in range(50_000):
        loop.call_later(3600, handle_request, loop)
    begin = time.thread_time()
    top = dict(callbacks_waiting(loop._timer_heap))
    assert time.thread_time() - begin < 0.2
    assert top[f"{__name__}.expire"] == pytest.approx(50_000, rel=0.25)


def test_the_code_that_set_what_waits_is_known_whenever_it_was_set(loop: EventLoop) -> None:
    def set_by_time() -> None:
        loop.call_at(loop.time() + 3600, expire)

    async def sleeper() -> None:
        await asyncio.sleep(3600)

    async def main() -> None:
        for _ in range(15_000):
            handle_request(loop)
            handle_request_well(loop)  # in turns with the one that leaks
        for _ in range(5000):
            set_by_time()
        tasks = [asyncio.create_task(sleeper()) for _ in range(5000)]
        await asyncio.sleep(0)
        names = {place.split(":")[0].rpartition(".")[2]: number for place, number in sites.top()}
        assert names.keys() == {"handle_request", "set_by_time", "sleeper"}
        assert names["handle_request"] == pytest.approx(15_000, rel=0.6)
        assert names["set_by_time"] == pytest.approx(5000, rel=0.9)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert "sleeper" not in str(sites.top())

    sites = loop._recorder.timer_sites
    loop.run_until_complete(main())


def test_places_are_bounded_and_keep_no_handle(loop: EventLoop) -> None:
    sites = CreationSites()
    handles = [loop.call_later(3600, expire) for _ in range(4000)]
    for handle in handles:
        assert 0 <= sites.note(handle, sys._getframe()) <= NOTED_TIMERS
    assert len(sites._noted) < 1000
    ((_, number),) = sites.top()
    assert number == pytest.approx(4000 * EVERY, rel=0.6)
    references = [weakref.ref(handle) for handle in handles]
    loop._timer_heap.clear()
    loop._timer_cancelled_count = 0
    del handle, handles
    gc.collect()
    assert not any(reference() for reference in references)
    assert sites.top() == []


def test_a_program_that_leaks_20000_timers_and_sleeps_is_told_of() -> None:
    """A real run: the loop sleeps in its poll, so only the watchdog can look."""
    program = """
        import asyncio, sys
        from traceloop.loop.event_loop import EventLoop
        from traceloop.recording.process import Process
        from traceloop.recording.recorder import Recorder
        from traceloop.reading.statistics.growth import growth_of
        from traceloop.reading.decoding.ring_reader import RingReader
        from traceloop.reading.decoding.stream import LoopStream
        import time

        def expire(): pass
        from traceloop.settings import Settings
        process = Process(Settings(ring_size=1 << 20))
        loop = EventLoop(recorder=Recorder(process))
        async def main():
            for _ in range(20000):
                loop.call_later(3600, expire)
            await asyncio.sleep(24)
        loop.run_until_complete(main())
        found = LoopStream().feed(RingReader(process.process_ring.buffer).read())[-1]
        for event in found.events:
            growth = growth_of(event.data)
            if growth is not None:
                print(growth.text, growth.after >= 20000)
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120, check=True
    )
    assert out.stdout.count("\n") == 1, out.stdout + out.stderr
    assert "timer heap grew from 0 to" in out.stdout
    # Both the callback and the code that set them, though all were set at once.
    assert "most of them __main__.expire (set by __main__.main:" in out.stdout and out.stdout.endswith(" True\n")


# -- memory


def test_a_memory_leak_is_told_and_traced_to_its_lines(
    loop: EventLoop, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tracemalloc

    outbox = outbox_of(process)
    reports: list[tuple[growth.Growth, str, dict[str, Any]]] = []
    sampler = memory.MemorySampler(
        outbox,
        lambda found, heap, **more: reports.append((found, heap, more)),
        trace=True,
        name_callback=process.site_log.label_at,
    )
    kept: list[Any] = []

    def leak() -> None:
        kept.append([{"number": number} for number in range(1000)])

    now = 1000.0
    while sampler._tracing is None:
        leak()
        sampler.sample(now)
        now = max(now + 1.0, sampler.due if sampler.due < now + 30 else now + 1.0)
        assert now < 1600
    assert tracemalloc.is_tracing()

    def in_loop() -> None:
        for _ in range(20):
            leak()
        loop.stop()

    for seconds in (TRACE_SECONDS / 2, TRACE_SECONDS):
        loop.call_soon(in_loop)
        loop.run_forever()
        if not reports:
            sampler.sample(now + seconds)
    assert not tracemalloc.is_tracing()
    ((found, heap, more),) = reports
    assert heap == "memory" and found.after > found.before
    assert more["top"][0][0].startswith(f"{__file__}:")
    assert more["top"][0][1] > 20 * 1000 * 50
    name = "test_a_memory_leak_is_told_and_traced_to_its_lines.<locals>.in_loop"
    assert more["callbacks"][0][0] == f"{__name__}.{name}"
    assert more["trace"]["memory_bytes"] > 0


def test_a_trace_under_way_is_told_of_when_the_last_loop_is_closed(process: Process) -> None:
    import tracemalloc

    loop = EventLoop(recorder=Recorder(process))
    loop.run_until_complete(asyncio.sleep(0))
    sampler = loop._recorder.sampler.memory
    sampler._tracing = AllocationTrace(
        growth.Growth(1.0, 51.0, 10.0, 100.0), {"unit": "blocks"}, time.monotonic(), 60.0
    )
    kept: list[Any] = []

    async def fill() -> None:
        kept.extend(bytearray(1000) for _ in range(1000))

    loop.run_until_complete(fill())
    loop.close()
    assert not tracemalloc.is_tracing()
    (found,) = growths(process)
    assert found.top[0][0].startswith(f"{__file__}:") and found.top[0][1] > 1_000_000
    assert found.more[0][0].endswith(".fill") and found.cost["seconds"] < 15


def test_a_child_does_not_go_on_tracing() -> None:
    program = """
        import asyncio, os, tracemalloc
        from traceloop.recording.heaps import sampler
        from traceloop.recording.heaps.allocation_trace import AllocationTrace
        tracing = AllocationTrace(None, {}, 0.0, 60.0)
        pid = os.fork()
        if pid == 0:
            os._exit(tracemalloc.is_tracing())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print(tracemalloc.is_tracing())
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120, check=False
    )
    assert out.stdout == "True\n", out.stderr


def test_without_a_trace_growth_is_told_by_its_numbers(process: Process) -> None:
    sampler = Sampler(process)
    sampler.memory._report(growth.Growth(1.0, 51.0, 100_000, 160_000), "memory", unit="blocks", top=[], blocks=1)
    (found,) = growths(process)
    assert (found.heap, found.unit, found.before, found.after) == ("memory", "blocks", 100_000, 160_000)
    assert found.text == "memory heap grew from 100,000 to 160,000 allocated blocks in 50 s"


@pytest.mark.timing
def test_samples_cost_no_more_than_their_share(process: Process) -> None:
    sampler = memory.MemorySampler(outbox_of(process), lambda *_: None, trace=False)
    begin = time.perf_counter()
    sampler.sample(1000.0)
    cost = time.perf_counter() - begin
    assert 1001.0 <= sampler.due <= 1000.0 + max(1.0, cost * 5000)


def test_private_memory_is_what_the_kernel_says() -> None:
    before = memory.private_resident_bytes()
    block = bytearray(64 << 20)
    for place in range(0, len(block), 4096):
        block[place] = 1
    grown = memory.private_resident_bytes() - before
    assert (60 << 20) < grown < (80 << 20)
    del block


def test_damaged_events_are_no_growth() -> None:
    assert growth_of({"kind": "growth"}) is None
    assert growth_of({"kind": "growth", "heap": "timer", "start": "x", "end": 1, "before": 1, "after": 2}) is None
    assert growth_of({"kind": "growth", "heap": [], "start": 1}) is None
    base = {"kind": "growth", "heap": "timer", "start": 0, "end": 1, "before": 1, "after": 2}
    assert growth_of({**base, "top": 3}) is None
    assert growth_of({**base, "top": [["a", 1, 2]]}) is None
    assert growth_of({**base, "trace": [1]}) is None
    assert growth_of(base) is not None


# -- the collector's pauses


def test_pauses_are_recorded_with_generation_and_what_was_collected(loop: EventLoop, process: Process) -> None:
    class Node:
        def __init__(self) -> None:
            self.me = self

    def work() -> None:
        for _ in range(100):
            Node()
        gc.collect()
        loop.stop()

    gc.collect()
    before = time.monotonic()
    loop.call_soon(work)
    loop.run_forever()
    full = [each for each in decoded(process).collections if each.generation == 2 and each.start > before]
    assert full and sum(each.collected for each in full) >= 100
    assert all(0 <= each.duration < 10 for each in full)


def test_a_collection_that_the_program_calls_for_is_told_from_one_that_comes_by_itself(
    loop: EventLoop, process: Process
) -> None:
    many = "[" + "[]," * 5000 + "[]]"

    def work() -> None:
        kept.append(json.loads(many))
        gc.collect()  # the objects of the line before have been collected by then
        gc.set_threshold(50, 1, 1)
        for _ in range(100_000):  # the interpreter collects by itself once a quarter more objects live
            kept.append([])
        gc.set_threshold(0)
        gc.collect()
        loop.stop()

    kept: list[Any] = []
    before = time.monotonic()
    gc.freeze()
    thresholds = gc.get_threshold()
    try:
        loop.call_soon(work)
        loop.run_forever()
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
    full = [each for each in decoded(process).collections if each.generation == 2 and each.start > before]
    called = [each.called for each in full]
    assert called.count(True) == 2 and called[-1]
    # The first releases of 3.14 never collect all by themselves.
    assert sys.version_info[:2] == (3, 14) or called[called.index(True) + 1 :].count(False) > 1


def full_collections_since(process: Process, before: float) -> int:
    return sum(each.generation == 2 and each.start > before for each in decoded(process).collections)


def test_collections_are_noted_while_a_loop_of_the_process_runs_and_not_between(
    loop: EventLoop, process: Process
) -> None:
    """Nobody empties the outbox then: it was full, and records seemed to be overwritten."""

    def collect(times: int) -> None:
        for _ in range(times):
            gc.collect()
        loop.stop()

    runs, ends = threading.Event(), threading.Event()

    def runs_meanwhile() -> None:
        other = EventLoop(recorder=Recorder(process))
        other.call_soon(runs.set)
        try:
            other.run_until_complete(asyncio.to_thread(ends.wait, 120))
        finally:
            other.close()

    before = time.monotonic()
    loop.call_soon(collect, 2)
    loop.run_forever()
    gc.collect()
    assert not outbox_of(process).pending
    other = threading.Thread(target=runs_meanwhile)
    other.start()
    runs.wait(120)
    loop.call_soon(collect, 4)
    loop.run_forever()
    gc.collect()
    ends.set()
    other.join()
    gc.collect()
    assert full_collections_since(process, before) == 2 + 4 + 1


def test_a_collection_that_began_before_a_loop_ran_is_not_noted(process: Process) -> None:
    outbox = Outbox(process)
    note = GCPauses(outbox)._callback
    info = {"generation": 2, "collected": 0, "uncollectable": 0}
    note("stop", info)
    assert not outbox.pending
    note("start", info)
    note("stop", info)
    assert len(outbox.pending) == 6
    note("stop", info)
    assert len(outbox.pending) == 6


def test_what_waits_when_a_loop_stops_is_written_after_another_writer(loop: EventLoop, process: Process) -> None:
    """The watchdog makes the process ring while the first handle runs; a loop that then stops waits for that."""
    held = threading.Event()
    collected = threading.Event()

    def write() -> None:
        with process.process_lock:
            held.set()
            collected.wait(120)
            time.sleep(0.05)

    def work() -> None:
        held.wait(120)
        gc.collect()
        collected.set()
        loop.stop()

    writer = threading.Thread(target=write)
    writer.start()
    loop.call_soon(work)
    loop.run_forever()
    writer.join()
    assert not outbox_of(process).pending
    assert any(each.generation == 2 for each in decoded(process).collections)


def test_a_fork_takes_the_parents_callback_away() -> None:
    program = """
        import asyncio, gc, os
        from traceloop.loop.event_loop import EventLoop
        from traceloop.recording.process import Process
        from traceloop.recording.recorder import Recorder
        from traceloop.settings import Settings
        process = Process(Settings(ring_size=1 << 20))
        loop = EventLoop(recorder=Recorder(process))
        def forks():
            assert len(gc.callbacks) == 1
            pid = os.fork()
            if pid == 0:
                gc.collect()
                os._exit(len(gc.callbacks))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            print("done")
            loop.stop()
        loop.call_soon(forks)
        loop.run_forever()
        assert not gc.callbacks
        loop.close()
    """
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert out.stdout == "done\n", out.stderr


# -- the outbox


def test_the_outbox_gives_way_to_another_writer(process: Process) -> None:
    outbox = Outbox(process)
    outbox.pending.extend((1.0, -27.0, 5.0))
    with process.process_lock:
        outbox.drain(1.0, wait=False)
        assert len(outbox.pending) == 3
    outbox.drain(1.0, wait=False)
    assert not outbox.pending
    assert decoded(process).memory == [(1.0, 5)]


# -- the trace's share of the time
