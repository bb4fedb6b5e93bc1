"""Tasks: how they are counted, and what is known of them by coroutine."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import time
from typing import Any

import pytest

from tests.helpers.cores import CORES
from traceloop.exporters.text import report_resources
from traceloop.exporters.text.report import report
from traceloop.exporters.text.tables import Style
from traceloop.loop.event_loop import EventLoop
from traceloop.reading import read_loop
from traceloop.reading.decoding import stream
from traceloop.reading.decoding.choose import load_native
from traceloop.reading.decoding.decoded import Decoded, LoopInfo, NewTask, Standing
from traceloop.reading.decoding.native_model import new_decoded as native_decoded
from traceloop.reading.site_names import SiteNames
from traceloop.reading.statistics import alive_tasks
from traceloop.reading.statistics.tasks import TaskStatistics
from traceloop.reading.statistics.waits import Waits
from traceloop.record.layout import SITE_LIMIT

native = load_native()
HALVES = ["python"] + ["c"] * (native is not None)


def new_decoded(half: str) -> Decoded:
    """An empty chunk, in the form of one half of the reader."""
    return native_decoded(native, None) if half == "c" else Decoded(None)


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording of its own for the test, as if the process had just begun."""
    from traceloop.recording import process

    monkeypatch.setattr(process, "_current", None)


def statistics_of(main: Any, *, close: bool = True, new_loop: Any = EventLoop) -> Any:
    loop = new_loop()
    try:
        loop.run_until_complete(main())
    finally:
        if close:
            loop.close()
    (statistics,) = read_loop(loop).loops()
    if not close:
        loop.close()
    return statistics


def totals(statistics: Any, name: str) -> Any:
    (found,) = [
        each for site, each in statistics.tasks.coroutines.items() if statistics.tasks.label(site).endswith(name)
    ]
    return found


async def child(steps: int) -> int:
    for _ in range(steps - 1):
        await asyncio.sleep(0)
    return steps


async def failing() -> None:
    raise ValueError


async def waiting() -> None:
    await asyncio.sleep(3600)


async def parent() -> None:
    await asyncio.gather(*[child(3) for _ in range(20)])


def test_counts_by_outcome() -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(child(2)) for _ in range(5)]
        tasks += [asyncio.create_task(failing()) for _ in range(3)]
        tasks += [asyncio.create_task(waiting()) for _ in range(4)]
        tasks.append(asyncio.Task(child(2)))  # made directly: counted from its first handle
        await asyncio.sleep(0)
        for task in tasks[8:12]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    statistics = statistics_of(main)
    assert statistics.tasks_created == 5 + 3 + 4 + 1 + 1
    assert statistics.tasks_finished() == {"result": 5 + 1 + 1, "exception": 3, "cancelled": 4, "abandoned": 0}
    assert totals(statistics, ".child").results == 6
    assert totals(statistics, ".failing").exceptions == 3
    assert totals(statistics, ".waiting").cancelled == 4


