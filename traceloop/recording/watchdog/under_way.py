"""What the loops run at the moments at which the watchdog's thread has just been given the GIL.

Where a C call has held the GIL, the loop's thread gives it to the watchdog as that call returns, and the run may be
over by the time the GIL has gone back once: a file that is opened, or asked for its size, is enough for that. So the
frames are looked at first, and what follows from them (a record, a line, measurements) comes later.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from time import monotonic

from ...record import layout
from .stacks import Run, find_run
from .watched_loop import Watched

# A turn that has had the GIL back after longer than this (s) looks once more.
_HELD_UP = 0.02
_MAX_MISSED = 64


class UnderWay:
    """For the watchdog's thread, under its ``_looking``."""

    def __init__(self, loops: Mapping[int, Watched], lowest: Callable[[Watched], float]) -> None:
        """``loops``: those that run now. ``lowest``: from how many seconds on what a loop runs may be a stall."""
        self._loops = loops
        self._lowest = lowest
        self._looked = 0.0
        #: What was found while a turn was held up: the loop, since when it has not polled, its run, and when.
        self.missed: list[tuple[Watched, float, Run, float]] = []

    def begin(self, loops: Iterable[Watched], now: float) -> list[tuple[float, Run | None]]:
        """A turn begins. Of each loop: since when it has not polled (0: it polls), and what it runs where that may be
        a stall. Nothing before it, in a turn, may give the GIL away.
        """
        found = [self._find(watched, now) for watched in loops]
        self._looked = now
        return found

    def glance(self) -> None:
        """Called in a turn, after a call that gives the GIL away: looks again where it was long in coming back."""
        now = monotonic()
        if now - self._looked >= _HELD_UP:
            for watched in list(self._loops.values()):
                since, run = self._find(watched, now)
                if run is not None and len(self.missed) < _MAX_MISSED:
                    self.missed.append((watched, since, run, now))
        self._looked = monotonic()

    def _find(self, watched: Watched, now: float) -> tuple[float, Run | None]:
        since: float = watched.words[layout.W_RUNNING]
        if since == 0.0 or (watched.stall is None and now - since < self._lowest(watched)):
            return since, None
        return since, find_run(sys._current_frames().get(watched.thread), watched.loop)
