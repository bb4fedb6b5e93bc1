"""Offloads of one process: how long they waited, ran, and waited to be delivered; how full their executors are.

Their steps come by two rings (submit and delivery by the loop's, start and end by the process's), in whichever order
these are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ...record.layout import SITES
from ..decoding.decoded import Decoded, OffloadStep
from ..site_names import SiteNames
from .histograms import Histogram
from .labels import BoundedLabels, LabelSlots
from .parts import Sample
from .saturation import Saturation

# Offloads whose end never comes (records lost, a pool shut down) are forgotten beyond this many.
_MAX_OPEN: Final = 100_000
_MAX_EARLY: Final = 10_000
# Executors are numbered as they come; what was read of the oldest of so many has been counted long ago.
_MAX_EXECUTORS: Final = 1000


class FunctionTotals:
    """Offloads of one function to one executor: runs, and seconds from start to end.

    waited, longest_wait: seconds from submit to start.
    """

    __slots__ = ("longest_wait", "runs", "seconds", "waited")

    def __init__(self) -> None:
        self.runs = 0
        self.seconds = self.waited = self.longest_wait = 0.0


class ExecutorTotals:
    """One executor label. ``waiting`` and ``active``: offloads submitted and not started, started and not ended."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.max_workers = 0
        self.workers = 0
        self.waiting = 0
        self.active = 0
        self._saturation = Saturation()
        self.queue_durations = Histogram()
        self.run_durations = Histogram()
        self.return_delays = Histogram()
        self.functions: dict[str, FunctionTotals] = {}

    @property
    def histograms(self) -> tuple[Histogram, Histogram, Histogram]:
        """Submit to start, start to end, end to delivery."""
        return self.queue_durations, self.run_durations, self.return_delays

    @property
    def saturation(self) -> Saturation:
        """Who waited for whom, with all that is known by now."""
        self._saturation.settle()
        return self._saturation

    def started(self, key: int, function: str, submit: float, start: float) -> None:
        """A call left the queue."""
        self._saturation.max_workers = self.max_workers
        self._saturation.started(key, function, submit, start)

    def finished(self, key: int, end: float) -> None:
        """It gave its worker back."""
        self._saturation.finished(key, end)

    def forget(self, key: int) -> None:
        """It ended unseen."""
        self._saturation.forget(key)


class _Offload:
    __slots__ = ("counted", "delivered", "executor", "finish", "ident", "outcome", "start", "submit")

    def __init__(self) -> None:
        self.executor: ExecutorTotals | None = None
        self.ident = 0.0
        self.submit = self.start = self.finish = self.delivered = -1.0
        self.outcome = 0
        self.counted = False  # its wait; one without a worker may be told again, by the worker


