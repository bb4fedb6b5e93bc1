"""The watchdog's turns while all loops sleep in their polls: ten a second that find nothing.

In Python such a turn takes 0.1 ms, most of what an idle service pays. So with the C core, on Linux, these turns are
made in C (alarm.c) for as long as Python has nothing to do: no loop runs, nothing waits to be written, the thread is
never late, and the process computes next to nothing (a thread that computes may hold the GIL).

A turn in C takes the GIL as one in Python does. It takes the samples with which a stall or a late turn is compared
later, and publishes when the next turn is due.

A whole turn interrupts them once a second. It waits for longer while no thread of the process computes anything: it
would find what the last one found.
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

# More loops are left to turns in Python (alarm.c).
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
        """Waits for so many seconds; returns whether it rang. The next wait begins anew."""
        return self._lock.acquire(timeout=max(0.0, seconds))


def new_alarm() -> Any:
    """An ``Alarm``: the C core's, where that runs."""
    native = core().native
    return Alarm() if native is None else native.Alarm()


class QuietTurns:
    """The quiet turns of one watchdog; for its thread."""

    def __init__(
        self, watched: Mapping[int, Watched], empty: Sequence[Sized], lateness: Lateness, request: str
    ) -> None:
        """``watched``: the loops that run. ``empty``: collections that are empty while there is nothing to do.
        ``request``: a file by which a command asks for a look ("": none can).
        """
        self._watched = watched
        self._empty = tuple(empty)
        self._lateness = lateness
        self._request = os.fsencode(request)
        self._due = self._period = self._unmoved = 0.0

    def are_due(self, now: float, loops: Iterable[Watched]) -> bool:
        """Whether this turn would find nothing: it comes on time, and every loop sleeps in its poll."""
        if any(len(each) for each in self._empty) or self._lateness.is_late(now) or _exists(self._request):
            return False
        return all(watched.stall is None and watched.words[layout.W_RUNNING] == 0.0 for watched in loops)

    def look(self, now: float, due: float, loops: Sequence[Watched]) -> None:
        """A quiet turn in Python; it costs a third of a whole one. It takes the samples from which a stall that begins
        next is measured. ``due``: when the next turn is (s).
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
        """Sleeps after ``follow`` until a turn in Python is due, at ``until`` (s) at the latest. Returns whether the
        alarm rang. ``ring``: the process's.
        """
        loops = list(self._watched.values())
        seconds = self._due - monotonic()
        if sys.platform != "linux" or core().native is None or not 0 < len(loops) <= _MOST_LOOPS:
            return bool(alarm.wait(max(seconds, 0.001)))
        process_words = None if ring is None else ring.words
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
            process_words,
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
