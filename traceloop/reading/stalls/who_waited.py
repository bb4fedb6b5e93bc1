"""Who waited for a slow run: each handle that was ready and had to wait is charged to the run that it waited for.

It is found out here once, for the metric (seconds by callback and culprit), the report (by victim) and the span
(number of handles). A wait is charged with its overlap with the slow run and no more, so that two slow runs in a row
share a wait without counting any of it twice. How well it is known depends on how the handle became ready:

* exactly, for handles that stood in the queue when the run began, for those that other threads and signals put in
  meanwhile (they carry their own time), and for timers that fell due in it;
* between bounds, for those that the slow run itself put in: nothing tells when within it, so somewhere between nothing
  and its length;
* as an estimate, for descriptors that became ready meanwhile: only the watchdog's looks at the poller tell of them.

A handle that was not ready is not charged: it did not wait for the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import sub
from typing import Any, Final

from ...record.sites import site_of
from ..decoding.runs import Run, Runs

#: Callbacks that only wake something: what they wake is the victim.
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

# Slow runs that handles are charged to at a time: an iteration of more, each of a tenth of a second, lasts for half a
# minute. Only a damaged record has them by thousands, and each handle is compared with all of them.
_MAX_OPEN: Final = 256
_MAX_PASSED_ON: Final = 10_000
# A subtraction has rounded the ready time of handles that a run put in itself.
_ROUNDING: Final = 1e-6


class Bill:
    """What one slow run cost others. Seconds, and numbers of handles.

    handles, exact: known exactly. own_most: at most, of handles that the run itself put in.
    victims: by the victim's site number, handles and seconds known exactly, then of the run's own handles and seconds
    at most.
    """

    __slots__ = ("exact", "handles", "own_handles", "own_most", "victims")

    def __init__(self) -> None:
        self.handles = self.own_handles = 0
        self.exact = self.own_most = 0.0
        self.victims: dict[int, list[float]] = {}

    def charge(self, site: int, seconds: float) -> None:
        """A handle waited so long."""
        self.handles += 1
        self.exact += seconds
        entry = self._entry(site)
        entry[0] += 1
        entry[1] += seconds

    def charge_own(self, site: int, most: float) -> None:
        """A handle that the run put in waited for so long at most."""
        self.own_handles += 1
        self.own_most += most
        entry = self._entry(site)
        entry[2] += 1
        entry[3] += most

    def charge_many(self, site: int, handles: int, seconds: float, own_handles: int, own_most: float) -> None:
        """Handles of one site; the run put in some of them."""
        self.handles += handles
        self.exact += seconds
        self.own_handles += own_handles
        self.own_most += own_most
        entry = self._entry(site)
        for index, more in enumerate((handles, seconds, own_handles, own_most)):
            entry[index] += more

    def rename(self, old: int, new: int, seconds: float) -> None:
        """One wait that was charged by the name of ``old`` was that of ``new``."""
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

    @property
    def waiting(self) -> int:
        """How many ready handles waited behind the run, its own included."""
        return self.handles + self.own_handles


class SlowRun:
    """A slow run of one loop, and its bill. complete: every handle that waited is in the bill. closed: and is there by
    its final name.
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
    """Finds the runs of one loop that may be slow, and makes out their bills. For one thread; runs are fed in order,
    once.
    """

    def __init__(self, passes_on: Callable[[float], bool] = lambda ident: False) -> None:
        """``passes_on``: whether this ident is but plumbing, such as the timer of a sleep, and what it wakes is the
        victim.
        """
        self._passes_on = passes_on
        # In order. Those that are complete are still there for the names of their victims.
        self._open: list[SlowRun] = []
        # By number of a run that passes on: the slow runs it waited for, its site, and how long it waited.
        self._passed_on: dict[int, list[tuple[SlowRun, int, float]]] = {}

    @property
    def is_charging(self) -> bool:
        """Whether more runs can still be charged to a slow one."""
        return bool(self._open)

    def feed(self, runs: Runs, lowest: float) -> list[SlowRun]:
        """Runs of at least ``lowest`` s that are new, in order; their bills grow at later calls, until ``closed``."""
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
                together = charged >= 0  # else each has to be looked at
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

        What waited for a slow run was in the queue, or a timer due, when it ended: it runs in the same iteration or
        the next one. What those have woken follows in the one after it.
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
        """The loop has gone: nothing more is charged."""
        while self._open:
            self._close(self._open.pop(0))
