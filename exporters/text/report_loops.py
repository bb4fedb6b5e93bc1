"""Loops and processes as rows of a table, for a short report of many."""

from __future__ import annotations

from collections.abc import Iterable

from traceloop.reading.statistics.histograms import Histogram
from traceloop.reading.statistics.loop import LoopStatistics
from traceloop.reading.statistics.process import ProcessStatistics

from .tables import Style, clean, count, counted, percent, seconds, size, table

#: Rows of processes.
_PROCESSES = 8


def ranked(every: Iterable[LoopStatistics]) -> list[LoopStatistics]:
    """The busiest loop first: what blocks a loop may be its only callback."""
    return sorted(every, key=lambda loop: (-loop.times()[0], -loop.callbacks.runs))


def busiest_first(process: ProcessStatistics) -> tuple[float, int]:
    """What to sort processes by: the time that their busiest loop was active, then the callbacks of all."""
    loops = process.loops.values()
    return -max((loop.times()[0] for loop in loops), default=0.0), -sum(loop.callbacks.runs for loop in loops)


def loops(every: list[LoopStatistics], style: Style, limit: int) -> list[str]:
    """A row for each of the loops, up to ``limit``, the busiest first; and a line for the rest."""
    those = ranked(every)
    rows = [[clean(loop.label), *_numbers([loop])] for loop in those[:limit]]
    lines = ["", *table(style, ["loop", *_HEADER], rows)]
    if len(those) > limit:
        runs = sum(loop.callbacks.runs for loop in those[limit:])
        lines.append(style.dim(f"    and {counted(len(those) - limit, 'more loop')} with {counted(runs, 'callback')}"))
    return lines


def processes(every: list[ProcessStatistics], style: Style) -> list[str]:
    """A row for each of the processes, the busiest first; and a line for the rest."""
    those = sorted(every, key=busiest_first)
    rows = [
        [
            f"process {each.slot}, pid {each.pid}" if each.pid else f"process {each.slot}",
            *_numbers(each.loops.values()),
            size(each.most_resident_bytes) if each.most_resident_bytes else "",
        ]
        for each in those[:_PROCESSES]
    ]
    lines = table(style, ["other processes", *_HEADER, "memory"], rows, indent=2)
    if len(those) > _PROCESSES:
        lines.append(style.dim(f"  and {counted(len(those) - _PROCESSES, 'more process', 'more processes')}"))
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
