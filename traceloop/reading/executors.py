"""Offloads of one process: how long they waited, ran, and waited to be delivered; how full their executors are.

Their steps come by two rings (submit and delivery by the loop's, start and end by the process's), in whichever order
these are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..recording.layout import SITES
from .decoded import Decoded, OffloadStep
from .histograms import Histogram
from .labels import BoundedLabels, LabelSlots
from .run_directory import SiteNames
from .samples import Sample

# Offloads whose end never comes (records lost, a pool shut down) are forgotten beyond this many.
_MAX_OPEN: Final = 100_000
# Executors are numbered as they come; what was read of the oldest of so many has been counted long ago.
_MAX_EXECUTORS: Final = 1000


class FunctionTotals:
    """Offloads of one function to one executor: runs, and seconds from start to end."""

    __slots__ = ("runs", "seconds")

    def __init__(self) -> None:
        self.runs = 0
        self.seconds = 0.0


class ExecutorTotals:
    """One executor label. ``waiting`` and ``active``: offloads submitted and not started, started and not ended."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.max_workers = 0
        self.workers = 0
        self.waiting = 0
        self.active = 0
        self.queue_durations = Histogram()
        self.run_durations = Histogram()
        self.return_delays = Histogram()
        self.functions: dict[str, FunctionTotals] = {}


class _Offload:
    __slots__ = ("deliver", "executor", "finish", "ident", "start", "submit")

    def __init__(self) -> None:
        self.executor: ExecutorTotals | None = None
        self.ident = 0.0
        self.submit = self.start = self.finish = self.deliver = -1.0


class ExecutorStatistics:
    """Feeds on what all rings of one process say of offloads."""

    def __init__(self, sites: SiteNames, labels: BoundedLabels) -> None:
        self.sites = sites
        self.labels = labels
        self.executors: dict[str, ExecutorTotals] = {}
        self._slots = LabelSlots()
        self._by_number: dict[int, ExecutorTotals] = {}
        self._open: dict[int, _Offload] = {}
        self._workers: dict[int, int] = {}
        self._ended: set[int] = set()
        self._unnamed: set[int] = set()

    def new_process(self, sites: SiteNames) -> None:
        """Another process takes the slot: what was under way is over, what was counted stays."""
        self.sites = sites
        for number in list(self._by_number):
            self._gone(number)
        for totals in self._by_number.values():
            totals.waiting = totals.active = 0
        self._by_number.clear()
        self._open.clear()
        self._workers.clear()
        self._ended.clear()
        self._unnamed.clear()

    def _gone(self, number: int) -> None:
        """The executor has gone: its label is free. What is still to be read of it is counted there all the same."""
        self._ended.add(number)
        self._workers.pop(number, None)
        totals = self._by_number.get(number)
        if totals is not None:
            totals.workers = totals.max_workers = 0
            self._slots.free(totals.label)

    def feed(self, decoded: Decoded) -> None:
        """Takes in one stretch of any ring of the process."""
        for number, label, max_workers in decoded.executors:
            executor = self._executor(number, label)
            if number not in self._ended:
                executor.max_workers = max_workers
                executor.workers = self._workers.pop(number, executor.workers)
        for number, started in decoded.workers:
            if started < 0:
                self._gone(number)
            elif number in self._by_number:
                self._by_number[number].workers = started
            elif len(self._workers) < _MAX_OPEN:
                # By the process ring, before the loop's ring has said what executor this is.
                self._workers[number] = started
        for step in decoded.offloads:
            self._step(step)

    def _executor(self, number: int, label: str) -> ExecutorTotals:
        totals = self._by_number.get(number)
        if totals is not None and label and number in self._unnamed:
            self._unnamed.discard(number)
            self._slots.free(totals.label)
            totals = None
        if totals is None:
            if not label:  # its definition was lost; it is repeated now and then
                self._unnamed.add(number)
            slot = self._slots.take(label or f"executor-{number}")
            totals = self.executors.get(slot)
            if totals is None:
                totals = self.executors[slot] = ExecutorTotals(slot)
            if number in self._ended:  # by the process ring, before the loop's ring said that it was there
                self._slots.free(slot)
            while len(self._by_number) >= _MAX_EXECUTORS:
                oldest = next(iter(self._by_number))
                del self._by_number[oldest]
                self._ended.discard(oldest)
                self._unnamed.discard(oldest)
            self._by_number[number] = totals
        return totals

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
                self._started(offload, executor)
            elif offload.finish < 0.0:
                executor.waiting += 1
            if offload.finish >= 0.0:
                self._finished(offload, executor)
        elif step.step == "start":
            offload.start = step.when
            if executor is not None:
                executor.waiting -= 1
                self._started(offload, executor)
        elif step.step == "finish":
            offload.finish = step.when
            if executor is not None:
                if offload.start < 0.0:
                    executor.waiting -= 1
                self._finished(offload, executor)
        elif step.step == "deliver":
            offload.deliver = step.when
        if offload.deliver >= 0.0 and offload.finish >= 0.0 and executor is not None:
            if offload.start >= 0.0:
                executor.return_delays.add(max(0.0, offload.deliver - offload.finish))
            del self._open[step.number]

    def _started(self, offload: _Offload, executor: ExecutorTotals) -> None:
        executor.active += 1
        executor.queue_durations.add(max(0.0, offload.start - offload.submit))

    def _finished(self, offload: _Offload, executor: ExecutorTotals) -> None:
        if offload.start < 0.0:
            return  # cancelled, or refused, before it ran
        executor.active -= 1
        duration = max(0.0, offload.finish - offload.start)
        executor.run_durations.add(duration)
        site = self.sites.site(int(offload.ident) % SITES)
        label = self.labels.admit(site.label if site is not None else "unknown")
        totals = executor.functions.get(label)
        if totals is None:
            totals = executor.functions[label] = FunctionTotals()
        totals.runs += 1
        totals.seconds += duration

    def _forget(self, number: int) -> None:
        offload = self._open.pop(number)
        executor = offload.executor
        if executor is not None and offload.finish < 0.0:
            if offload.start < 0.0:
                executor.waiting -= 1
            else:
                executor.active -= 1

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
