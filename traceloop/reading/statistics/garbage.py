"""Pauses of the garbage collector, the handle runs that they interrupted, and those that they delayed.

A collection is recorded in the process ring, a run in its loop's ring; they are matched by time. Each poll takes in the
process ring first, so a collection waits for the runs around it. A collection that does not begin within a run of a
loop (but in its poll, or in another thread) interrupted nothing there. Each interrupts at most one run, so that the
callbacks' sums never exceed the total.

A collection of another thread often begins in a poll, since that gives the GIL away. It then holds the loop from the
moment at which one of the callbacks of the next iteration was ready. When data of a socket arrived is not known, so
what waited for a poll to see it does not count.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final

from ...record.sites import site_of
from ..decoding.decoded import Collection, Decoded
from ..decoding.runs import Run, Runs
from .context import SitesOf
from .histograms import Histogram
from .labels import BoundedLabels
from .parts import Sample

_MAX_GENERATIONS: Final = 4
#: How many collections wait for their run one by one. Beyond that, older ones are merged in pairs.
_WAITING: Final = 8192
#: How many runs of one iteration are asked since when they were ready. The latest ones may be timers, or come from a
#: poll, so that the first one is not enough.
_ASKED: Final = 64


class InterruptedRuns:
    """Collections within the runs of one callback: how many, and how long they took, s."""

    __slots__ = ("count", "longest", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = self.longest = 0.0


class _Waiting:
    """A collection whose run was not found yet, or several merged neighbours in time.

    called: how much of their time was in calls of ``gc.collect()``. has_held: whether it counts among those that held a
    loop already.
    """

    __slots__ = ("called", "count", "has_held", "longest", "seconds")

    def __init__(self, collection: Collection) -> None:
        self.count = collection.number
        self.seconds = max(0.0, collection.duration)
        self.longest = _longest(collection)
        self.called = self.seconds if collection.called else 0.0
        self.has_held = False

    def add(self, other: _Waiting) -> None:
        self.count += other.count
        self.seconds += other.seconds
        self.longest = max(self.longest, other.longest)
        self.called += other.called
        self.has_held = self.has_held or other.has_held


class CollectionStatistics:
    """Garbage collections of one process, by generation, and by the callback that they interrupted."""

    def __init__(self, sites_of: SitesOf, labels: BoundedLabels) -> None:
        """``labels``: the callbacks that the process may have as label values."""
        self._sites_of = sites_of
        self._labels = labels
        self.pauses: dict[int, Histogram] = {}
        self.collected: dict[int, int] = {}
        self.uncollectable: dict[int, int] = {}
        self.interrupted: dict[str, InterruptedRuns] = {}
        #: For how long each held a loop that had something to do: it began within a run, or one waited for its end.
        self.held = Histogram()
        #: How much of that was in calls of ``gc.collect()``, s.
        self.held_by_calls = 0.0
        # Their starts (monotonic s), in order, and the collections. Thousands may come before their run has ended.
        self._starts: list[float] = []
        self._waiting: list[_Waiting] = []

    def feed(self, decoded: Decoded) -> None:
        """Takes in a chunk's collections, or finds the runs that those before it interrupted."""
        for each in decoded.collections:
            generation = each.generation
            if not 0 <= generation < _MAX_GENERATIONS:
                continue  # a damaged record's
            if generation not in self.pauses:
                self.pauses[generation] = Histogram()
                self.collected[generation] = self.uncollectable[generation] = 0
            waiting = _Waiting(each)
            _add(self.pauses[generation], waiting.seconds, waiting.longest, waiting.count)
            self.collected[generation] += max(0, each.collected)
            self.uncollectable[generation] += max(0, each.uncollectable)
            self._wait(each.start, waiting)
        runs = decoded.runs
        if not len(runs) or not self._starts:
            return
        starts = runs.starts
        first = bisect_left(self._starts, starts[0])
        last = bisect_left(self._starts, runs[-1][2])
        self._delay_first(runs, first)
        left: list[int] = []
        totals_of: dict[int, InterruptedRuns] = {}
        for position in range(first, last):
            start = self._starts[position]
            index = bisect_right(starts, start) - 1
            run = runs[index]
            if start < run[2]:
                site = site_of(run[3])
                totals = totals_of.get(site)
                if totals is None:
                    totals = totals_of[site] = self._totals_of(run[3])
                self._interrupts(totals, run, start, self._waiting[position])
            else:
                left.append(position)
                self._delays(runs, index + 1, position)
        if last - first > len(left):
            self._starts[first:last] = [self._starts[position] for position in left]
            self._waiting[first:last] = [self._waiting[position] for position in left]

    def _delay_first(self, runs: Runs, first: int) -> None:
        """Looks for the collections that the chunk's first iteration waited for: they begin before its first run, and
        so before the place ``first``. No two collections overlap, so the last ones are enough.
        """
        ready = _ready_since(runs, 0)
        for position in range(first - 1, -1, -1):
            if self._starts[position] + self._waiting[position].seconds <= ready:
                return
            self._delays(runs, 0, position)

    def _delays(self, runs: Runs, index: int, position: int) -> None:
        """Counts what of a collection the run at ``index``, the first after it, or one of its iteration waited for."""
        waiting, start = self._waiting[position], self._starts[position]
        if waiting.has_held:
            return
        end = min(start + waiting.seconds, runs.starts[index])
        length = end - max(start, _ready_since(runs, index))
        if length > 0.0:
            self._held(waiting, length)

    def _held(self, waiting: _Waiting, length: float) -> None:
        """Counts a collection that held a loop for ``length`` s; merged ones as one long and others that are alike."""
        waiting.has_held = True
        self.held_by_calls += min(waiting.called, length)
        _add(self.held, length, min(length, waiting.longest), waiting.count)

    def _wait(self, start: float, waiting: _Waiting) -> None:
        position = bisect_right(self._starts, start)
        self._starts.insert(position, start)
        self._waiting.insert(position, waiting)
        if len(self._starts) > _WAITING:
            older = _WAITING // 2
            for position in range(0, older, 2):
                self._waiting[position].add(self._waiting[position + 1])
            del self._starts[1:older:2], self._waiting[1:older:2]

    def _totals_of(self, ident: float) -> InterruptedRuns:
        label = self._labels.admit(self._sites_of().label_of(ident))
        totals = self.interrupted.get(label)
        if totals is None:
            totals = self.interrupted[label] = InterruptedRuns()
        return totals

    def _interrupts(self, totals: InterruptedRuns, run: Run, start: float, waiting: _Waiting) -> None:
        totals.count += waiting.count
        totals.seconds += waiting.seconds
        totals.longest = max(totals.longest, waiting.longest)
        if not waiting.has_held:
            # One of another thread ends later than the run where it then waits for the GIL itself.
            self._held(waiting, min(waiting.seconds, run[2] - start))

    def metrics(self) -> Iterator[Sample]:
        """The series: pauses, objects collected, and the callbacks that were interrupted."""
        for generation, histogram in self.pauses.items():
            labels = (("generation", str(generation)),)
            yield Sample("cpython_gc_pause_duration_seconds", labels, histogram)
            yield Sample("cpython_gc_collected_objects_total", labels, self.collected[generation])
            yield Sample("cpython_gc_uncollectable_objects_total", labels, self.uncollectable[generation])
        for callback, totals in self.interrupted.items():
            yield Sample("asyncio_callback_gc_pause_seconds_total", (("callback", callback),), totals.seconds)


def _longest(collection: Collection) -> float:
    if collection.number == 1:
        return max(0.0, collection.duration)
    return min(max(collection.longest, collection.duration / collection.number), max(0.0, collection.duration))


def _add(histogram: Histogram, seconds: float, longest: float, number: int) -> None:
    """Adds so many collections, which took ``seconds`` together: the longest, and others that are alike."""
    histogram.add(longest)
    if number > 1:
        histogram.add((seconds - longest) / (number - 1), number - 1)


def _ready_since(runs: Runs, index: int) -> float:
    """When the first of the runs of an iteration was ready (monotonic s), as far as that is known. ``index``: of the
    run that the iteration has next.
    """
    row = runs[index]
    iteration, ready = row[8], row[1]
    for each in range(index, min(index + _ASKED, len(runs))):
        row = runs[each]
        if row[8] != iteration:
            break
        ready = min(ready, row[1] - row[5])
    return ready
