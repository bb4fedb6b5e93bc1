"""The latest handle runs of one loop, by number."""

from __future__ import annotations

from collections import deque
from typing import Final

from ..decoding.runs import Run, Runs

# A run is looked up when the handle that it woke runs. That is as many runs later as the ready queue is long.
_KEPT: Final = 16_384


class RecentRuns:
    """Keeps the decoder's runs, a chunk at a time. Their numbers have no gaps."""

    def __init__(self) -> None:
        # With the number of each chunk's first run.
        self._chunks: deque[tuple[int, Runs]] = deque()
        self._count = 0

    def add(self, runs: Runs) -> None:
        """The next runs of the loop."""
        if not len(runs):
            return
        self._chunks.append((runs[0][0], runs))
        self._count += len(runs)
        while self._count - len(self._chunks[0][1]) >= _KEPT:
            self._count -= len(self._chunks.popleft()[1])

    def get(self, number: int) -> Run | None:
        """The run of this number; None where it was never known, or is no longer kept."""
        for first, runs in reversed(self._chunks):
            if number >= first:
                index = number - first
                run = runs[index] if index < len(runs) else None
                return run if run is not None and run[0] == number else None
        return None

    def longer_before(
        self, number: int, ready: float, least: float, most: int
    ) -> list[tuple[int, float, float, float]]:
        """The long runs among the ``most`` runs before run ``number``, latest first: (number, start, end, ident).

        They ended after ``ready`` (monotonic s) and lasted for ``least`` s or longer.
        """
        out: list[tuple[int, float, float, float]] = []
        for first, runs in reversed(self._chunks):
            if number > first:
                found, passed = runs.longer_before(number - first, ready, least, most)
                out += found
                most -= passed
                if most <= 0:
                    break
        return out
