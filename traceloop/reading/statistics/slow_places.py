"""Slow runs as alerts need them: where the culprit stands, how long the longest of the last minutes was, and which of
them were part of the program's start.

A scrape sees a stall only while it lasts. With a scrape every 15 s, a stall of 8 s may fall between two of them. The
counters count it, but do not tell how long it was. Hence the longest run of the last ``RECENT_SECONDS``, which no usual
interval misses.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from ...record import layout
from ...record.text import MAX_NAME
from ..decoding.decoded import Decoded
from ..decoding.runs import Run
from .loop import LoopStatistics
from .parts import Sample

RECENT_SECONDS: Final = 120.0
#: A loop's start is over when it accepts its first connection, and after this at the latest.
STARTUP_SECONDS: Final = 30.0
_MAX_RECENT: Final = 64


class _Place:
    """Slow runs of one callback with one culprit. recent: (end, duration) in s; each is longer than those after it."""

    __slots__ = ("location", "recent", "startup")

    def __init__(self, location: str) -> None:
        self.location = location
        self.startup = 0
        self.recent: deque[tuple[float, float]] = deque(maxlen=_MAX_RECENT)


class SlowPlaces:
    """Takes the slow runs of one loop label as they are counted."""

    def __init__(self, loop: LoopStatistics, location_of: Callable[[Run], str]) -> None:
        """``location_of``: ``file:line`` of a slow run's culprit, "" where nothing is known."""
        self._loop = loop
        self._location_of = location_of
        self._places: dict[tuple[str, str], _Place] = {}
        loop.callbacks.on_slow = self._count

    def feed(self, decoded: Decoded) -> None:
        """Does nothing: the callbacks' statistics find the slow runs."""

    def _count(self, run: Run, callback: str, culprit: str) -> None:
        place = self._places.get((callback, culprit))
        if place is None:
            place = self._places[callback, culprit] = _Place(_shortened(self._location_of(run)))
        if self._is_startup(run):
            place.startup += 1
            return
        _, start, end, *_ = run
        while place.recent and place.recent[-1][1] <= end - start:
            place.recent.pop()
        place.recent.append((end, end - start))

    def _is_startup(self, run: Run) -> bool:
        decoder = self._loop.decoder
        if decoder is None or decoder.loop is None or self._loop.gauge(layout.W_ACCEPTED) > 0.0:
            return False
        return run[1] - decoder.loop.since < STARTUP_SECONDS

    def metrics(self) -> Iterator[Sample]:
        """The series of each callback and culprit; that of the longest run only where there was one lately."""
        oldest = time.monotonic() - RECENT_SECONDS
        for (callback, culprit), place in self._places.items():
            both = (("callback", callback), ("culprit", culprit))
            yield Sample("asyncio_slow_callbacks_startup_total", both, place.startup)
            if place.location:
                yield Sample("asyncio_slow_callback_info", (*both, ("location", place.location)), 1)
            while place.recent and place.recent[0][0] < oldest:
                place.recent.popleft()
            if place.recent:
                yield Sample("asyncio_slow_callback_longest_seconds", both, place.recent[0][1])


def _shortened(location: str) -> str:
    """The location, cut to the length of a label at its front: the end of a path says more than its beginning."""
    return location if len(location) <= MAX_NAME else "..." + location[3 - MAX_NAME :]
