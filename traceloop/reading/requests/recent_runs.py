"""The latest handle runs of one loop, by number."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from ..decoding.runs import Run, Runs

# A run is looked up when what it woke runs: as many runs later as the ready queue is long.
_KEPT: Final = 16_384


class RecentRuns:
    """Keeps what the decoder made, a chunk at a time. Runs are numbered in a row."""

    def __init__(self) -> None:
        self._chunks: deque[Runs] = deque()
        self._count = 0

    def add(self, runs: Runs) -> None:
        """The next runs of the loop."""
        if not len(runs):
            return
        self._chunks.append(runs)
        self._count += len(runs)
        while self._count - len(self._chunks[0]) >= _KEPT:
            self._count -= len(self._chunks.popleft())

    def get(self, number: int) -> Run | None:
        """The run of this number; None where it is not known, or no longer."""
        for runs in reversed(self._chunks):
            first = runs[0][0]
            if number >= first:
                index = number - first
                return runs[index] if index < len(runs) and runs[index][0] == number else None
        return None

    def before(self, number: int) -> Iterator[Run]:
        """The runs before this one, latest first."""
        for runs in reversed(self._chunks):
            first = runs[0][0]
            if number > first:
                for index in range(min(number - first, len(runs)) - 1, -1, -1):
                    yield runs[index]
