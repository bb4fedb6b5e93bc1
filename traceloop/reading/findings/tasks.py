"""Rules on tasks: leaked, or lost."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from ..statistics.alive_tasks import MAX_ALIVE
from ..units import about, count, counted, seconds
from . import thresholds
from .model import CRITICAL, NOTE, WARNING, Finding, Who
from .scope import Scope
from .trends import trends_of

if TYPE_CHECKING:
    from ..statistics.alive_tasks import CoroutineTotals
    from ..statistics.loop import LoopStatistics


def leaked(scope: Scope) -> Iterator[Finding]:
    """There are more and more tasks of one coroutine, and hardly any of them ends by itself."""
    for loop in scope.loops:
        trends = trends_of(loop)
        if trends is None or trends.seconds < thresholds.LEAK_SECONDS:
            continue
        for site, series in trends.series.items():
            totals = loop.tasks.coroutines.get(site)
            grown = growth(series)
            if totals is None or grown < thresholds.LEAK_TASKS:
                continue
            if totals.abandoned >= totals.count / 2:
                continue  # those are lost, and freed
            if totals.results + totals.exceptions > thresholds.LEAK_ENDED_SHARE * totals.count:
                continue
            label = loop.tasks.label(site)
            who = scope.who(label)
            makers = loop.tasks.creators_of(totals)
            forgotten = loop.tasks.forgotten
            per_hour = grown / trends.seconds * 3600.0
            yield Finding(
                "task-leak",
                "",
                CRITICAL if per_hour >= 100_000 else WARNING,
                f"Tasks of {who.place} are made and never end",
                f"{count(max(series))} alive at once, about {about(per_hour)} more each hour",
                scope.leak_cost(),
                scope.process.slot,
                loop.label,
                who,
                (
                    f"{counted(totals.count, 'task')} made, {count(totals.results)} returned, "
                    f"{count(totals.exceptions)} failed, {count(totals.cancelled)} were cancelled",
                    f"watched for {seconds(trends.seconds)}",
                    *((f"of tasks alive at once, the latest {count(MAX_ALIVE)} are counted",) if forgotten else ()),
                    *(f"{count(number)} of them made by {maker}" for maker, number in makers),
                ),
                "Give what they wait for a time limit (`asyncio.timeout`), make them in an `asyncio.TaskGroup`, or "
                "cancel them with what they serve.",
            )


def growth(series: list[int]) -> int:
    """By how many a series has grown up to its peak without coming down again; 0 if it has not.

    The series up to the peak is cut into four parts. The lowest point of each must be above the median of the one
    before.
    """
    if len(series) < 8:
        return 0
    peak = max(range(len(series)), key=series.__getitem__)  # the first one
    rising = series[: peak + 1]
    if len(rising) < max(8, len(series) // 3):
        return 0
    size = len(rising) // 4
    parts = [rising[index * size : (index + 1) * size] for index in range(3)] + [rising[3 * size :]]
    for before, after in pairwise(parts):
        if min(after) <= sorted(before)[len(before) // 2]:
            return 0
    # A crowd that comes at once and stays is no leak: in a leak at least a tenth came in the last quarter.
    total = rising[-1] - rising[0]
    return total if rising[-1] - parts[3][0] >= 0.1 * total else 0


def lost(scope: Scope) -> Iterator[Finding]:
    """Tasks were destroyed while they waited: nothing referred to them."""
    for loop in scope.loops:
        for site, totals in loop.tasks.coroutines.items():
            # Tasks of a deadlock hold each other, and are destroyed at the loop's end.
            in_circles = scope.process.waits.circles.destroyed(site)
            destroyed = totals.abandoned - max(in_circles, totals.left)
            who = scope.who(loop.tasks.label(site))
            if totals.left > in_circles:
                yield _left(scope, loop, totals, who)
            if destroyed < thresholds.LOST_TASKS:
                continue
            yield Finding(
                "lost-tasks",
                "",
                WARNING,
                f"Tasks of {who.place} are destroyed before they are done: nothing holds a reference to them",
                f"{count(destroyed)} of {counted(totals.count, 'task')}: what came after their last await never "
                "ran",
                scope.leak_cost(),
                scope.process.slot,
                loop.label,
                who,
                tuple(f"{count(number)} made by {maker}" for maker, number in loop.tasks.creators_of(totals)),
                "Keep what `asyncio.create_task` returns (in a set, with `task.add_done_callback(tasks.discard)`), or "
                "use an `asyncio.TaskGroup`.",
            )


def _left(scope: Scope, loop: LoopStatistics, totals: CoroutineTotals, who: Who) -> Finding:
    """A loop that was run by hand ended with tasks in it, by design or not."""
    return Finding(
        "lost-tasks",
        "left",
        NOTE,
        f"Tasks of {who.place} were not done when their loop stopped",
        f"{count(totals.left)} of {counted(totals.count, 'task')} were destroyed with it",
        0.0,
        scope.process.slot,
        loop.label,
        who,
        tuple(f"{count(number)} made by {maker}" for maker, number in loop.tasks.creators_of(totals)),
        "Cancel and await them before the loop is closed, as `asyncio.run` does.",
    )
