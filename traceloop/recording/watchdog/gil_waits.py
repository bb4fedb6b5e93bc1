"""How often the watchdog finds the GIL held, and by which threads: recorded every few seconds while others hold it.

A loop that returns from its poll may have to wait for the GIL. In its record that looks like a late kernel. Nor is it
slow: a thread that computes in Python gives the GIL away within the switch interval (5 ms), and a C call of 60 ms is
below the threshold. The watchdog's turns come at moments that depend on neither, and each of them needs the GIL. So the
share of turns that find it held is the share of the time in which it is held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ...record import layout
from .. import own_threads
from ..current_frames import current_frames
from .other_threads import Standing, ThreadClocksOfAll, as_recorded, threads_now
from .thread_clocks import Sample
from .watched_loop import Watched

# A turn that begins this late (s), and was woken more than once, has waited for the GIL: half a switch interval.
_HELD_SECONDS: Final = 0.0025
# The first record comes after so many s, and each further one after twice as long, up to the second number.
_FIRST_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 8.0
# If the other threads computed for less than this part of the time, the loop itself held it.
_OTHERS: Final = 0.5
_MAX_THREADS: Final = 3


class GilWaits:
    """Of one process. For the watchdog's thread."""

    def __init__(self, report: Callable[[dict[str, Any], float], bool]) -> None:
        """``report(event, now)`` writes an event, if there may be one more."""
        self._report = report
        self._clocks = ThreadClocksOfAll()
        self._length = _FIRST_SECONDS
        self.forget()

    def forget(self) -> None:
        """Called when the watchdog's thread starts again: counts from its first turn on."""
        self._begin(0.0, ())

    def _begin(self, now: float, loops: Sequence[Watched]) -> None:
        """Counts anew from ``now`` (s) on; 0: from the next ``poll`` on."""
        self._began = now
        self._turns = self._waits = 0
        self._waited = self._longest = 0.0
        self._standing: list[Standing] = []
        # By ring and thread: the next loop of a ring may run in another.
        self._first: dict[tuple[int, int], Sample] = {
            (each.ring, each.thread): each.history[-1] for each in loops if each.history
        }
        self._written = {(each.ring, each.thread): each.words[layout.W_RECORDS] for each in loops}

    def turn(self, late: float, woken: Callable[[], int], loops: Sequence[Watched]) -> None:
        """A turn begins ``late`` s after it was due. Called before anything gives the GIL away, so that the thread that
        had the GIL still stands where it held it. ``woken()``: how often this thread was woken since it went to sleep.
        """
        self._turns += 1
        if late < _HELD_SECONDS or woken() < 2:
            return
        self._waits += 1
        self._waited += late
        if late > self._longest:
            self._longest = late
            # Several loops may hold it against each other.
            without = [each.thread for each in loops] if len(loops) == 1 else []
            self._standing = threads_now(current_frames(), (*without, own_threads.get_ident()))

    def quiet(self, turns: int, waits: int, waited: float) -> None:
        """So many turns came in which no other thread had the GIL; ``waits`` of them waited for the loop, ``waited`` s
        together.
        """
        self._turns += turns
        self._waits += waits
        self._waited += waited

    def poll(self, now: float, loops: Sequence[Watched]) -> None:
        """Records what was found since the last time, if that was long enough ago and other threads held the GIL."""
        passed = now - self._began
        if not loops or (self._began and passed < self._length):
            return
        _, computed = self._clocks.computed(now)
        if self._began and self._waits:
            held = self._waits / self._turns * passed
            measured = [
                (each.ring, self._first[each.ring, each.thread], each.history[-1])
                for each in loops
                if (each.ring, each.thread) in self._first and each.history
            ]
            if any(_by_others(first, last) >= _OTHERS * held for _, first, last in measured):
                self._length = min(2 * self._length, _LONGEST_SECONDS)
                self._report(
                    {
                        "kind": "gil",
                        "from": self._began,
                        "to": now,
                        "turns": self._turns,
                        "waits": self._waits,
                        "waited": round(self._waited, 6),
                        # A return from a poll is a record at least: so many of them can have waited for the GIL.
                        "records": sum(
                            each.words[layout.W_RECORDS] - self._written.get((each.ring, each.thread), 0.0)
                            for each in loops
                        ),
                        "loops": measured,
                        "threads": as_recorded(self._standing, computed)[:_MAX_THREADS],
                    },
                    now,
                )
        self._begin(now, loops)


def _by_others(first: Sample, last: Sample) -> float:
    """CPU time of the process's other threads between two samples of a loop's thread, s."""
    return (last[2] - first[2]) - (last[1] - first[1])
