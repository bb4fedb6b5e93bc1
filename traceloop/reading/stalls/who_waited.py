"""Who waited for a slow run: each handle that was ready and had to wait is charged to the run that it waited for.

This is computed once, here, for the metric (seconds by callback and culprit), the report (by victim) and the span
(number of handles). A run is charged only with the part of a wait that overlaps it. So two slow runs in a row share a
wait, and no part of it counts twice. How exact the charge is depends on how the handle became ready:

* exact for handles that stood in the queue when the run began, for handles that other threads and signals queued
  meanwhile (they carry their own time), and for timers that fell due in it;
* bounded for handles that the slow run itself queued: when it did so is not known, so they waited between 0 and the
  run's length;
* an estimate for descriptors that became ready meanwhile: only the watchdog's looks at the poller tell of them.

A handle that was not ready is not charged: it did not wait for the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import sub
from typing import Any, Final

from ...record.sites import site_of
from ..decoding.runs import Run, Runs

#: Callbacks that only wake something else, which is the victim.
PLUMBING: Final = frozenset(
    (
        "asyncio.futures._set_result_unless_cancelled",
        "asyncio.futures._chain_future.<locals>._set_state",
        "asyncio.tasks._release_waiter",
        "traceloop.recording.offloads.executors.Offload.deliver",
        "traceloop.recording.offloads.offload.Offload.deliver",
        "traceloop.recording.offloads.Offload.deliver",  # in records of earlier versions
        "_asyncio.Future.set_result",
        "asyncio.futures.Future.set_result",
    )
)

# The most slow runs to which handles are charged at a time; an iteration of so many lasts for half a minute. Only a
# damaged record has thousands, and each handle is compared with all of them.
_MAX_OPEN: Final = 256
_MAX_PASSED_ON: Final = 10_000
# Tolerance (s): the ready time of handles that a run queued itself comes from a subtraction, which rounds.
_ROUNDING: Final = 1e-6


class Bill:
    """What one slow run cost others, in seconds and numbers of handles.

    handles, exact: number and seconds of the handles whose wait is known exactly. own_most: the most (s) that handles
    which the run itself queued can have waited. victims: by the victim's site number, handles and seconds known
    exactly, then the run's own handles and their seconds at most.
    """

    __slots__ = ("exact", "handles", "own_handles", "own_most", "victims")

    def __init__(self) -> None:
        self.handles = self.own_handles = 0
        self.exact = self.own_most = 0.0
        self.victims: dict[int, list[float]] = {}

    def charge(self, site: int, seconds: float) -> None:
        """Charges the wait of one handle, s."""
        self.handles += 1
        self.exact += seconds
        entry = self._entry(site)
        entry[0] += 1
        entry[1] += seconds

    def charge_own(self, site: int, most: float) -> None:
        """Charges a handle that the run itself queued. ``most``: its longest possible wait, s."""
        self.own_handles += 1
        self.own_most += most
        entry = self._entry(site)
        entry[2] += 1
        entry[3] += most

    def charge_many(self, site: int, handles: int, seconds: float, own_handles: int, own_most: float) -> None:
        """Charges handles of one site. The run itself queued ``own_handles`` of them."""
        self.handles += handles
        self.exact += seconds
        self.own_handles += own_handles
        self.own_most += own_most
        entry = self._entry(site)
        for index, more in enumerate((handles, seconds, own_handles, own_most)):
            entry[index] += more

    def rename(self, old: int, new: int, seconds: float) -> None:
        """Moves one wait of ``seconds`` from the victim ``old`` to the victim ``new`` (site numbers)."""
        entry = self._entry(old)
        entry[0] -= 1
        entry[1] -= seconds
        if not entry[0] and not entry[2]:
            del self.victims[old]
        entry = self._entry(new)
        entry[0] += 1
        entry[1] += seconds

    def _entry(self, site: int) -> list[float]:
        return self.victims.setdefault(site, [0, 0.0, 0, 0.0])


class SlowRun:
    """A slow run of one loop, and its bill.

    complete: whether every handle that waited is in the bill. closed: whether each victim also has its final name.
    """

    __slots__ = ("bill", "closed", "complete", "run")

    def __init__(self, run: Run) -> None:
        self.run = run
        self.bill = Bill()
        self.complete = self.closed = False

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.run[2] - self.run[1]


class WhoWaited:
    """Finds the runs of one loop that may be slow, and makes their bills. Fed with all runs in order, by one thread."""

    def __init__(self, passes_on: Callable[[float], bool] = lambda ident: False) -> None:
        """``passes_on``: whether an ident is plumbing, such as the timer of a sleep; what it wakes is the victim."""
        self._passes_on = passes_on
        # In order. Complete ones stay until the names of their victims are final.
        self._open: list[SlowRun] = []
        # By the number of a run that passes on: the slow runs that it waited for, its site, and how long it waited (s).
        self._passed_on: dict[int, list[tuple[SlowRun, int, float]]] = {}

    @property
    def is_charging(self) -> bool:
        """Whether more runs can still be charged to a slow one."""
        return bool(self._open)

    def feed(self, runs: Runs, lowest: float) -> list[SlowRun]:
        """Returns the new runs of at least ``lowest`` s, in order. Later calls add to their bills, until ``closed``."""
        lengths = list(map(sub, runs.ends, runs.starts))
        slow: list[int] = []
        if not max(lengths, default=0.0) < lowest:
            slow = [index for index, length in enumerate(lengths) if length >= lowest]
        if not slow and not self._open:
            return []
        found: list[SlowRun] = []
        coming = iter(slow)
        following = next(coming, -1)
        # The reader's C half adds up what waited for a slow run.
        together = hasattr(runs, "waited")
        index = 0 if self._open else following
        while index < len(runs):
            if together and self._open and not self._passed_on:
                charged = self._charge_together(runs, index, following if following >= 0 else len(runs))
                together = charged >= 0  # otherwise each run has to be looked at
                if charged > index:
                    index = charged
                    continue
            run = runs[index]
            index += 1
            if self._open:
                self._charge(run)
            if index - 1 == following:
                following = next(coming, -1)
                found.append(SlowRun(run))
                self._open.append(found[-1])
                if len(self._open) > _MAX_OPEN:
                    self._close(self._open.pop(0))
            elif not self._open and following < 0:
                break
        return found

    def _charge_together(self, runs: Any, index: int, upto: int) -> int:
        """``_charge`` for runs from ``index`` on, up to ``upto``. Returns the index of the first that is not charged;
        -1 where one of them passes on and nothing was charged.
        """
        charged = upto
        while True:
            waited = [
                runs.waited(index, charged, slow.run[0], slow.run[1], slow.run[2], slow.run[8]) for slow in self._open
            ]
            if all(each[0] == charged for each in waited):
                break
            charged = min(each[0] for each in waited)
        for _, victims in waited:
            if any(handles and self._passes_on(ident) for ident, handles, *_ in victims):
                return -1
        last = runs[charged - 1][8] if charged > index else 0
        for slow, (_, victims) in zip(self._open, waited, strict=True):
            for ident, *more in victims:
                slow.bill.charge_many(site_of(ident), *more)
            slow.complete = slow.complete or last > slow.run[8] + 1
        return charged

    def _charge(self, run: Run) -> None:
        """Charges the wait of a run to the slow ones before it.

        What waited for a slow run was in the queue, or was a timer due, when the run ended. So it runs in the same
        iteration or the next one. What it wakes runs in the iteration after that.
        """
        number, start, _, ident, _, delay, scheduler, _, iteration, _ = run
        while self._open and iteration > self._open[0].run[8] + 2:
            self._close(self._open.pop(0))
        site = site_of(ident)
        for slow, plumbing, seconds in self._passed_on.pop(scheduler, ()):
            if not slow.closed:
                slow.bill.rename(plumbing, site, seconds)
        ready = start - delay
        passes_on: bool | None = None
        for slow in self._open:
            if slow.complete or iteration > slow.run[8] + 1:
                slow.complete = True
                continue
            _, begin, end, *_ = slow.run
            if delay < 0.0:
                continue
            # A timer that the run set is due later. What it put in with call_soon is ready at its end.
            if ready > end + _ROUNDING:
                continue
            if scheduler == slow.run[0] and ready > end - _ROUNDING:
                slow.bill.charge_own(site, end - begin)
            elif ready < end:
                overlap = end - max(ready, begin)
                slow.bill.charge(site, overlap)
                if passes_on is None:
                    passes_on = self._passes_on(ident)
                if passes_on and len(self._passed_on) < _MAX_PASSED_ON:
                    self._passed_on.setdefault(number, []).append((slow, site, overlap))

    def _close(self, slow: SlowRun) -> None:
        slow.complete = slow.closed = True
        if not self._open:
            self._passed_on.clear()

    def finish(self) -> None:
        """Called when the loop is gone: nothing more is charged."""
        while self._open:
            self._close(self._open.pop(0))
