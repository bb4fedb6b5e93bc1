"""Pauses of the garbage collector, and the handle runs that they interrupted.

A collection is noted in the process's ring, a run in its loop's; they find each other by time. In one turn of reading
the process's ring is taken in first, so a collection waits for the runs around it. One that begins in no run of a loop
(in its poll, before it, in another thread meanwhile) interrupted nothing there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from typing import Final

from ..decoding.decoded import Collection, Decoded, Run
from .context import SitesOf
from .histograms import Histogram
from .labels import BoundedLabels
from .parts import Sample

_MAX_GENERATIONS: Final = 4
_RECENT: Final = 1000


class Interrupted:
    """Collections within the runs of one callback: how many, and how long they took, s."""

    __slots__ = ("count", "longest", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = self.longest = 0.0


def _start(run: Run) -> float:
    return run[1]


class CollectionStatistics:
    """Garbage collections of one process, by generation, and by the callback that they interrupted."""

    def __init__(self, sites_of: SitesOf, labels: BoundedLabels) -> None:
        """``labels``: the callbacks that the process may have as label values."""
        self._sites_of = sites_of
        self._labels = labels
        self.pauses: dict[int, Histogram] = {}
        self.collected: dict[int, int] = {}
        self.uncollectable: dict[int, int] = {}
        self.interrupted: dict[str, Interrupted] = {}
        self._recent: deque[Collection] = deque(maxlen=_RECENT)

    def feed(self, decoded: Decoded) -> None:
        """Takes in a stretch's collections, or finds the runs that those before it interrupted."""
        for each in decoded.collections:
            generation = each.generation
            if not 0 <= generation < _MAX_GENERATIONS:
                continue  # a damaged record's
            if generation not in self.pauses:
                self.pauses[generation] = Histogram()
                self.collected[generation] = self.uncollectable[generation] = 0
            self.pauses[generation].add(max(0.0, each.duration))
            self.collected[generation] += max(0, each.collected)
            self.uncollectable[generation] += max(0, each.uncollectable)
            self._recent.append(each)
        runs = decoded.runs
        if runs and self._recent:
            first, last = runs[0][1], runs[-1][2]
            for each in self._recent:
                if first <= each.start < last:
                    run = runs[bisect_right(runs, each.start, key=_start) - 1]
                    if each.start < run[2]:
                        self._interrupts(run, max(0.0, each.duration))

    def _interrupts(self, run: Run, duration: float) -> None:
        label = self._labels.admit(self._sites_of().label_of(run[3]))
        totals = self.interrupted.get(label)
        if totals is None:
            totals = self.interrupted[label] = Interrupted()
        totals.count += 1
        totals.seconds += duration
        totals.longest = max(totals.longest, duration)

    def metrics(self) -> Iterator[Sample]:
        """Pauses, what they brought, and whom they interrupted."""
        for generation, histogram in self.pauses.items():
            labels = (("generation", str(generation)),)
            yield Sample("cpython_gc_pause_duration_seconds", labels, histogram)
            yield Sample("cpython_gc_collected_objects_total", labels, self.collected[generation])
            yield Sample("cpython_gc_uncollectable_objects_total", labels, self.uncollectable[generation])
        for callback, totals in self.interrupted.items():
            yield Sample("asyncio_callback_gc_pause_seconds_total", (("callback", callback),), totals.seconds)
