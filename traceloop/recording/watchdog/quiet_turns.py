"""The watchdog's turns while all loops sleep in their polls: ten a second that find nothing.

In Python such a turn takes 0.1 ms, and a service that is idle pays for little else. So on the C core, on Linux, turns
follow one another in C for as long as nothing is as Python's turns would see to it: no loop runs, nothing waits to be
written, the thread is never late, and the process computes next to nothing (who does may hold the GIL). They take the
GIL like others, leave what a stall or a late turn will be compared with, and publish when the next one is due.

A whole turn interrupts them once a second. Where no thread of the process has computed anything since the last one, it
would find what that found, and may wait for longer.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence, Sized
from time import monotonic
from typing import Any, Final

from ...core.choose import core
from ...record import layout
from ..ring import Ring
from .lateness import Lateness
from .thread_clocks import ended_watchdogs_cpu
from .watched_loop import Watched

# More loops than C takes (alarm.c).
_MOST_LOOPS: Final = 16
# Bound here: tests and tools that replace it mean the application's.
_exists = os.path.exists


class Alarm:
    """What the watchdog sleeps on. One thread waits; any may ring."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Ends a wait, or the next one."""
        try:
            self._lock.release()
        except RuntimeError:  # it has rung already
            pass

    def wait(self, seconds: float) -> bool:
        """Waits for so many seconds; returns whether it rang. Silent again afterwards."""
        return self._lock.acquire(timeout=max(0.0, seconds))


def new_alarm() -> Any:
    """An ``Alarm``, of the C core where that is."""
    native = core().native
    return Alarm() if native is None else native.Alarm()


class QuietTurns:
    """Of one watchdog; for its thread."""

    def __init__(
        self, watched: Mapping[int, Watched], empty: Sequence[Sized], lateness: Lateness, request: str
    ) -> None:
        """``watched``: the loops that run. ``empty``: collections that are empty while there is nothing to see to.
        ``request``: a file that is not there as long ("": none).
        """
        self._watched = watched
        self._empty = tuple(empty)
        self._lateness = lateness
        self._request = os.fsencode(request)
        self._due = self._period = self._unmoved = 0.0

    def are_due(self, now: float, loops: Iterable[Watched]) -> bool:
        """Whether this turn would find nothing: it comes in time, and every loop sleeps in its poll."""
        if any(len(each) for each in self._empty) or self._lateness.is_late(now) or _exists(self._request):
            return False
        return all(watched.stall is None and watched.words[layout.W_RUNNING] == 0.0 for watched in loops)

    def look(self, now: float, due: float, loops: Sequence[Watched]) -> None:
        """A turn in Python, a third of a whole one. A stall that begins next is measured from the sample that is taken
        here. ``due``: when the next turn is.
        """
        for watched in loops:
            watched.sample()
        self._lateness.turn_over(now, due, loops, quiet=True)
        self.follow(now, due)

    def follow(self, now: float, due: float, unmoved: float = 0.0) -> None:
        """Quiet turns may follow the one that began at ``now``; the next is ``due``, and others as far apart.

        ``unmoved``: until when (s) no whole turn is needed while no thread but the watchdog's computes anything.
        """
        self._due, self._period, self._unmoved = due, due - now, unmoved

    def sleep(self, alarm: Any, until: float, ring: Ring | None) -> bool:
        """Sleeps after ``follow`` until a turn in Python is due: at ``until`` (s) at the latest. Returns whether the
        alarm rang. ``ring``: of the process.
        """
        loops = list(self._watched.values())
        seconds = self._due - monotonic()
        if sys.platform != "linux" or core().native is None or not 0 < len(loops) <= _MOST_LOOPS:
            return bool(alarm.wait(max(seconds, 0.001)))
        heart = None if ring is None else ring.words
        seen = [(watched.words, *watched.clocks.known()) for watched in loops]
        switched, others = self._lateness.switched, ended_watchdogs_cpu()
        slept = alarm.sleep_quietly(
            self._due,
            switched,
            self._period,
            until,
            self._unmoved,
            others,
            self._request,
            heart,
            self._watched,
            self._empty,
            seen,
        )
        if slept is None:
            return True
        turns, base, samples = slept
        if turns:
            self._lateness.slept(turns, *base)
            for watched, sample in zip(loops, samples, strict=True):
                watched.take(sample)
        return False
