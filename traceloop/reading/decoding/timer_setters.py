"""Which run a place in the record belongs to: a timer remembers where the record stood when it was set."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import accumulate
from typing import Final

from .ring_reader import Batch

# How many records back a place is looked for (as many runs as spans/builder.py remembers), and in how many batches: a
# loop with little to do writes some ten a second. Half a megabyte a loop.
_RECORDS: Final = 65_536
_BATCHES: Final = 2048


class _Place:
    """A batch: how many runs were read before it, and its idents. Its runs are counted when a place in it is asked for.

    counts: by position in the batch, how many runs stand before it.
    """

    __slots__ = ("counts", "idents", "runs")

    def __init__(self, runs: int, idents: bytes) -> None:
        self.runs = runs
        self.idents = idents
        self.counts: array[int] | None = None

    def count(self) -> array[int]:
        counts = self.counts
        if counts is None:
            idents = memoryview(self.idents).cast("d")
            counts = self.counts = array("I", accumulate(map((0.0).__lt__, idents), initial=0))
            self.idents = b""
        return counts


class RunPlaces:
    """The latest batches of one ring by their place. For one thread."""

    def __init__(self) -> None:
        # Parallel: the number of the first record of each batch, and the batch.
        self._first: list[int] = []
        self._places: list[_Place] = []
        self._end = 0

    def add(self, batch: Batch, runs: int) -> None:
        """The batch is read next, ``runs`` runs have been read before."""
        first = batch.records_before
        if first < self._end:  # a damaged count: what is known would no longer be in order
            self._first.clear()
            self._places.clear()
        doubles = array("d", batch.records) if batch.doubles is None else batch.doubles
        self._first.append(first)
        self._places.append(_Place(runs, doubles[1::3].tobytes()))
        self._end = first + len(batch.records) // 3
        if len(self._first) > _BATCHES or self._end - self._first[0] > _RECORDS + _RECORDS // 4:
            # A part at a time, since a list is moved as a whole.
            old = max(bisect_right(self._first, self._end - _RECORDS) - 1, len(self._first) - _BATCHES * 3 // 4, 0)
            old = min(old, len(self._first) - 1)
            del self._first[:old]
            del self._places[:old]

    def run_at(self, record: int) -> int:
        """The number of the first run whose record is ``record`` or a later one; 0 where it is not known."""
        index = bisect_right(self._first, record) - 1
        if index < 0:
            return 0
        place = self._places[index]
        counts = place.count()
        offset = record - self._first[index]
        size = len(counts) - 1
        if offset >= size:
            return 0  # lost, or not read yet
        if counts[offset] == counts[size]:  # the run's record is in the next batch, if that was not lost
            following = self._first[index + 1] if index + 1 < len(self._first) else -1
            if following != self._first[index] + size:
                return 0
        return place.runs + counts[offset] + 1
