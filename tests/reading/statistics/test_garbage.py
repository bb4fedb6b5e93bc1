"""Pauses of the garbage collector are told with the callback that they interrupted."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import time
from typing import Any

import pytest

from tests.helpers.cores import CORES
from tests.helpers.waiting import until
from traceloop.exporters.text.report import report
from traceloop.loop.event_loop import EventLoop
from traceloop.reading import read_loop, read_run
from traceloop.reading.decoding.decoded import Collection, Decoded
from traceloop.reading.decoding.runs import RunRows
from traceloop.reading.new_statistics import new_statistics
from traceloop.reading.site_names import SiteNames
from traceloop.reading.stalls.parts import stalls_of
from traceloop.reading.statistics.garbage import CollectionStatistics
from traceloop.reading.statistics.histograms import Histogram
from traceloop.reading.statistics.labels import BoundedLabels
from traceloop.recording.outbox import outbox_of
from traceloop.recording.process import current_process


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    from traceloop.recording import process

    monkeypatch.setattr(process, "_current", None)
    loop = EventLoop()
    yield loop
    loop.close()


def test_the_interrupted_callback_is_named(loop: EventLoop) -> None:
    def collect_later() -> None:
        time.sleep(0.5)
        gc.collect()

    def collects() -> None:
        gc.collect()

    async def goes_on() -> None:
        for _ in range(3):
            gc.collect()
            await asyncio.sleep(0)

    async def main() -> None:
        loop.call_soon(collects)
        await asyncio.create_task(goes_on())
        await asyncio.to_thread(collect_later)  # while the loop polls: it interrupts nothing
        await asyncio.sleep(0.05)

    gc.disable()
    try:
        loop.run_until_complete(main())
    finally:
        gc.enable()
    statistics = read_loop(loop)
    (process,) = statistics.processes.values()
    found = {name.rpartition(".")[2]: totals for name, totals in process.collections.interrupted.items()}
    assert found["collects"].count == 1 and found["goes_on"].count == 3
    assert found.keys() == {"collects", "goes_on"}
    held = process.collections.held
    assert held.count == 4 and held.sum == pytest.approx(sum(totals.seconds for totals in found.values()))
    assert 0 < found["goes_on"].longest <= found["goes_on"].seconds
    by_callback = {
        dict(sample.labels)["callback"]: sample.value
        for sample in statistics.samples()
        if sample.name == "asyncio_callback_gc_pause_seconds_total"
    }
    assert sum(by_callback.values()) == pytest.approx(sum(totals.seconds for totals in found.values()))
    assert "interrupted by garbage collection" in report(statistics, full=True)


CHURN = """
import asyncio, gc, json, sys

class Node:
    def __init__(self, n):
        self.me = {"self": self, "n": [n]}

async def load():
    before = sum(each["collections"] for each in gc.get_stats())
    gc.set_threshold(500, 5, 100000)
    for n in range(800_000):
        Node(n)
    gc.set_threshold(0)
    print(sum(each["collections"] for each in gc.get_stats()) - before, flush=True)

async def main():
    await asyncio.create_task(load())
    await asyncio.sleep(0)

