"""The further pages of `traceloop top`: tasks, executors, requests, as they stand now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from traceloop.reading.requests.parts import requests_of
from traceloop.reading.requests.totals import grouped
from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.reading.statistics.run import Statistics
from traceloop.reading.statistics.task_tree import tasks_now, tree_of

from . import task_view
from .tables import Style, clean, clip, count, counted, seconds, table


def lines(statistics: Statistics, page: str, style: Style, rows: int) -> list[str]:
    """The lines of a page (of ``PAGES``), as many as there is room for."""
    out: list[str] = []
    with statistics.lock:
        for _, process in sorted(statistics.processes.items()):
            if process.attached:
                out += PAGES[page](process, style)
    out = out or [style.dim("the program has not run an asyncio event loop yet")]
    shown = out[:rows] if len(out) <= rows else [*out[: rows - 1], style.dim(f"and {len(out) - rows + 1} more lines")]
    return [clip(line, style.width) for line in shown]


def _tasks(process: ProcessStatistics, style: Style) -> Iterator[str]:
    tasks = tasks_now(process, process.now())
    waiting = sum(task.state == "waiting" for task in tasks)
    yield style.bold(f"process {process.pid}: {counted(len(tasks), 'task')}, {waiting} waiting")
    yield from task_view.tree(tree_of(tasks), style)


def _executors(process: ProcessStatistics, style: Style) -> Iterator[str]:
    every = list(process.executors.executors.values())
    yield style.bold(f"process {process.pid}: {counted(len(every), 'executor')}")
    rows = [
        [
            each.label,
            f"{count(each.workers)} of {count(each.max_workers)}" if each.max_workers else count(each.workers),
            count(each.active),
            style.bad(count(each.waiting)) if each.waiting else "0",
            count(each.run_durations.count),
            seconds(each.queue_durations.quantile(0.99)),
            seconds(each.run_durations.quantile(0.5)),
            seconds(each.run_durations.quantile(0.99)),
        ]
        for each in sorted(every, key=lambda each: (-each.waiting, -each.run_durations.sum))
    ]
    header = ["executor", "workers", "running", "waiting", "calls", "queued p99", "ran p50", "p99"]
    yield from table(style, header, rows, indent=2)


def _requests(process: ProcessStatistics, style: Style) -> Iterator[str]:
    totals = requests_of(process)
    most = totals.most() if totals is not None else []
    yield style.bold(f"process {process.pid}: {counted(sum(each.count for _, each in most), 'request')}")
    rows = []
    for name, each in most:
        parts = sorted(grouped(each.parts).items(), key=lambda item: -item[1])
        whole = sum(spent for _, spent in parts) or 1.0
        where = ", ".join(f"{part} {spent / whole:.0%}" for part, spent in parts[:2])
        durations = each.durations
        numbers = [seconds(durations.quantile(share)) for share in (0.5, 0.99)]
        rows.append([clean(name), count(each.count), *numbers, seconds(durations.maximum), where])
    yield from table(style, ["request", "answered", "p50", "p99", "longest", "mostly"], rows, indent=2)


#: By name; the page of the loops is ``LiveView``'s.
PAGES: Final[dict[str, Callable[[ProcessStatistics, Style], Iterator[str]]]] = {
    "tasks": _tasks,
    "executors": _executors,
    "requests": _requests,
}
