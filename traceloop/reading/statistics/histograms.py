"""Histograms that are fine enough for percentiles and add up to the published buckets exactly.

The published bounds (1-2.5-5 from 10 us to 10 s) are too coarse for a median. So each step is divided further. Every
published bound is also a fine bound, so that a published bucket is a sum of fine ones.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from math import inf
from operator import add
from typing import Final, NamedTuple

#: Upper bounds of the published buckets for durations, s.
DURATION_BOUNDS: Final = (
    *(float(f"{digits}e{exponent}") for exponent in range(-5, 1) for digits in ("1", "2.5", "5")),
    10.0,
)
#: Upper bounds of the published buckets for counts of handles.
COUNT_BOUNDS: Final = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0)

_STEPS = 5
# How many values wait until they are counted together: with so many, the search for each bound costs little a value.
_FOLD: Final = 4096
# Values from here on come from a damaged record.
_LARGEST: Final = 2.0**33


#: Of values that were counted elsewhere: their sum, the smallest, the largest.
Extent = tuple[float, float, float]


class Exemplar(NamedTuple):
    """A run that stands for its bucket. ``value`` as in the histogram, ``when`` in s of the wall clock."""

    trace_id: str
    span_id: str
    value: float
    when: float


class Bounds:
    """Published bounds and the finer ones between them; shared by all histograms of one shape."""

    __slots__ = ("cuts", "fine", "published")

    def __init__(self, published: Sequence[float], below: float = 0.0) -> None:
        """``below``: where this is above 0, there are fine bounds from here to the first published bound too."""
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


DURATIONS: Final = Bounds(DURATION_BOUNDS, below=1e-6)
COUNTS: Final = Bounds(COUNT_BOUNDS)


class Histogram:
    """Counts, sum, minimum and maximum of values; not thread-safe.

    Values from ``add_all`` are counted when the histogram is read, or when they are many: to sort them and look up each
    bound among them costs 0.17 us a value, to look up each value among the bounds 0.43 us.

    ``exemplars``: by index into the published bounds (the last: above them all).
    """

    __slots__ = ("_counts", "_maximum", "_minimum", "_sum", "_waiting", "bounds", "exemplars")

    def __init__(self, bounds: Bounds = DURATIONS) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds.fine) + 1)
        self._sum = 0.0
        self._maximum = 0.0
        self._minimum = inf
        self._waiting: list[float] = []
        self.exemplars: dict[int, Exemplar] = {}

    @classmethod
    def of(
        cls, bounds: Bounds, counts: list[int], total: float, maximum: float, exemplars: dict[int, Exemplar]
    ) -> Histogram:
        """A histogram of values that were counted elsewhere. ``total``: their sum. Of their minimum is known what
        follows from that: where all are alike, it is the maximum.
        """
        made = cls(bounds)
        made._counts, made._sum, made._maximum, made.exemplars = counts, total, maximum, exemplars
        made._minimum = max(0.0, total - (sum(counts) - 1) * maximum)
        return made

    @property
    def counts(self) -> list[int]:
        """How many values lie in each fine bucket; the last: above all bounds."""
        if self._waiting:
            self._fold()
        return self._counts

    @counts.setter
    def counts(self, counts: list[int]) -> None:
        if self._waiting:
            self._fold()
        self._counts = counts

    @property
    def sum(self) -> float:
        """The sum of all values."""
        if self._waiting:
            self._fold()
        return self._sum

    @property
    def maximum(self) -> float:
        """The largest value; 0 where there is none."""
        if self._waiting:
            self._fold()
        return self._maximum

    @property
    def minimum(self) -> float:
        """No value is below it; 0 where there is none. It is the smallest value where all were added here."""
        if self._waiting:
            self._fold()
        return self._minimum if self._minimum < inf else 0.0

    @property
    def count(self) -> int:
        """How many values were added."""
        return sum(self.counts)

    def add(self, value: float, times: int = 1) -> None:
        """Adds one value, or so many that are alike. A value that no clock or counter can show is ignored."""
        if not 0.0 <= value < _LARGEST:
            return
        self._counts[bisect_left(self.bounds.fine, value)] += times
        self._sum += value * times
        if value > self._maximum:
            self._maximum = value
        if value < self._minimum:
            self._minimum = value

    def add_all(self, values: Iterable[float]) -> None:
        """Adds many values. This costs a fraction of adding them one by one, since only C code handles each value."""
        self._waiting += values
        if len(self._waiting) >= _FOLD:
            self._fold()

    def add_counted(self, counted: tuple[list[int], float, float, float] | None) -> None:
        """Adds values that the reader's C half has counted: how many in each fine bucket, their sum, the smallest, the
        largest.
        """
        if counted is not None:
            counts, *extent = counted
            self.counts = list(map(add, self.counts, counts))
            self._extend(*extent)

    def add_buckets(self, buckets: Iterable[tuple[int, int]], extent: Extent) -> None:
        """The same where few buckets have any. ``buckets``: the fine bucket, and how many values lie in it."""
        counts = self.counts
        for bucket, count in buckets:
            counts[bucket] += count
        self._extend(*extent)

    def _extend(self, total: float, smallest: float, largest: float) -> None:
        self._sum += total
        self._maximum = max(self._maximum, largest)
        self._minimum = min(self._minimum, smallest)

    def _fold(self) -> None:
        """Counts the waiting values."""
        values, self._waiting = self._waiting, []
        values.sort()
        if values[0] < 0.0 or not values[-1] < _LARGEST:
            values = [value for value in values if 0.0 <= value < _LARGEST]  # a damaged record's
            if not values:
                return
        self._sum += sum(values)
        largest = values[-1]
        if largest > self._maximum:
            self._maximum = float(largest)
        if values[0] < self._minimum:
            self._minimum = float(values[0])
        counts, bounds = self._counts, self.bounds.fine
        done, total, index = 0, len(values), 0
        while done < total:
            # This skips empty buckets. It also ends where the values are NaN, and so in no order.
            index = bisect_left(bounds, values[done], index)
            upto = bisect_right(values, bounds[index], done) if index < len(bounds) else total
            counts[index] += upto - done
            done = upto
            index += 1

    def merge(self, others: Iterable[Histogram]) -> Histogram:
        """Adds the values of other histograms of the same bounds; returns itself."""
        for other in others:
            self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
            self._sum += other.sum
            self._maximum = max(self._maximum, other.maximum)
            self._minimum = min(self._minimum, other._minimum)
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

    def number_from(self, least: float) -> int:
        """How many values are greater than ``least``, to the precision of the fine buckets."""
        return sum(self.counts[bisect_left(self.bounds.fine, least) + 1 :])

    def sum_from(self, least: float) -> float:
        """The sum of the values greater than ``least``, some per cent too small: each counts as its bucket's lower
        bound.
        """
        fine = self.bounds.fine
        first = bisect_left(fine, least) + 1
        return sum(count * fine[index - 1] for index, count in enumerate(self.counts) if count and index >= first)

    def quantile(self, share: float) -> float:
        """The value below which ``share`` (0 to 1) of the values lie; interpolated linearly within a fine bucket.

        0 where the histogram is empty. Never below the minimum, or above the maximum.
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
                within = lower + (upper - lower) * (wanted - seen) / count
                return min(max(within, self.minimum), self.maximum)
            seen += count
        return self.maximum

    def set_exemplar(self, trace_id: str, span_id: str, value: float, when: float) -> None:
        """Makes an exported span the exemplar of its value's bucket, unless the bucket has one that ended later.

        Called from any thread. ``when``: wall clock, s. Prometheus refuses an exemplar older than the one before it.
        """
        index = bisect_left(self.bounds.published, value)
        known = self.exemplars.get(index)
        if known is None or known.when <= when:
            self.exemplars[index] = Exemplar(trace_id, span_id, value, when)
