"""Tasks alive over time, by coroutine: what tells a leak from a crowd, in a report made after everything has ended."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from ...record.sites import site_of
from ..decoding.decoded import Decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..statistics.loop import LoopStatistics
    from ..statistics.parts import Sample
    from ..statistics.process import ProcessStatistics
    from ..statistics.run import Statistics

# Points of a series; when it is full every second one goes, and points are twice as far apart.
_POINTS: Final = 128
_STEP_SECONDS: Final = 0.25
_MAX_COROUTINES: Final = 500
# Monotonic s beyond which a time is none, but damage (thirty years).
_LATEST: Final = 1e9


class TaskTrends:
    """A part of a loop's statistics. series: by site of the coroutine, tasks alive at moments ``step`` s apart.

    How many are alive is known (``TaskStatistics``, which takes each chunk in before). So only a chunk within which a
    point lies is looked at task by task: backwards to how many there were at the point, then forwards to the next ones.
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
        if self._next >= 0.0 and not any(self._next <= when < _LATEST for when in _last_times(decoded)):
            return
        first = max(self._next, 0.0)
        changes = [(task.start, site_of(task.ident), 1) for task in decoded.tasks if first <= task.start < _LATEST]
        changes += [(end, site_of(ident), -1) for ident, _, end, _ in decoded.finished if first <= end < _LATEST]
        changes.sort()
        if self._next < 0.0:
            if not changes:
                return
            self._next = changes[0][0] + self.step
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
        if self._next <= decoded.end < _LATEST:
            self._advance(decoded.end, alive)

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


def _last_times(decoded: Decoded) -> Iterator[float]:
    """Of the last task that began in a chunk, the last that ended, and of the loop's end."""
    if decoded.tasks:
        yield decoded.tasks[-1].start
    if decoded.finished:
        yield decoded.finished[-1][2]
    yield decoded.end


def add_to(statistics: Statistics) -> None:
    """Trends become a part of these statistics; to be called before the first process is attached."""
    statistics.loop_parts.append(TaskTrends)


def trends_of(loop: LoopStatistics) -> TaskTrends | None:
    """The part of a loop label."""
    return next((part for part in loop.parts if isinstance(part, TaskTrends)), None)