def test_no_exception_is_marked_as_retrieved(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        task = asyncio.create_task(failing())
        await asyncio.sleep(0)
        assert not task._callbacks  # type: ignore[attr-defined]
        del task
        await asyncio.sleep(0)
        gc.collect()

    statistics_of(main)
    assert "Task exception was never retrieved" in caplog.text


def test_tasks_left_at_the_close_are_abandoned(caplog: pytest.LogCaptureFixture) -> None:
    kept: list[Any] = []

    async def main() -> None:
        kept.extend(asyncio.create_task(waiting()) for _ in range(3))
        await asyncio.sleep(0)

    statistics = statistics_of(main)
    assert statistics.tasks_finished()["abandoned"] == 3
    assert statistics.tasks_created == 4
    for task in kept:
        task._log_destroy_pending = False
        task.get_coro().close()


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("core", CORES)
def test_a_task_is_ready_from_when_its_timer_was_due_however_late_the_loop_is(
    core: str, half: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleeps() -> None:
        await asyncio.sleep(0.05)

    async def main() -> None:
        task = asyncio.create_task(sleeps())
        await asyncio.sleep(0)
        time.sleep(0.5)
        await task

    if half == "python":
        monkeypatch.setattr(stream, "native", lambda: None)
    found = totals(statistics_of(main, new_loop=CORES[core]), ".sleeps")
    assert 0.049 <= found.suspended < 0.25
    assert found.ready >= 0.25
    assert found.suspended + found.ready >= 0.5


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_tasks_that_end_at_once_are_created_and_finished() -> None:
    async def at_once() -> int:
        return 1

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        await asyncio.gather(*[asyncio.create_task(at_once()) for _ in range(10)])
        await asyncio.gather(*[asyncio.create_task(child(2)) for _ in range(5)])

    statistics = statistics_of(main)
    assert statistics.tasks_created == 16
    assert statistics.tasks_finished() == {"result": 16, "exception": 0, "cancelled": 0, "abandoned": 0}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@pytest.mark.parametrize("core", CORES)
def test_an_eager_task_has_waited_since_the_run_in_which_it_began(core: str) -> None:
    async def waits(released: asyncio.Future[None]) -> None:
        await released

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        released = loop.create_future()
        task = asyncio.create_task(waits(released))
        moments.append(time.monotonic())
        await asyncio.sleep(0)
        moments.append(time.monotonic())
        loop.call_later(0.05, released.set_result, None)
        await task
        moments.append(time.monotonic())

    moments: list[float] = []
    found = totals(statistics_of(main, new_loop=CORES[core]), ".waits")
    assert (found.count, found.steps, found.results) == (1, 1, 1)
    assert moments[2] - moments[1] > 0.04
    # The wait ends where the task's step is ready, at the end of the run before it.
    assert 0.049 <= found.suspended <= moments[2] - moments[0]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_tasks_that_end_at_once_count_by_how_they_did() -> None:
    async def cancels_itself() -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        tasks = [asyncio.create_task(failing()) for _ in range(3)]
        tasks += [asyncio.create_task(cancels_itself()) for _ in range(2)]
        assert all(task.done() for task in tasks)
        await asyncio.gather(*tasks, return_exceptions=True)

    statistics = statistics_of(main)
    assert statistics.tasks_created == 6
    assert statistics.tasks_finished() == {"result": 1, "exception": 3, "cancelled": 2, "abandoned": 0}


@pytest.mark.parametrize("by_factory", [False, True])
def test_tasks_of_the_class_that_is_written_in_python_end_as_others_do(by_factory: bool) -> None:
    kind: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        if by_factory:
            loop.set_task_factory(lambda loop, coro, **options: kind(coro, loop=loop, **options))
        make = loop.create_task if by_factory else kind
        tasks = [make(child(2)) for _ in range(5)] + [make(failing()) for _ in range(3)]
        tasks.append(make(asyncio.sleep(10)))
        tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    statistics = statistics_of(main)
    assert statistics.tasks_created == 10
    assert statistics.tasks_finished() == {"result": 6, "exception": 3, "cancelled": 1, "abandoned": 0}


def test_a_coroutine_by_count_steps_times_and_maker() -> None:
    async def main() -> None:
        await parent()
        await asyncio.sleep(0.05)

    statistics = statistics_of(main)
    found = totals(statistics, ".child")
    assert (found.count, found.steps, found.results) == (20, 60, 20)
    assert 0 < found.longest_step <= found.running
    assert found.ready > 0
    makers = statistics.tasks.creators_of(found)
    assert [count for _, count in makers] == [20]
    assert makers[0][0].endswith(".main")
    assert totals(statistics, "maker.<locals>.main").suspended >= 0.045


def test_the_oldest_are_told_by_coroutine() -> None:
    tasks: list[Any] = []

    async def main() -> None:
        tasks.extend(asyncio.create_task(waiting(), name=f"old-{number}") for number in range(3))
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(asyncio.Event().wait(), name="young"))
        await asyncio.sleep(0)

    loop = EventLoop()
    loop.run_until_complete(main())
    (statistics,) = read_loop(loop).loops()
    oldest = statistics.tasks.oldest()
    assert oldest[0].coroutine.endswith(".waiting")
    assert (oldest[0].name, oldest[0].alive) == ("old-0", 3)
    assert oldest[1].coroutine.endswith("Event.wait")
    assert statistics.tasks.alive == 4
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


def test_the_report_shows_them() -> None:
    async def main() -> None:
        await parent()

    loop = EventLoop()
    loop.run_until_complete(main())
    statistics = read_loop(loop)
    loop.close()
    text = report(statistics, full=True)
    assert "coroutines by time" in text and f"{__name__}.child" in text
    (each,) = statistics.loops()
    lines = report_resources.tasks(each, Style(False, 100), full=True)
    assert any(f"{__name__}.child" in line and " 20 " in line and " 60 " in line for line in lines)


def test_the_most_tasks_alive_at_once_though_asyncio_run_cancels_what_is_left() -> None:
    async def brief() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        for _ in range(50):  # one at a time, however many
            await asyncio.create_task(brief())
        for _ in range(3):
            await asyncio.gather(*(asyncio.create_task(child(3)) for _ in range(7)))
        for _ in range(120):
            asyncio.create_task(waiting())  # noqa: RUF006
        await asyncio.sleep(0.01)

    loop = EventLoop()
    try:
        loop.run_until_complete(main())
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    finally:
        loop.close()
    (statistics,) = read_loop(loop).loops()
    waited, some, one = (totals(statistics, name) for name in (".waiting", ".child", ".brief"))
    assert (waited.most_alive, waited.alive, waited.cancelled) == (120, 0, 120)
    assert (some.most_alive, some.count) == (7, 21) and (one.most_alive, one.count) == (1, 50)
    text = " ".join("\n".join(report_resources.tasks(statistics, Style(False, 200), False)).split())
    assert re.search(r"tasks alive at once made by most .*waiting \S+main 120 120 0 120 0", text), text


def test_it_is_said_where_not_all_tasks_that_were_alive_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive_tasks, "MAX_ALIVE", 64)

    async def main(many: int) -> None:
        for task in [asyncio.create_task(waiting()) for _ in range(many)]:
            await asyncio.sleep(0)
            task.cancel()

    for many, said in ((60, False), (100, True)):
        loop = EventLoop()
        loop.run_until_complete(main(many))
        loop.close()
        (statistics,) = read_loop(loop).loops()
        assert (statistics.tasks.forgotten > 0) == said
        text = "\n".join(report_resources.tasks(statistics, Style(False, 200), True))
        assert ("of those alive at once the latest 200,000 are counted" in text) == said, text


