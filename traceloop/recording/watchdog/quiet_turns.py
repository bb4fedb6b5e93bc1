"""The watchdog's turns that find nothing: ten a second, while loops sleep and while they run one short handle after
another.

In Python a whole turn takes 0.1 ms, most of what an idle service pays. A busy one pays more: a turn gives the GIL away
with each file that it opens, and each time the loop's thread has to hand it over again. With ten whole turns a second,
recording cost an aiohttp service under load a fifteenth of its CPU time.

So between whole turns, once a second, come quiet ones. They need that no run is long enough to be a stall, nothing
waits to be written, no executor has just become full, and the thread is not late. With the C core, on Linux, they are
made in C (quiet_turns.c). Such a turn takes the GIL once, as one in Python does first of all: it notices if another
thread holds it. It takes the samples with which a stall or a late turn is compared later, and publishes when the next
turn is due.

The whole turn waits for longer while no thread of the process computes anything: it would find what the last one found.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from time import monotonic
from typing import Any, Final

from ...core.choose import core
from ...record import layout
from .. import own_threads
from ..ring import Ring
from ..thresholds import own_threshold
from .lateness import Baseline, Lateness, Waits
from .thread_clocks import ended_watchdogs_cpu
from .throttling import Throttling
from .watched_loop import Watched

# More loops are left to turns in Python (quiet_turns.c).
_MOST_LOOPS: Final = 16
#: The longest time between two turns, s.
LONGEST_PACE: Final = 0.1
#: How often a turn looks whether a command asks, s.
ASKED_SECONDS: Final = 0.5
# Bound here: tests and tools that replace it mean the application's.
_exists = os.path.exists


class Alarm:
    """What the watchdog sleeps on. One thread waits; any may ring."""

    def __init__(self) -> None:
        self._lock = own_threads.allocate_lock()
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
        self,
        watched: Mapping[int, Watched],
        empty: Sequence[Sized],
        lateness: Lateness,
        throttling: Throttling,
        request: str,
        pace: Callable[[Watched], tuple[float, float, float]],
    ) -> None:
        """``watched``: the loops that run. ``empty``: collections that are empty while there is nothing to do.
        ``request``: a file by which a command asks for a look ("": none can). ``pace``: a loop's threshold, how long to
        wait for the next turn, and the lowest threshold of any of its callbacks, s.
        """
        self._watched = watched
        self._empty = tuple(empty)
        self._lateness = lateness
        self._throttling = throttling
        self._request = os.fsencode(request)
        self._pace = pace
        self._due = self._unmoved = self._asked_due = 0.0

    def are_due(self, now: float, loops: Iterable[Watched]) -> bool:
        """Whether this turn would find nothing: it comes on time, and no run of any loop is long enough for a stall."""
        if any(len(each) for each in self._empty) or self._lateness.is_late(now) or self._is_asked(now):
            return False
        return all(watched.stall is None and self._is_young(watched, now) for watched in loops)

    def _is_asked(self, now: float) -> bool:
        if now < self._asked_due:
            return False
        self._asked_due = now + ASKED_SECONDS
        return _exists(self._request)

    def _is_young(self, watched: Watched, now: float) -> bool:
        since = watched.words[layout.W_RUNNING]
        return since == 0.0 or now - since < self._pace(watched)[2]

    def look(self, now: float, loops: Sequence[Watched]) -> float:
        """A quiet turn in Python; it costs a third of a whole one. It takes the samples from which a stall that begins
        next is measured. Returns when the next turn is due (s).
        """
        due = now + LONGEST_PACE
        for watched in loops:
            _, pace, lowest = self._pace(watched)
            due = min(due, now + pace)
            since = watched.words[layout.W_RUNNING]
            if since:
                due = min(due, since + lowest)
                self._throttling.poll(now)
            watched.sample()
        self._lateness.turn_over(now, due, loops, quiet=True)
        self.follow(due)
        return due

    def follow(self, due: float, unmoved: float = 0.0) -> None:
        """Quiet turns may follow; the next is ``due``.

        ``unmoved``: until when (s) no whole turn is needed while no thread but the watchdog's computes anything.
        """
        self._due, self._unmoved = due, unmoved

    def sleep(self, alarm: Any, until: float, ring: Ring | None) -> bool:
        """Sleeps after ``follow`` until a turn in Python is due, at ``until`` (s) at the latest. Returns whether the
        alarm rang. ``ring``: the process's.
        """
        loops = list(self._watched.values())
        seconds = self._due - monotonic()
        if sys.platform != "linux" or core().native is None or not 0 < len(loops) <= _MOST_LOOPS:
            return bool(alarm.wait(max(seconds, 0.001)))
        # Read before the threshold that follows from it: if the program sets it in between, C finds it changed.
        durations = [own_threshold(watched.loop) for watched in loops]
        paces = [self._pace(watched) for watched in loops]
        period = min(pace for _, pace, _ in paces)
        limit, periods = self._throttling.known()
        slept = alarm.sleep_quietly(
            (self._due, self._lateness.switched, period, until, self._unmoved, ended_watchdogs_cpu()),
            (self._request, os.fsencode(limit), periods, None if ring is None else ring.words),
            self._watched,
            self._empty,
            [
                (watched.words, *watched.clocks.known(), (lowest, watched.loop, duration))
                for watched, (_, _, lowest), duration in zip(loops, paces, durations, strict=True)
            ],
        )
        if slept is None:
            return True
        self._asked_due = 0.0  # it may have ended because a command asks
        turns, base, waits, unchanged, samples = slept
        if turns:
            self._lateness.slept(turns, Waits(*waits), Baseline(*base))
            for watched, taken in zip(loops, samples, strict=True):
                for sample in taken:
                    watched.take(sample)
        if unchanged:
            self._throttling.unchanged(unchanged)
        return False
