"""Who paid for a slow run: each handle that was ready and had to wait is charged to the run that it waited for.

What a wait is charged with is its overlap with the slow run and no more, so that two slow runs in a row share a wait
without counting any of it twice. How well it is known depends on how the handle became ready:

* exactly, for handles that stood in the queue when the run began, for those that other threads and signals put in
  meanwhile (they carry their own time), and for timers that fell due in it;
* between bounds, for those that the slow run itself put in: nothing tells when within it, so somewhere between nothing
  and its length;
* as an estimate, for descriptors that became ready meanwhile: only the watchdog's looks at the poller tell of them.

Nobody who was not ready is charged: an idle wait is no wait for the loop.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from ..decoding.decoded import Run


class Bill:
    """What one slow run cost others. Seconds, and numbers of handles."""

    __slots__ = ("victims",)

    def __init__(self) -> None:
        #: By the victim's ident: handles and seconds known exactly, then of those that the run itself put in handles
        #: and seconds at most.
        self.victims: dict[float, list[float]] = {}

    def entry(self, ident: float) -> list[float]:
        """The victim's line."""
        return self.victims.setdefault(ident, [0, 0.0, 0, 0.0])

    @property
    def exact(self) -> float:
        """Seconds known exactly."""
        return sum(entry[1] for entry in self.victims.values())

    @property
    def own_most(self) -> float:
        """Seconds, at most, that what the run itself put in has waited for its end."""
        return sum(entry[3] for entry in self.victims.values())

    @property
    def waiting(self) -> int:
        """How many ready handles waited behind the run, its own included."""
        return int(sum(entry[0] + entry[2] for entry in self.victims.values()))


class SlowRun:
    """A slow run of one loop, and its bill; ``closed`` when nobody more can be charged to it."""

    __slots__ = ("_passed_on", "bill", "closed", "run")

    def __init__(self, run: Run) -> None:
        self.run = run
        self.bill = Bill()
        self.closed = False
        self._passed_on: dict[int, tuple[float, float]] = {}

    def charge(self, runs: Sequence[Run], passes_on: Callable[[float], bool]) -> None:
        """Charges the waits of ``runs``, which continue those given before."""
        number, begin, end, *_ = self.run
        last = self.run[8] + 1
        for index in range(bisect_right(runs, number, key=_number_of), len(runs)):
            victim, start, _, ident, _, delay, scheduler, _, iteration, _ = runs[index]
            if scheduler in self._passed_on:
                self._rename(scheduler, ident)
            if iteration > last:
                # All that was ready at its end has run by the end of the next iteration; what those have woken
                # follows in the one after it.
                if iteration > last + 1:
                    self.closed = True
                    return
                continue
            if delay < 0.0:
                continue
            ready = start - delay
            # Its own are taken to be ready at its end; a subtraction has rounded that.
            if scheduler == number and ready > end - 1e-6:
                entry = self.bill.entry(ident)
                entry[2] += 1
                entry[3] += end - begin
            elif ready < end:
                overlap = end - max(ready, begin)
                entry = self.bill.entry(ident)
                entry[0] += 1
                entry[1] += overlap
                if passes_on(ident):
                    self._passed_on[victim] = (ident, overlap)

    def _rename(self, scheduler: int, ident: float) -> None:
        plumbing, overlap = self._passed_on.pop(scheduler)
        entry = self.bill.entry(plumbing)
        entry[0] -= 1
        entry[1] -= overlap
        if not entry[0] and not entry[2]:
            del self.bill.victims[plumbing]
        entry = self.bill.entry(ident)
        entry[0] += 1
        entry[1] += overlap


def _number_of(run: Run) -> int:
    return run[0]


class Blame:
    """Finds the slow runs of one loop and makes out their bills. For one thread; runs are fed in order, once."""

    def __init__(self, limit_of: Callable[[Run], float], passes_on: Callable[[float], bool]) -> None:
        """``limit_of``: from how many seconds on this run is slow. ``passes_on``: whether this ident is but
        plumbing, such as the timer of a sleep, and what it wakes is the victim by name.
        """
        self._limit_of = limit_of
        self._passes_on = passes_on
        self._open: list[SlowRun] = []

    @property
    def is_charging(self) -> bool:
        """Whether more runs can still be charged to a slow one."""
        return bool(self._open)

    def feed(self, runs: Sequence[Run], lowest: float) -> list[SlowRun]:
        """Slow runs that are new, in order; their bills grow at later calls, until ``closed``.

        ``lowest``: s below which no run is slow, whatever its callback.
        """
        limit_of = self._limit_of
        new = [SlowRun(run) for run in runs if run[2] - run[1] >= lowest and run[2] - run[1] >= limit_of(run)]
        if new or self._open:
            self._open += new
            for slow in self._open:
                slow.charge(runs, self._passes_on)
            self._open = [slow for slow in self._open if not slow.closed]
        return new

    def finish(self) -> None:
        """The loop has gone: nobody more is charged."""
        for slow in self._open:
            slow.closed = True
        self._open = []
