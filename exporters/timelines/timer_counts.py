"""How many timers waited in each loop: said by the process's ring, under the number of the loop's ring."""

from __future__ import annotations

from typing import Final

from traceloop.reading.follower import Chunk

_MAX_WAITING: Final = 10_000


class TimerCounts:
    """Of one process. A count waits until its loop's name is known: the rings are read one after the other."""

    def __init__(self) -> None:
        self._labels: dict[int, str] = {}
        self._waiting: list[tuple[float, int, int]] = []

    def take(self, chunk: Chunk) -> list[tuple[str, float, int]]:
        """Label of the loop, when (s), and how many timers waited; of what is known by now."""
        if chunk.loop is not None:
            self._labels[chunk.ring.number] = chunk.loop.label
        self._waiting += chunk.decoded.timers
        if not self._waiting:
            return []
        labels = self._labels
        out = [(labels[ring], when, live) for when, ring, live in self._waiting if ring in labels]
        self._waiting = [each for each in self._waiting if each[1] not in labels][-_MAX_WAITING:]
        return out
