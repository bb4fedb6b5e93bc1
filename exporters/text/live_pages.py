"""The further pages of `traceloop top`: tasks, executors, requests, callbacks, heaps, as they stand now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from traceloop.reading.requests.parts import requests_of
from traceloop.reading.requests.totals import grouped
from traceloop.reading.stalls.parts import running_tasks
from traceloop.reading.statistics.callbacks import CallbackTotals
from traceloop.reading.statistics.histograms import Histogram
from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.reading.statistics.run import Statistics
from traceloop.reading.statistics.task_tree import BRIEF, WAITING, tasks_now, tree_of
from traceloop.record import layout
from traceloop.record.plumbing import readable

from . import task_view
from .tables import Style, clean, clip, count, counted, percent, seconds, size, table


class Choice(NamedTuple):
    """What of a page is wanted. sort: how many columns on from the page's own order; upwards: the smallest first.
    only: rows whose name has this text, in whatever case.
    """

    sort: int = 0
    upwards: bool = False
    only: str = ""


class _Row(NamedTuple):
    """A row of a table. values: what each column is sorted by, the name first; cells: what is shown."""

    values: tuple[str | float, ...]
    cells: list[str]


def lines(statistics: Statistics, page: str, style: Style, rows: int, choice: Choice | None = None) -> list[str]:
    """The lines of a page (of ``PAGES``), as many as there is room for."""
    choice = choice or Choice()
    out: list[str] = []
    with statistics.lock:
        for _, process in sorted(statistics.processes.items()):
            if process.attached:
                out += PAGES[page](process, style, choice)
    out = out or [style.dim("the program has not run an asyncio event loop yet")]
    shown = out[:rows] if len(out) <= rows else [*out[: rows - 1], style.dim(f"and {len(out) - rows + 1} more lines")]
    return [clip(line, style.width) for line in shown]


def _sorted(style: Style, header: list[str], rows: list[_Row], choice: Choice, *, by: int) -> Iterator[str]:
    """The table, in the order that was chosen. by: the column that its own order goes by, the largest first."""
    column = (by + choice.sort) % len(header)
    kept = [row for row in rows if choice.only.casefold() in str(row.values[0]).casefold()]
    # Names from A on, numbers from the largest.
    kept.sort(key=lambda row: row.values[column], reverse=(column > 0) != choice.upwards)
    marked = [f"{name} {'▲' if choice.upwards else '▼'}" if at == column else name for at, name in enumerate(header)]
    yield from table(style, marked, [row.cells for row in kept], indent=2)
    if len(kept) < len(rows):
        yield style.dim(f"  {len(kept)} of {len(rows)} have {clean(choice.only)!r}")


def _tasks(process: ProcessStatistics, style: Style, choice: Choice) -> Iterator[str]:
    tasks = tasks_now(process, process.now(), running=running_tasks(process))
    waiting = sum(task.state in (WAITING, BRIEF) for task in tasks)
    yield style.bold(f"process {process.pid}: {counted(len(tasks), 'task')}, {waiting} waiting")
    for line in task_view.tree(tree_of(tasks), style):
        if choice.only.casefold() in line.casefold():
            yield line


def _executors(process: ProcessStatistics, style: Style, choice: Choice) -> Iterator[str]:
    every = list(process.executors.executors.values())
    yield style.bold(f"process {process.pid}: {counted(len(every), 'executor')}")
    rows = []
    for each in every:
        queued, ran = each.queue_durations.quantile(0.99), each.run_durations
        quantiles = (ran.quantile(0.5), ran.quantile(0.99))
        rows.append(
            _Row(
                (each.label, each.workers, each.active, each.waiting, ran.count, queued, *quantiles),
                [
                    each.label,
                    f"{count(each.workers)} of {count(each.max_workers)}" if each.max_workers else count(each.workers),
                    count(each.active),
                    style.bad(count(each.waiting)) if each.waiting else "0",
                    count(ran.count),
                    seconds(queued),
                    *map(seconds, quantiles),
                ],
            )
        )
    header = ["executor", "workers", "running", "waiting", "calls", "queued p99", "ran p50", "p99"]
    yield from _sorted(style, header, rows, choice, by=3)


def _requests(process: ProcessStatistics, style: Style, choice: Choice) -> Iterator[str]:
    totals = requests_of(process)
    most = totals.most() if totals is not None else []
    yield style.bold(f"process {process.pid}: {counted(sum(each.count for _, each in most), 'request')}")
    rows = []
    for name, each in most:
        parts = sorted(grouped(each.parts).items(), key=lambda item: -item[1])
        whole = sum(spent for _, spent in parts) or 1.0
        where = ", ".join(f"{part} {spent / whole:.0%}" for part, spent in parts[:2])
        times = (*(each.durations.quantile(share) for share in (0.5, 0.99)), each.durations.maximum)
        cells = [clean(name), count(each.count), *map(seconds, times), where]
        rows.append(_Row((name, each.count, *times, whole), cells))
    yield from _sorted(style, ["request", "answered", "p50", "p99", "longest", "mostly"], rows, choice, by=5)


def _callbacks(process: ProcessStatistics, style: Style, choice: Choice) -> Iterator[str]:
    totals: dict[str, CallbackTotals] = {}
    slow: dict[str, int] = {}
    for loop in process.loops.values():
        for label, each in loop.callbacks.callbacks.items():
            name = readable(label)  # what several functions of the loop do together is one row
            totals.setdefault(name, CallbackTotals(name)).add(each.runs, each.seconds, each.longest_s)
        for (label, _), runs in loop.callbacks.slow.items():
            name = readable(label)
            slow[name] = slow.get(name, 0) + runs.runs
    whole = sum(each.seconds for each in totals.values()) or 1.0
    yield style.bold(f"process {process.pid}: {counted(len(totals), 'callback')} since its start")
    rows = []
    for label, each in totals.items():
        mean = each.seconds / max(1, each.runs)
        late = slow.get(label, 0)
        cells = [
            label,
            count(each.runs),
            seconds(each.seconds),
            percent(each.seconds / whole),
            seconds(mean),
            seconds(each.longest_s),
            style.bad(count(late)) if late else "-",
        ]
        rows.append(_Row((label, each.runs, each.seconds, each.seconds, mean, each.longest_s, late), cells))
    yield from _sorted(style, ["callback", "runs", "time", "share", "mean", "longest", "slow"], rows, choice, by=2)


def _heaps(process: ProcessStatistics, style: Style, choice: Choice) -> Iterator[str]:
    """Timers of each loop, memory and garbage, with what grew."""
    resident = process.usage.resident_bytes if process.usage is not None else 0
    yield style.bold(f"process {process.pid}: {size(resident)} resident, {size(process.most_resident_bytes)} at most")
    rows = []
    for label, loop in process.loops.items():
        if not loop.is_open:
            continue
        cancelled, sweeps = loop.gauge(layout.W_TIMERS_CANCELLED), loop.counter(layout.W_COMPACTIONS)
        live = max(0.0, loop.gauge(layout.W_TIMERS) - cancelled)
        numbers = (live, cancelled, sweeps)
        rows.append(_Row((label, *numbers), [f"timers of {label}", *map(count, numbers)]))
    yield from _sorted(style, ["timer heap", "live", "cancelled", "swept"], rows, choice, by=1)
    if process.memory.blocks >= 0:
        yield f"  allocated blocks: {count(process.memory.blocks)} now, {count(process.memory.most_blocks)} at most"
    pauses: Histogram
    for generation, pauses in sorted(process.collections.pauses.items()):
        found = process.collections.collected.get(generation, 0)
        yield (
            f"  garbage of generation {generation}: {counted(pauses.count, 'collection')}, {seconds(pauses.sum)} in "
            f"all, {seconds(pauses.maximum)} at most, {count(found)} objects freed"
        )
    for growth in list(process.growth.detections)[-5:]:
        yield style.warn(f"  {clean(growth.text)}")


#: By name; the page of the loops is ``LiveView``'s.
PAGES: Final[dict[str, Callable[[ProcessStatistics, Style, Choice], Iterator[str]]]] = {
    "tasks": _tasks,
    "executors": _executors,
    "requests": _requests,
    "callbacks": _callbacks,
    "heaps": _heaps,
}
#: Pages whose rows can be sorted; those of the others have an order of their own.
SORTED: Final = frozenset(("executors", "requests", "callbacks", "heaps"))
