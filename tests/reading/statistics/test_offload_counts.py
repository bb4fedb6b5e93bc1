"""Ten thousand offloads over three pools of each kind, with failures and cancellations mixed in: every one counted."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import random
import threading
from collections import Counter
from typing import Any

import pytest

from tests.helpers import offloaded_functions as functions
from tests.helpers.executors import ContextPool, OneThread
from tests.helpers.offloads import decode, offloads, recorded_loop, run
from traceloop.reading import read_loop
from traceloop.reading.site_names import SiteNames
from traceloop.reading.statistics.executors import ExecutorStatistics
from traceloop.reading.statistics.labels import BoundedLabels
from traceloop.record.layout import OUTCOME_CANCELLED, OUTCOME_EXCEPTION, OUTCOME_RESULT

COUNT = 10_000


def _threads() -> list[Any]:
    return [concurrent.futures.ThreadPoolExecutor(size, thread_name_prefix=f"pool{size}") for size in (1, 2, 4)]


def _processes() -> list[Any]:
    context = multiprocessing.get_context("forkserver")
    return [concurrent.futures.ProcessPoolExecutor(1, mp_context=context) for _ in range(3)]


def _custom() -> list[Any]:
    return [ContextPool(2, thread_name_prefix="context"), OneThread(), OneThread()]


async def _offload_many(loop: Any, pools: list[Any], seed: int) -> Counter[str]:
    chance = random.Random(seed)
    outcomes: Counter[str] = Counter()

    async def one(pool: Any, number: int, how: str) -> None:
        function = functions.fail if how == "fail" else functions.square
        future = loop.run_in_executor(pool, function, number)
        if how == "cancel":
            future.cancel()
        try:
            assert await future == number * number
            outcomes["result"] += 1
        except ValueError as error:
            assert error.args == (number,)
            outcomes["exception"] += 1
        except asyncio.CancelledError:
            outcomes["cancelled"] += 1

    for begin in range(0, COUNT, 500):
        await asyncio.gather(
            *[
                one(pools[number % 3], number, chance.choices(["run", "fail", "cancel"], [6, 2, 1])[0])
                for number in range(begin, begin + 500)
            ]
        )
    return outcomes


def test_none_waits_for_ever_of_those_whose_start_and_end_were_lost() -> None:
    # The process's ring holds some twenty thousand, the loop's ring all of them.
    pool = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="pool")
    begun, end = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        begun.release()
        end.wait()

    async def main() -> list[asyncio.Future[Any]]:
        for _ in range(60):
            await asyncio.gather(*[loop.run_in_executor(pool, functions.square, number) for number in range(500)])
        return [loop.run_in_executor(pool, hold) for _ in range(5)]

    with recorded_loop(8 << 20) as (loop, _):
        held = loop.run_until_complete(main())  # takes a busy machine a minute
        for _ in range(2):
            begun.acquire()
        run(loop, asyncio.sleep(0))
        statistics = read_loop(loop).processes[0]
        end.set()
        run(loop, asyncio.wait(held))
        pool.shutdown()
    assert statistics.dropped > 0
    found = statistics.executors.executors["pool"]
    assert (found.waiting, found.active) == (3, 2)
    assert 0 < found.functions[f"{functions.__name__}.square"].runs < 30_000


@pytest.mark.parametrize("make", [_threads, _processes, _custom])
def test_every_offload_is_counted_with_its_outcome(make: Any) -> None:
    pools = make()
    with recorded_loop() as (loop, process):
        try:
            outcomes = run(loop, _offload_many(loop, pools, 7))
        finally:
            for pool in pools:
                pool.shutdown()
    found = offloads(process)
    assert len(found) == COUNT == sum(outcomes.values())
    recorded: Counter[int] = Counter()
    for each in found.values():
        assert each.submit is not None and each.finish is not None and each.deliver is not None
        recorded[each.outcome] += 1
        if each.outcome == OUTCOME_CANCELLED:
            assert each.start is None
        else:
            assert each.submit <= each.start <= each.finish <= each.deliver
    # A call that had begun when it was cancelled ran to its end: it is cancelled for the loop, not for the worker.
    assert recorded[OUTCOME_EXCEPTION] == outcomes["exception"]
    assert recorded[OUTCOME_RESULT] >= outcomes["result"]
    assert recorded[OUTCOME_CANCELLED] <= outcomes["cancelled"]

    statistics = ExecutorStatistics(SiteNames(process.site_log.sites), BoundedLabels())
    for chunk in decode(process):
        statistics.feed(chunk)
    assert len(statistics.executors) == 3
    runs: Counter[str] = Counter()
    for executor in statistics.executors.values():
        assert executor.waiting == executor.active == 0
        for name, function in executor.functions.items():
            runs[name] += function.runs
    assert runs[f"{functions.__name__}.fail"] == recorded[OUTCOME_EXCEPTION]
    assert runs[f"{functions.__name__}.square"] == recorded[OUTCOME_RESULT]


@pytest.mark.parametrize("first", ["loop ring", "process ring"])
def test_the_rings_may_be_read_in_any_order(first: str) -> None:
    with recorded_loop() as (loop, process):
        for _ in range(3):
            with concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="short") as pool:
                run(loop, _gather(loop, pool, 20))
            del pool
    chunks = decode(process)
    if first == "process ring":
        chunks.reverse()
    statistics = ExecutorStatistics(SiteNames(process.site_log.sites), BoundedLabels())
    for chunk in chunks:
        statistics.feed(chunk)
    # A pool for each request must not make a series for each request.
    assert list(statistics.executors) == ["short"]
    short = statistics.executors["short"]
    assert (short.waiting, short.active, short.workers) == (0, 0, 0)
    assert sum(function.runs for function in short.functions.values()) == 60


async def _gather(loop: Any, pool: Any, count: int) -> None:
    await asyncio.gather(*[loop.run_in_executor(pool, functions.square, number) for number in range(count)])


def test_calls_that_gave_up_before_they_were_started_have_waited() -> None:
    """Twenty calls whose deadline passed in the queue of a full executor: they were told as no wait at all."""
    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="pool")
    end = threading.Event()

    async def main() -> None:
        held = loop.run_in_executor(pool, end.wait)

        async def impatient() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.run_in_executor(pool, functions.square, 2), 0.2)

        await asyncio.gather(*(impatient() for _ in range(20)))
        end.set()
        await held

    with recorded_loop() as (loop, _):
        run(loop, main())
        pool.shutdown()
        process = read_loop(loop).processes[0]
    found = process.executors.executors["pool"]
    assert (found.waiting, found.active, found.gave_up) == (0, 0, 20)
    assert found.queue_durations.count == 21 and found.queue_durations.quantile(0.5) >= 0.15
    assert found.run_durations.count == 1
    square = found.functions[f"{functions.__name__}.square"]
    assert (square.runs, square.gave_up) == (0, 20)
    assert square.waited >= 20 * 0.2 and square.longest_wait >= 0.2
    # Whoever had the worker is who they waited for.
    assert found.saturation.waits >= 20
    assert sum(filler.seconds for filler in found.saturation.fillers.values()) == pytest.approx(square.waited, rel=0.1)


def test_the_last_calls_of_an_executor_that_is_gone_are_counted_under_its_name() -> None:
    """The process's ring, which tells of its end, may be read before the loop's, which tells of its last calls."""
    with recorded_loop() as (loop, process):
        pool = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="pool")
        run(loop, _gather(loop, pool, 10))
        early = decode(process)
        run(loop, _gather(loop, pool, 10))
        pool.shutdown()
        del pool
        run(loop, asyncio.sleep(0))
        late = decode(process)
    statistics = ExecutorStatistics(SiteNames(process.site_log.sites), BoundedLabels())
    for chunk in early:
        statistics.feed(chunk)
    seen = {step for chunk in early for step in chunk.offloads}
    for chunk in reversed(late):
        chunk.offloads = [step for step in chunk.offloads if step not in seen]
        chunk.executors = []  # told already, by then
        statistics.feed(chunk)
    assert list(statistics.executors) == ["pool"]
    (totals,) = statistics.executors["pool"].functions.values()
    assert totals.runs == 20 and statistics.executors["pool"].waiting == 0
