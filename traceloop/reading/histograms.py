"""Histograms that are fine enough for percentiles and add up to the published buckets exactly.

The published bounds (1-2.5-5 from 10 us to 10 s) are too coarse to tell a median, so each step is divided further;
every published bound is also one of the fine ones, so a published bucket is a sum of fine ones.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple

#: Upper bounds of the published buckets for durations, s.
DURATION_BOUNDS: Final = (
    *(float(f"{digits}e{exponent}") for exponent in range(-5, 1) for digits in ("1", "2.5", "5")),
    10.0,
)
#: Upper bounds of the published buckets for counts of handles.
COUNT_BOUNDS: Final = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0)

_STEPS = 5


class Exemplar(NamedTuple):
    """A run that stands for its bucket. ``value`` as in the histogram, ``when`` in s of the wall clock."""

    trace_id: str
    span_id: str
    value: float
    when: float


class Bounds:
    """Published bounds and the finer ones between them; shared by all histograms of one shape."""

    __slots__ = ("cuts", "find", "fine", "published")

    def __init__(self, published: Sequence[float], below: float = 0.0) -> None:
        """``below``: fine bounds also reach from here to the first published one, where it is above 0."""
        self.published = tuple(published)
        fine: list[float] = []
        lower = below
        for upper in self.published:
            if lower > 0.0:
                ratio = (upper / lower) ** (1 / _STEPS)
                fine += [lower * ratio**step for step in range(1, _STEPS)]
            fine.append(upper)
            lower = upper
        self.fine = tuple(fine)
        # How many fine buckets lie at or below each published bound.
        self.cuts = tuple(bisect_left(self.fine, bound) + 1 for bound in self.published)
        self.find = partial(bisect_left, self.fine)


DURATIONS: Final = Bounds(DURATION_BOUNDS, below=1e-6)
COUNTS: Final = Bounds(COUNT_BOUNDS)


class Histogram:
    """Counts, sum and maximum of values; not thread-safe.

    ``exemplars``: by index into the published bounds (the last: above them all).
    """

    __slots__ = ("bounds", "counts", "exemplars", "maximum", "sum")

    def __init__(self, bounds: Bounds = DURATIONS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds.fine) + 1)
        self.sum = 0.0
        self.maximum = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    @property
    def count(self) -> int:
        """How many values were added."""
        return sum(self.counts)

    def add(self, value: float) -> None:
        """Adds one value."""
        self.counts[bisect_left(self.bounds.fine, value)] += 1
        self.sum += value
        if value > self.maximum:
            self.maximum = value

    def add_all(self, values: Sequence[float]) -> None:
        """Adds many values at a third of the cost of one by one: nothing but C code sees each of them."""
        if not values:
            return
        counts = self.counts
        for index, count in Counter(map(self.bounds.find, values)).items():
            counts[index] += count
        self.sum += sum(values)
        largest = max(values)
        if largest > self.maximum:
            self.maximum = largest

    def merge(self, others: Iterable[Histogram]) -> Histogram:
        """Adds the values of other histograms of the same bounds; returns itself."""
        for other in others:
            self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
            self.sum += other.sum
            self.maximum = max(self.maximum, other.maximum)
        return self

    def cumulative(self) -> list[int]:
        """How many values are at or below each published bound; last, how many there are."""
        out: list[int] = []
        total = done = 0
        for cut in self.bounds.cuts:
            total += sum(self.counts[done:cut])
            done = cut
            out.append(total)
        out.append(total + sum(self.counts[done:]))
        return out

    def quantile(self, share: float) -> float:
        """The value below which ``share`` (0 to 1) of the values lie; within a fine bucket, in a straight line.

        0 where the histogram is empty. Never above the maximum.
        """
        total = self.count
        if not total:
            return 0.0
        wanted = share * total
        seen = 0
        for index, count in enumerate(self.counts):
            if count and seen + count >= wanted:
                if index == len(self.bounds.fine):
                    return self.maximum
                lower = self.bounds.fine[index - 1] if index else 0.0
                upper = self.bounds.fine[index]
                return min(lower + (upper - lower) * (wanted - seen) / count, self.maximum)
            seen += count
        return self.maximum

    def set_exemplar(self, trace_id: str, span_id: str, value: float, when: float) -> None:
        """Lets an exported span stand for the bucket of its value, unless one that ended later does.

        From any thread. The latest stays: Prometheus refuses an exemplar that is older than the one before it.
        """
        index = bisect_left(self.bounds.published, value)
        known = self.exemplars.get(index)
        if known is None or known.when <= when:
            self.exemplars[index] = Exemplar(trace_id, span_id, value, when)
