"""Tasks alive over time, by coroutine: what tells a leak from a crowd, in a report made after everything has ended."""

from __future__ import annotations

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

    Counted from first steps and ends, so tasks that were there before a gap in the record are not.
    """

    def __init__(self, process: ProcessStatistics, loop: LoopStatistics) -> None:
        self._process = process
        self._clear()

    def _clear(self) -> None:
        self._sites = self._process.sites
        self.step = _STEP_SECONDS
        self.series: dict[int, list[int]] = {}
        self._alive: dict[int, int] = {}
        self._next = -1.0
        self._points = 0
        self._number = 0

    def feed(self, decoded: Decoded) -> None:
        """Takes in one chunk of the loop's record."""
        if self._sites is not self._process.sites:
            self._clear()
        if decoded.loop is not None and decoded.loop.number != self._number:
            self._number = decoded.loop.number
            self._alive.clear()
        changes = [(task.start, site_of(task.ident), 1) for task in decoded.tasks]
        changes += [(end, site_of(ident), -1) for ident, _, end, _ in decoded.finished]
        changes = [change for change in changes if 0.0 <= change[0] < _LATEST]
        if not changes:
            if 0.0 <= self._next <= decoded.end < _LATEST:
                self._advance(decoded.end)
            return
        changes.sort()
        if self._next < 0.0:
            self._next = changes[0][0] + self.step
        for when, site, change in changes:
            if when >= self._next:
                self._advance(when)
            number = self._alive.get(site)
            if number is None:
                if len(self._alive) >= _MAX_COROUTINES:
                    continue
                number = 0
                self.series[site] = [0] * self._points
            self._alive[site] = max(0, number + change)

    def _advance(self, now: float) -> None:
        """Adds the points up to ``now``. A gap of any length costs no more than a series has points."""
        while now - self._next > self.step * _POINTS:
            self._halve()
        while self._next <= now:
            for site, series in self.series.items():
                series.append(self._alive.get(site, 0))
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


def add_to(statistics: Statistics) -> None:
    """Trends become a part of these statistics; to be called before the first process is attached."""
    statistics.loop_parts.append(TaskTrends)


def trends_of(loop: LoopStatistics) -> TaskTrends | None:
    """The part of a loop label."""
    return next((part for part in loop.parts if isinstance(part, TaskTrends)), None)