def test_abandoned_tasks_are_printed_by_coroutine() -> None:
    loop = EventLoop()
    for _ in range(3):
        loop.create_task(waiting())._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    (statistics,) = read_loop(loop).loops()
    text = " ".join("\n".join(report_resources.tasks(statistics, Style(False, 200), False)).split())
    assert re.search(r"waiting - 3 3 0 0 3", text), text


@pytest.mark.parametrize("half", HALVES)
def test_a_task_that_was_one_of_too_many_is_counted_once(half: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first step is remembered for the latest tasks only; the next one is not a first step."""
    monkeypatch.setattr(alive_tasks, "MAX_ALIVE", 64)
    sites, waits = SiteNames([]), Waits()
    statistics = TaskStatistics(lambda: sites, waits, lambda: True)
    for begins, first in [(begins, first) for begins in (True, False) for first in range(0, 100, 20)]:
        decoded = new_decoded(half)
        for number in range(first, first + 20):
            ident = (number + 1) * SITE_LIMIT + 7.0
            if begins:
                decoded.tasks.append(NewTask(ident, "", number, 1.0 + number, 0, 0.0, True))
            begun = 1.0 + number + (0.0 if begins else 200.0)
            decoded.runs.append((number + (0 if begins else 100), begun, begun + 0.5, ident, "task", 0.0, 0, 0, 0, 0))
        statistics.feed(decoded)
        if begins and first == 80:
            waits.look([Standing(150.0, (number + 1) * SITE_LIMIT + 7.0, 1) for number in range(100)], 1000.0)
    (totals,) = statistics.coroutines.values()
    assert (totals.count, totals.steps) == (100, 200)
    assert totals.alive <= 64
    # Four at a time, by the beginnings, and by the second steps of those that were forgotten.
    assert statistics.forgotten >= 100 - 64 and statistics.forgotten % 4 == 0
    assert totals.most_alive <= 64
    # The waits of all are known, of those forgotten too: each counts as the time between two looks at one task.
    (waited,) = waits.totals.values()
    assert (waited.count, waited.estimated_s()) == (100, 100 * 1000.0)


def test_the_first_loop_of_each_process_of_a_slot_has_its_own_beginning() -> None:
    waits = Waits()
    sites = SiteNames()
    statistics = TaskStatistics(lambda: sites, waits, lambda: True)
    for began in (10.0, 15.0):  # two processes, one after the other
        sites = SiteNames()
        waits.new_process()
        decoded = Decoded(LoopInfo(1, "MainThread", began))
        statistics.feed(decoded)
        assert waits.loop_began == began
