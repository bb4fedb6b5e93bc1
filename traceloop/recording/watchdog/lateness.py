"""Why a turn of the watchdog came late: the process was suspended, it got no processor, or another thread kept the GIL.

The context switches of the watchdog's thread tell these apart. A thread that waits for the GIL wakes after each switch
interval. A stopped process (SIGSTOP, a suspended machine) does not wake at all.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, NamedTuple

from ..kernel_files import schedule_of_thread
from .gil_waits import GilWaits
from .thread_clocks import COUNTS_SWITCHES, switches
from .watched_loop import Watched

# A turn this late (s) is recorded. A busy thread gives the GIL away within the switch interval, 5 ms.
_LATE = 0.05
# A standstill of the whole process shorter than this (s) cannot be distinguished from a busy machine.
_MIN_SUSPENSION = 0.2


class Waits(NamedTuple):
    """How many quiet turns waited for the GIL, and for how long together (s)."""

    turns: int
    seconds: float


class Baseline(NamedTuple):
    """What was measured at the end of the last quiet turn, in the order of the structure of this name in quiet_turns.c.

    due: when the next turn is (s). process_cpu, measured: the CPU time of the process, and when that was (s). switched:
    how often this thread had been woken. late: how late the quiet turns were together (s), those that waited for the
    GIL left out: that long this thread has waited for a processor meanwhile.
    """

    due: float
    process_cpu: float
    switched: int
    measured: float
    late: float


class Lateness:
    """Measures how late each turn of the watchdog comes. For the watchdog's thread.

    ``report(event, at)`` writes an event of the moment ``at`` (s), and returns whether it was written.
    """

    def __init__(self, report: Callable[[dict[str, Any], float], bool]) -> None:
        self._report = report
        self._suspensions: deque[tuple[float, float]] = deque(maxlen=16)
        self._due = 0.0
        self._measured = 0.0
        #: How often this thread had been woken when its last turn was over.
        self.switched = 0
        self._process_cpu = 0.0
        self._own_wait = 0.0
        self._was_late = False
        self._gil_waits = GilWaits(report)

    def turn_begins(self, now: float, loops: Sequence[Watched]) -> None:
        """Called before anything in a turn gives the GIL away."""
        if self._due:
            self._gil_waits.turn(now - self._due, lambda: switches() - self.switched, loops)

    def forget(self) -> None:
        """Called when the thread starts again: no turn was due before."""
        self._due = 0.0
        self._gil_waits.forget()

    def suspended(self, start: float, now: float) -> float:
        """For how long (s) the whole process stood still between the two moments, as far as is known."""
        return sum(max(0.0, min(end, now) - max(begin, start)) for begin, end in self._suspensions)

    def check(self, now: float, loops: Sequence[Watched]) -> None:
        """A turn begins."""
        # The last turn may itself have been held up until after this one was due: what it measured is from its end.
        self._check(now, max(self._due, self._measured) if self._due else 0.0, loops)

    def is_late(self, now: float) -> bool:
        """Whether ``check`` would have anything to report at ``now``."""
        return self._was_late or not self._due or now - self._due >= _LATE

    def turn_over(self, began: float, due: float, loops: Sequence[Watched], *, quiet: bool = False) -> None:
        """The turn that began at ``began`` is over, and the next is ``due`` (s). Takes the measurements with which that
        one is compared.

        ``quiet``: leaves out how long this thread has waited for a processor, which costs a third of a turn. In turns
        that come on time this is little.
        """
        if (end := monotonic()) - began >= _MIN_SUSPENSION:
            self._check(end, began, loops)
        if not quiet:
            self._gil_waits.poll(began, loops)
        self._due = due
        self.switched = switches()
        self._process_cpu = time.process_time()
        if not quiet:
            self._own_wait = schedule_of_thread(threading.get_native_id()).waited_s
        self._measured = monotonic()

    def slept(self, turns: int, waits: Waits, base: Baseline) -> None:
        """So many ``turns`` found nothing (quiet_turns.py), of which ``waits`` waited while the only loop had the GIL.
        The next one is compared with ``base``.
        """
        self._due, self._process_cpu, self._measured = base.due, base.process_cpu, base.measured
        self.switched = base.switched
        self._own_wait += base.late
        self._gil_waits.quiet(turns, waits.turns, waits.seconds)

    def _check(self, now: float, due: float, loops: Sequence[Watched]) -> None:
        """What was due to go on at ``due`` (0: nothing) goes on only now."""
        if not due or now - due < _LATE:
            if self._was_late:
                # A run that was under way at the late turn may have ended just after it: take samples once more.
                self._was_late = False
                self._report({"kind": "samples", "loops": [[each.ring, each.sample()] for each in loops]}, now)
            return
        late = now - due
        woken = switches() - self.switched
        cpu = time.process_time() - self._process_cpu
        waited = schedule_of_thread(threading.get_native_id()).waited_s
        known = COUNTS_SWITCHES and waited >= 0.0
        waited -= self._own_wait
        # Waiting for the GIL wakes once each switch interval.
        for_gil = min(late, woken * sys.getswitchinterval()) if known else 0.0
        # A thread that was due, but waited neither for a processor nor for the GIL, was not allowed to run at all:
        # the whole process was stopped. A short time is no proof of that.
        held = late - waited - for_gil
        if held >= max(_MIN_SUSPENSION, late / 2) and cpu <= 0.03 + 0.15 * late:
            reason = "suspended"
            self._suspensions.append((due, due + held))
        else:
            reason = "gil" if for_gil >= late / 2 or not known else "starved"
        event: dict[str, Any] = {"kind": "late", "reason": reason, "from": due, "to": now, "cpu": cpu, "held": held}
        event["waited"] = max(0.0, waited) if known else 0.0
        event["loops"] = []
        for watched in loops:
            before = watched.history[-1] if watched.history else None
            event["loops"].append([watched.ring, before, watched.sample()])
        if self._report(event, now):
            self._was_late = True
