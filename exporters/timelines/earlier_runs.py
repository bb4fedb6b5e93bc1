"""Where the latest runs of a ring began. An arrow leads from a run to each run that it scheduled."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter
from typing import Final

from traceloop.reading.decoding.runs import Run

# Chunks that are remembered: half a million runs, 4 MB.
_CHUNKS: Final = 64
_start_of = itemgetter(1)


class EarlierRuns:
    """The starts of the runs of one ring, of the latest chunks."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._starts: list[array[float]] = []

    def add(self, runs: Sequence[Run]) -> None:
        """The runs of a chunk, which are numbered one after the other."""
        if not runs:
            return
        self._firsts.append(runs[0][0])
        self._starts.append(array("d", map(_start_of, runs)))
        if len(self._firsts) > _CHUNKS:
            del self._firsts[0], self._starts[0]

    def start_of(self, number: int) -> float:
        """When the run began, monotonic s; -1 where that is not remembered."""
        at = bisect_right(self._firsts, number) - 1
        if at < 0:
            return -1.0
        index = number - self._firsts[at]
        return self._starts[at][index] if index < len(self._starts[at]) else -1.0