asyncio.run(main())
"""


def test_total_callbacks_and_slow_runs_agree_over_thousands_of_collections(traced: Any, tmp_path: Any) -> None:
    """The callbacks' sums stopped at the latest thousand pauses."""
    (tmp_path / "churn.py").write_text(CHURN)
    command = [*traced.command, "--no-metrics", "--record", "kept", "churn.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    inside = int(done.stdout)
    assert inside > 2000
    (kept,) = (tmp_path / "kept").iterdir()
    statistics = read_run(kept, new_statistics())
    (process,) = statistics.processes.values()
    collections = process.collections
    total = Histogram().merge(collections.pauses.values())
    interrupted = collections.interrupted.values()
    assert collections.interrupted["__main__.load"].count == inside
    assert sum(each.count for each in interrupted) <= total.count
    assert sum(each.seconds for each in interrupted) <= total.sum + 1e-9
    # The slow run's own account of it.
    index = stalls_of(process).index
    slow = index.lookup(*max(index.slow_runs(), key=lambda key: index.length_of(*key)))
    assert slow.parts.gc == pytest.approx(collections.interrupted["__main__.load"].seconds, rel=0.01)


def decoded(**contents: Any) -> Decoded:
    made = Decoded(None)
    for name, value in contents.items():
        setattr(made, name, value)
    return made


def test_collections_beyond_any_bound_are_put_together_and_none_is_lost() -> None:
    statistics = CollectionStatistics(SiteNames, BoundedLabels(200))
    pauses = [Collection(1.0 + n / 1e5, 1e-6, 0, 1, 0) for n in range(50_000)]
    for at in range(0, len(pauses), 500):
        statistics.feed(decoded(collections=pauses[at : at + 500]))
    assert len(statistics._starts) <= 8192
    statistics.feed(decoded(runs=RunRows([(0, 0.5, 2.0, 65537.0, "task", 0.5, 0, 0, 0, 0)])))
    (totals,) = statistics.interrupted.values()
    assert totals.count == 50_000 and totals.seconds == pytest.approx(0.05)
    assert statistics.held.count == 50_000 and statistics.held.sum == pytest.approx(0.05)
    # Each interrupts one run, in whichever loop.
    statistics.feed(decoded(runs=RunRows([(0, 0.5, 2.0, 65537.0, "task", 0.5, 0, 0, 0, 0)])))
    assert totals.count == 50_000


def run(start: float, end: float, delay: float, iteration: int) -> Any:
    return (0, start, end, 65537.0, "task", delay, 0, 0, iteration, 0)


@pytest.mark.parametrize("chunks", [1, 2], ids=["in one chunk", "in a later chunk"])
def test_a_collection_in_a_poll_holds_the_loop_from_when_a_callback_of_its_next_iteration_was_ready(
    chunks: int,
) -> None:
    statistics = CollectionStatistics(SiteNames, BoundedLabels(200))
    statistics.feed(decoded(collections=[Collection(1.0, 0.2, 2, 0, 0), Collection(1.3, 0.4, 2, 0, 0)]))
    # The timer is not the first that runs. One that runs in the iteration after that waited for its predecessors too.
    first = [run(0.9, 0.95, 0.0, 1)]
    then = [run(1.75, 1.8, 0.0, 2), run(1.8, 1.81, 0.3, 2), run(1.9, 2.0, 0.9, 3)]
    for rows in [first + then] if chunks == 1 else [first, then]:
        statistics.feed(decoded(runs=RunRows(rows)))
    assert not statistics.interrupted
    assert statistics.held.count == 1 and statistics.held.sum == pytest.approx(0.2)
    # It may interrupt a run of another loop, and then holds both at once.
    statistics.feed(decoded(runs=RunRows([run(1.2, 1.8, 0.0, 1)])))
    assert statistics.interrupted and statistics.held.count == 1


def test_a_collection_of_another_thread_holds_a_run_no_longer_than_that_lasts() -> None:
    statistics = CollectionStatistics(SiteNames, BoundedLabels(200))
    statistics.feed(decoded(collections=[Collection(1.0, 0.4, 2, 0, 0)]))
    statistics.feed(decoded(runs=RunRows([run(0.9, 1.1, 0.0, 1)])))
    assert statistics.held.sum == pytest.approx(0.1)


def read_now(loop: EventLoop) -> Any:
    """What is in the record by now of the process's collections; None while there is nothing."""
    (process,) = read_loop(loop).processes.values()
    return process if process.collections.pauses else None


@pytest.mark.parametrize("core", CORES)
def test_collections_beyond_any_number_are_summed_up_and_none_is_lost(
    core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a program makes them that calls ``gc.collect(0)`` all the time; and nobody writes meanwhile."""
    from traceloop.recording import process as recording

    monkeypatch.setattr(recording, "_current", None)
    loop = CORES[core]()

    def churns() -> None:
        for _ in range(100_000):
            gc.collect(0)
        gc.collect(1)

    gc.disable()
    try:
        loop.call_soon(churns)
        with outbox_of(current_process())._lock:  # nobody writes meanwhile
            loop.call_soon(loop.stop)
            loop.run_forever()
        loop.run_until_complete(asyncio.sleep(0))
        process = until(lambda: read_now(loop), "the collections are written")  # the watchdog may just be writing them
    finally:
        gc.enable()
        loop.close()
    collections = process.collections
    assert {generation: each.count for generation, each in collections.pauses.items()} == {0: 100_000, 1: 1}
    assert process.dropped == 0
    assert process.records < 20_000
    (totals,) = collections.interrupted.values()
    assert totals.count == 100_001
    assert totals.seconds == pytest.approx(sum(each.sum for each in collections.pauses.values()))
    # The advice then names the calls, and no threshold.
    assert collections.held_by_calls == pytest.approx(collections.held.sum)