class ExecutorStatistics:
    """Feeds on what all rings of one process say of offloads."""

    def __init__(self, sites: SiteNames, labels: BoundedLabels) -> None:
        self.sites = sites
        self.labels = labels
        self.executors: dict[str, ExecutorTotals] = {}
        self._slots = LabelSlots()
        # The process's own labels are unique among its living executors; slots only bound their number.
        self._slot_of: dict[str, ExecutorTotals] = {}
        self._by_number: dict[int, tuple[str, ExecutorTotals]] = {}
        # Said by the process's ring of executors that the loop's ring has not named yet.
        self._gone_early: set[int] = set()
        self._early_workers: dict[int, int] = {}
        self._open: dict[int, _Offload] = {}
        # Records of starts and ends were lost, and what the process's ring still has of them begins after this moment.
        self._lossy = False
        self._lost_until = -1.0

    def new_process(self, sites: SiteNames) -> None:
        """Another process takes the slot: what was under way is over, what was counted stays."""
        self.sites = sites
        for offload in self._open.values():
            if offload.executor is not None:
                offload.executor.forget(id(offload))
        self._open.clear()
        for number in list(self._by_number):
            self._gone(number)
        self._gone_early.clear()
        self._early_workers.clear()
        self._lossy = False
        self._lost_until = -1.0
        for totals in self.executors.values():
            totals.waiting = totals.active = totals.workers = totals.max_workers = 0

    def _gone(self, number: int) -> None:
        known = self._by_number.pop(number, None)
        if known is None:
            self._early_workers.pop(number, None)
            if len(self._gone_early) < _MAX_EARLY:
                self._gone_early.add(number)
            return
        label, totals = known
        if all(other is not totals for _, other in self._by_number.values()):
            totals.workers = totals.max_workers = 0
            self._slots.free(totals.label)
            self._slot_of.pop(label, None)

    def labelled(self, label: str) -> ExecutorTotals | None:
        """The executor that the process calls so, or called so before it was gone; from any thread."""
        return self._slot_of.get(label) or self.executors.get(label)

    def feed(self, decoded: Decoded) -> None:
        """Takes in one stretch of any ring of the process."""
        for number, label, max_workers in decoded.executors:
            self._executor(number, label).max_workers = max_workers
        for step in decoded.offloads:
            self._step(step)
        if decoded.loop is None and (decoded.dropped or self._lossy):
            self._lose(decoded)
        for number, started in decoded.workers:
            if started < 0:
                self._gone(number)
            elif number in self._by_number:
                self._by_number[number][1].workers = started
            elif len(self._early_workers) < _MAX_EARLY:
                self._early_workers[number] = started
        if self._gone_early:
            for number in [number for number in self._gone_early if number in self._by_number]:
                self._gone_early.discard(number)
                self._gone(number)

    def _executor(self, number: int, label: str) -> ExecutorTotals:
        known = self._by_number.get(number)
        if known is not None and (not label or known[0] == label):
            return known[1]
        totals = self._slot_of.get(label) if label else None
        if totals is None:
            # Without a label: counted by its number until its name is told again.
            slot = self._slots.take(label or f"executor-{number}")
            totals = self.executors.get(slot)
            if totals is None:
                totals = self.executors[slot] = ExecutorTotals(slot)
            if label:
                self._slot_of[label] = totals
        if known is not None:
            self._move(known[1], totals)
        self._by_number[number] = (label, totals)
        totals.workers = self._early_workers.pop(number, totals.workers)
        return totals

    def _move(self, old: ExecutorTotals, new: ExecutorTotals) -> None:
        """The executor that was known by its number has a name now: what is under way counts there."""
        new.workers, old.workers = old.workers, 0
        for offload in self._open.values():
            if offload.executor is old:
                offload.executor = new
                if offload.start < 0.0:
                    old.waiting -= 1
                    new.waiting += 1
                elif offload.finish < 0.0:
                    old.active -= 1
                    new.active += 1
        self._slots.free(old.label)

    def _step(self, step: OffloadStep) -> None:
        offload = self._open.get(step.number)
        if offload is None:
            while len(self._open) >= _MAX_OPEN:
                self._forget(next(iter(self._open)))
            offload = self._open[step.number] = _Offload()
        executor = offload.executor
        if step.step == "submit":
            offload.executor = executor = self._executor(step.executor, "")
            offload.ident = step.ident
            offload.submit = step.when
            if offload.start >= 0.0:
                executor.active += 1
                if offload.counted:
                    self._waited(offload, executor)
            elif offload.finish < 0.0:
                executor.waiting += 1
            if offload.finish >= 0.0:
                self._finished(offload, executor)
        elif step.step == "start":
            first = offload.start < 0.0
            offload.start = step.when
            if executor is not None:
                if first:
                    executor.waiting -= 1
                    executor.active += 1
                if step.worker and not offload.counted:
                    self._waited(offload, executor)
            offload.counted = offload.counted or bool(step.worker)
        elif step.step == "finish":
            offload.finish = step.when
            offload.outcome = step.outcome
            if executor is not None:
                if offload.start < 0.0:
                    executor.waiting -= 1
                self._finished(offload, executor)
        elif step.step == "deliver":
            offload.delivered = step.when
            if offload.finish < 0.0 and step.when < self._lost_until:
                self._forget(step.number)
                return
        # A call that was given up runs on; and the ring that tells of its end may be read later than the other.
        if executor is not None and offload.finish >= 0.0 and offload.delivered >= 0.0:
            if offload.delivered >= offload.finish:
                executor.return_delays.add(offload.delivered - offload.finish)
            del self._open[step.number]

    def _lose(self, decoded: Decoded) -> None:
        """Something is missing in the process's ring. What was delivered before the latest that was read of it has
        ended: its end was noted before, and so has been read, or is lost.
        """
        self._lossy = not decoded.offloads
        self._lost_until = max((step.when for step in decoded.offloads), default=self._lost_until)
        for number in [
            number
            for number, offload in self._open.items()
            if offload.finish < 0.0 <= offload.delivered < self._lost_until
        ]:
            self._forget(number)

    def _waited(self, offload: _Offload, executor: ExecutorTotals) -> None:
        waited = max(0.0, offload.start - offload.submit)
        executor.queue_durations.add(waited)
        label = self._label(offload)
        executor.started(id(offload), label, offload.submit, offload.start)
        function = self._function(label, executor)
        function.waited += waited
        if waited > function.longest_wait:
            function.longest_wait = waited

    def _finished(self, offload: _Offload, executor: ExecutorTotals) -> None:
        if offload.start < 0.0:
            return  # cancelled, or refused, before it ran
        if not offload.counted:
            offload.counted = True
            self._waited(offload, executor)
        executor.active -= 1
        duration = max(0.0, offload.finish - offload.start)
        executor.run_durations.add(duration)
        executor.finished(id(offload), offload.finish)
        function = self._function(self._label(offload), executor)
        function.runs += 1
        function.seconds += duration

    def _label(self, offload: _Offload) -> str:
        site = self.sites.site(int(offload.ident) % SITES)
        return self.labels.admit(site.label if site is not None else "unknown")

    def _function(self, label: str, executor: ExecutorTotals) -> FunctionTotals:
        totals = executor.functions.get(label)
        if totals is None:
            totals = executor.functions[label] = FunctionTotals()
        return totals

    def running(self, now: float) -> list[tuple[str, str, float]]:
        """What workers run at ``now`` (monotonic s): executor, function, for how long (s); the longest first."""
        out: list[tuple[str, str, float]] = []
        for offload in self._open.values():
            if offload.executor is not None and offload.start >= 0.0 and offload.finish < 0.0:
                site = self.sites.site(int(offload.ident) % SITES)
                label = site.label if site is not None else "unknown"
                out.append((offload.executor.label, label, max(0.0, now - offload.start)))
        return sorted(out, key=lambda item: -item[2])

    def _forget(self, number: int) -> None:
        # Its end never came: records were lost.
        offload = self._open.pop(number)
        executor = offload.executor
        if executor is not None and offload.finish < 0.0:
            if offload.start < 0.0:
                executor.waiting -= 1
            else:
                executor.active -= 1
                executor.forget(id(offload))

    def metrics(self) -> Iterator[Sample]:
        """The series of every executor."""
        for label, each in self.executors.items():
            labels = (("executor", label),)
            yield Sample("asyncio_executor_queue_length", labels, max(0, each.waiting))
            yield Sample("asyncio_executor_active", labels, max(0, each.active))
            yield Sample("asyncio_executor_workers", labels, each.workers)
            yield Sample("asyncio_executor_max_workers", labels, each.max_workers)
            yield Sample("asyncio_executor_queue_duration_seconds", labels, each.queue_durations)
            yield Sample("asyncio_executor_run_duration_seconds", labels, each.run_durations)
            yield Sample("asyncio_executor_return_delay_seconds", labels, each.return_delays)
            for callback, totals in each.functions.items():
                both = (("executor", label), ("callback", callback))
                yield Sample("asyncio_executor_runs_total", both, totals.runs)
                yield Sample("asyncio_executor_time_seconds_total", both, totals.seconds)
            for callback, filler in each.saturation.fillers.items():
                both = (("executor", label), ("callback", callback))
                yield Sample("asyncio_executor_blocked_seconds_total", both, filler.seconds)
