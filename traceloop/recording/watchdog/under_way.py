"""What the loops run at the moments at which the watchdog's thread has just got the GIL.

After a C call that held the GIL, the loop's thread gives the GIL to the watchdog. As soon as the watchdog gives it away
again, be it for opening a file, the run may go on and end. So a turn looks at the frames first, and writes, prints and
measures later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import monotonic

from ...record import layout
from ..current_frames import current_frames
from .stacks import Run, find_run
from .watched_loop import Watched

# A turn that got the GIL back after longer than this (s) looks once more.
_HELD_UP = 0.02
_MAX_MISSED = 64


class UnderWay:
    """For the watchdog's thread, under its ``_looking``."""

    def __init__(self, loops: Mapping[int, Watched], lowest: Callable[[Watched], float]) -> None:
        """``loops``: those that run now. ``lowest``: the seconds from which on a run of a loop may be a stall."""
        self._loops = loops
        self._lowest = lowest
        self._looked = 0.0
        #: What was found while a turn was held up: the loop, since when it has not polled, its run, and when.
        self.missed: list[tuple[Watched, float, Run, float]] = []

    def begin(self, loops: Iterable[Watched], now: float) -> list[tuple[float, Run | None]]:
        """A turn begins. Returns for each loop since when it has not polled (0: it polls), and its run, if that may be
        a stall. Nothing that comes before this call in a turn may give the GIL away.
        """
        found = [self._find(watched, now) for watched in loops]
        self._looked = now
        return found

    def glance(self) -> None:
        """Called in a turn after each call that gives the GIL away. Looks again if it took long to get it back."""
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
        run = find_run(current_frames().get(watched.thread), watched.loop)
        if run is not None and not watched.began - 1.0 < run.start <= now:
            return since, None  # told by another clock, which a test has put on the loop meanwhile
        return since, run
