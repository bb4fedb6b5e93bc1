"""Tasks alive over time, by coroutine. It distinguishes a leak from a crowd when a report is made after the end."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from ...record.sites import site_of
from ..decoding.decoded import Decoded
from ..decoding.task_rows import sites_among

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..statistics.loop import LoopStatistics
    from ..statistics.parts import Sample
    from ..statistics.process import ProcessStatistics
    from ..statistics.run import Statistics

# Points of a series. When it is full, every second point is dropped, and points are twice as far apart from then on.
_POINTS: Final = 128
_STEP_SECONDS: Final = 0.25
_MAX_COROUTINES: Final = 500
_START: Final = itemgetter(3)
_END: Final = itemgetter(2)
# A time beyond this (monotonic s, thirty years) comes from a damaged record.
_LATEST: Final = 1e9


class TaskTrends:
    """A part of a loop's statistics. ``series``: by site of the coroutine, tasks alive at moments ``step`` s apart.

    ``TaskStatistics``, which takes each chunk in before this, knows how many are alive. So only a chunk with a point in
    it is looked at task by task: backwards to the number at the point, then forwards to the next points.
    """

    def __init__(self, process: ProcessStatistics, loop: LoopStatistics) -> None:
        self._process = process
        self._tasks = loop.tasks
        self._clear()

    def _clear(self) -> None:
        self._sites = self._process.sites
        self.step = _STEP_SECONDS
        self.series: dict[int, list[int]] = {}
        self._next = -1.0
        self._points = 0

    def feed(self, decoded: Decoded) -> None:
        """Takes in one chunk of the loop's record."""
        if self._sites is not self._process.sites:
            self._clear()
        last = max((when for when in _last_times(decoded) if when < _LATEST), default=-1.0)
        if self._next < 0.0:
            first = min((when for when in _first_times(decoded) if 0.0 <= when < _LATEST), default=-1.0)
            if first < 0.0:
                return
            self._next = first + self.step
        if last < self._next:
            return
        is_long = last - self._next > self.step * _POINTS
        changes = self._each_change(decoded) if is_long else self._changes(decoded, last)
        alive = {site: totals.alive for site, totals in islice(self._tasks.coroutines.items(), _MAX_COROUTINES)}
        for site in alive:
            if site not in self.series and len(self.series) < _MAX_COROUTINES:
                self.series[site] = [0] * self._points
        for _, site, change in changes:
            alive[site] = alive.get(site, 0) - change
        for when, site, change in changes:
            if when >= self._next:
                self._advance(when, alive)
            alive[site] += change
        self._advance(last, alive)

    def _each_change(self, decoded: Decoded) -> list[tuple[float, int, int]]:
        """Each task that began or ended after the next point: when, its site, 1 or -1."""
        first = self._next
        changes = [(each.start, site_of(each.ident), 1) for each in decoded.tasks if first <= each.start < _LATEST]
        changes += [(end, site_of(ident), -1) for ident, _, end, _ in decoded.finished if first <= end < _LATEST]
        return sorted(changes)

    def _changes(self, decoded: Decoded, last: float) -> list[tuple[float, int, int]]:
        """The same, added up between neighbouring points, up to ``last``. It costs 50 ns a task; a list of all changes
        took a third of the collector's time for short tasks.
        """
        began, ended = decoded.tasks, decoded.finished
        task, end = bisect_left(began, self._next, key=_START), bisect_left(ended, self._next, key=_END)
        changes: list[tuple[float, int, int]] = []
        point = self._next
        while point <= last:
            following = point + self.step
            next_task = bisect_left(began, following, task, key=_START)
            next_end = bisect_left(ended, following, end, key=_END)
            more = Counter(sites_among(began, task, next_task))
            more.subtract(sites_among(ended, end, next_end))
            changes += [(point, site, change) for site, change in more.items() if change]
            task, end, point = next_task, next_end, following
        return changes

    def _advance(self, now: float, alive: dict[int, int]) -> None:
        """Adds the points up to ``now``. A gap of any length costs no more than a series has points."""
        while now - self._next > self.step * _POINTS:
            self._halve()
        while self._next <= now:
            for site, series in self.series.items():
                series.append(max(0, alive.get(site, 0)))
            self._points += 1
            self._next += self.step
            if self._points >= _POINTS:
                self._halve()

    def _halve(self) -> None:
        for series in self.series.values():
            del series[1::2]
        self._points = (self._points + 1) // 2
        self.step *= 2

    @property
    def seconds(self) -> float:
        """Time covered."""
        return self._points * self.step

    def metrics(self) -> Iterator[Sample]:
        """None."""
        return iter(())


def _first_times(decoded: Decoded) -> Iterator[float]:
    """Of the first task that began in a chunk, and the first that ended."""
    if decoded.tasks:
        yield decoded.tasks[0].start
    if decoded.finished:
        yield decoded.finished[0][2]


def _last_times(decoded: Decoded) -> Iterator[float]:
    """Of the last task that began in a chunk, the last that ended, and of the loop's end."""
    if decoded.tasks:
        yield decoded.tasks[-1].start
    if decoded.finished:
        yield decoded.finished[-1][2]
    yield decoded.end


def add_to(statistics: Statistics) -> None:
    """Makes trends a part of these statistics. Call it before the first process is attached."""
    statistics.loop_parts.append(TaskTrends)


def trends_of(loop: LoopStatistics) -> TaskTrends | None:
    """The part of a loop label."""
    return next((part for part in loop.parts if isinstance(part, TaskTrends)), None)
