"""Executors that are full at this moment: who fills them, and who waits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .executors import ExecutorStatistics, WorkersAt


class Calls(NamedTuple):
    """Calls of one function: how many (``calls``), and for how long the longest of them has run or waited, s."""

    function: str
    calls: int
    longest_s: float


class FullExecutor(NamedTuple):
    """An executor that is full now. full_s: for how long at least (s): as long as the longest waiting call has waited.

    fillers: the calls that its workers run. waiters: the calls that wait for a worker. Both: most calls first. stacks:
    where its workers stood at the last look at them; None where there was none.
    """

    executor: str
    workers: int
    full_s: float
    fillers: list[Calls]
    waiters: list[Calls]
    stacks: WorkersAt | None


def full_executors(executors: ExecutorStatistics, now: float) -> list[FullExecutor]:
    """The executors whose workers are all taken while calls wait, longest full first; ``now``: monotonic s.

    Takes time in proportion to the calls under way.
    """
    waiting: dict[str, list[tuple[str, float]]] = {}
    for label, function, submit in executors.unstarted():
        waiting.setdefault(label, []).append((function, max(0.0, now - submit)))
    if not waiting:
        return []
    running: dict[str, list[tuple[str, float]]] = {}
    for label, function, age in executors.running(now):
        running.setdefault(label, []).append((function, age))
    out: list[FullExecutor] = []
    for label, calls in waiting.items():
        totals = executors.executors[label]
        if totals.max_workers and len(running.get(label, ())) >= totals.max_workers:
            full_s = max(age for _, age in calls)
            stacks = totals.workers_at if totals.workers_at and totals.workers_at.when >= now - full_s else None
            fillers, waiters = _by_function(running[label]), _by_function(calls)
            out.append(FullExecutor(label, totals.max_workers, full_s, fillers, waiters, stacks))
    return sorted(out, key=lambda each: -each.full_s)


def _by_function(calls: Iterable[tuple[str, float]]) -> list[Calls]:
    found: dict[str, tuple[int, float]] = {}
    for function, age in calls:
        count, longest = found.get(function, (0, 0.0))
        found[function] = count + 1, max(longest, age)
    ranked = sorted(found.items(), key=lambda item: -item[1][0])
    return [Calls(function, count, longest) for function, (count, longest) in ranked]
