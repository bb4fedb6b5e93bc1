"""Loops and processes as rows of a table, for a short report of many."""

from __future__ import annotations

from collections.abc import Iterable

from traceloop.reading.statistics.histograms import Histogram
from traceloop.reading.statistics.loop import LoopStatistics
from traceloop.reading.statistics.process import ProcessStatistics

from .tables import Style, clean, count, counted, percent, seconds, size, table

#: Rows of processes.
_PROCESSES = 8


def loops(every: list[LoopStatistics], style: Style, limit: int) -> list[str]:
    """A row for each of the loops, up to ``limit``, with the most callbacks first; and a line for the rest."""
    ranked = sorted(every, key=lambda loop: -loop.callbacks.runs)
    rows = [[clean(loop.label), *_numbers([loop])] for loop in ranked[:limit]]
    lines = ["", *table(style, ["loop", *_HEADER], rows)]
    if len(ranked) > limit:
        runs = sum(loop.callbacks.runs for loop in ranked[limit:])
        lines.append(style.dim(f"    and {counted(len(ranked) - limit, 'more loop')} with {counted(runs, 'callback')}"))
    return lines


def processes(every: list[ProcessStatistics], style: Style) -> list[str]:
    """A row for each of the processes, with the most callbacks first; and a line for the rest."""
    ranked = sorted(every, key=lambda each: -sum(loop.callbacks.runs for loop in each.loops.values()))
    rows = [
        [
            f"process {each.slot}, pid {each.pid}" if each.pid else f"process {each.slot}",
            *_numbers(each.loops.values()),
            size(each.most_resident_bytes) if each.most_resident_bytes else "",
        ]
        for each in ranked[:_PROCESSES]
    ]
    lines = table(style, ["other processes", *_HEADER, "memory"], rows, indent=2)
    if len(ranked) > _PROCESSES:
        lines.append(style.dim(f"  and {counted(len(ranked) - _PROCESSES, 'more process', 'more processes')}"))
    return lines


_HEADER = ["active", "share", "callbacks", "delay p99", "longest", "slow", "tasks"]


def _numbers(every: Iterable[LoopStatistics]) -> list[str]:
    found = list(every)
    times = [loop.times() for loop in found]
    active, total = sum(each[0] for each in times), sum(sum(each) for each in times)
    delays = Histogram().merge(each for loop in found for each in loop.callbacks.delays.values())
    durations = Histogram().merge(each for loop in found for each in loop.callbacks.durations.values())
    slow = sum(loop.callbacks.slow_runs for loop in found)
    return [
        seconds(active),
        percent(active / total if total else 0.0),
        count(sum(loop.callbacks.runs for loop in found)),
        seconds(delays.quantile(0.99)),
        seconds(durations.maximum),
        count(slow) if slow else "",
        count(sum(loop.tasks_created for loop in found)),
    ]
