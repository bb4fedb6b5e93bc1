"""Offloads of one process: how long they waited, ran, and waited to be delivered; how full their executors are.

Their steps come through two rings: submit and delivery through the loop's, start and end through the process ring. The
rings may be read in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ...record.frames import Frame
from ...record.layout import SITE_LIMIT
from ...record.sites import UNKNOWN_SITE, site_of
from ..decoding.decoded import Decoded, OffloadStep
from ..site_names import SiteNames
from .histograms import Histogram
from .labels import OTHER, BoundedLabels, FoldedLabels
from .parts import Sample
from .saturation import Saturation

# Offloads whose end never comes (records lost, a pool shut down) are forgotten beyond this many.
_MAX_OPEN: Final = 100_000
_MAX_EARLY: Final = 10_000
# Pairs of executor and function that have series of their own.
_MAX_PAIRS: Final = 500
_MAX_WORKER_PLACES: Final = 10
# Executors that are followed at once: the record may lack the end of some.
_MAX_EXECUTORS: Final = 10_000


class FunctionTotals:
    """Offloads of one function to one executor: runs, and seconds from start to end.

    waited, longest_wait: seconds from submit to start. gave_up: calls that were given up before they started, whose
    waiting counts too.
    """

    __slots__ = ("gave_up", "longest_wait", "runs", "seconds", "waited")

    def __init__(self) -> None:
        self.runs = self.gave_up = 0
        self.seconds = self.waited = self.longest_wait = 0.0


class WorkersAt(NamedTuple):
    """Where the workers of a full executor stood. when: monotonic s. full_s: for how long it had been full by then.

    waiting: how many calls waited for a worker. places: how many workers stood at each place, most first. A place is
    the application's frame (a library's where there was none) and the innermost frame below it.
    """

    when: float
    full_s: float
    workers: int
    waiting: int
    places: tuple[tuple[int, Frame, Frame], ...]


def _workers_at(when: float, data: dict[str, Any]) -> WorkersAt | None:
    """The places in an event of the record; None for a damaged event."""
    try:
        places = tuple(
            (int(count), _frame(own), _frame(stands))
            for count, own, stands in ((each[0], each[1:5], each[5:9]) for each in data["places"][:_MAX_WORKER_PLACES])
        )
        return WorkersAt(when, float(data["full"]), int(data["workers"]), int(data["waiting"]), places)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return None


def _frame(values: Any) -> Frame:
    file, line, module, qualname = values
    return str(file), int(line), str(module), str(qualname)


class ExecutorTotals:
    """One executor label. ``waiting`` and ``active``: offloads submitted and not started, started and not ended.

    ``gave_up``: calls that were given up (cancelled, timed out) before a worker had them.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.max_workers = 0
        self.workers = 0
        self.waiting = 0
        self.active = 0
        self.gave_up = 0
        #: Where its workers stood the last time that it had been full for long.
        self.workers_at: WorkersAt | None = None
        self._saturation = Saturation()
        self.queue_durations = Histogram()
        self.run_durations = Histogram()
        self.return_delays = Histogram()
        self.functions: dict[str, FunctionTotals] = {}

    @property
    def histograms(self) -> tuple[Histogram, Histogram, Histogram]:
        """Submit to start (or to where the call was given up), start to end, end to delivery."""
        return self.queue_durations, self.run_durations, self.return_delays

    @property
    def saturation(self) -> Saturation:
        """Which functions waited for which, as far as is known now."""
        self._saturation.settle()
        return self._saturation

    def started(self, key: int, function: str, submit: float, start: float) -> None:
        """A call left the queue."""
        self._note_limit()
        self._saturation.started(key, function, submit, start)

    def given_up(self, function: str, submit: float, end: float) -> None:
        """A call left the queue without having been started."""
        self.gave_up += 1
        self._note_limit()
        self._saturation.gave_up(function, submit, end)

    def _note_limit(self) -> None:
        # The last calls of an executor may be read after its end, when it has no workers any more.
        if self.max_workers:
            self._saturation.max_workers = self.max_workers

    def finished(self, key: int, end: float) -> None:
        """A call gave its worker back, at ``end`` (monotonic s)."""
        self._saturation.finished(key, end)

    def forget(self, key: int) -> None:
        """A call has ended, but when is not known."""
        self._saturation.forget(key)


class _Executor:
    """One executor of the process: what the process calls it, and where it is counted."""

    __slots__ = ("max_workers", "name", "totals", "workers")

    def __init__(self, name: str, totals: ExecutorTotals) -> None:
        self.name = name
        self.totals = totals
        self.workers = self.max_workers = 0


class _Offload:
    __slots__ = ("counted", "delivered", "executor", "finish", "ident", "number", "outcome", "start", "submit")

    def __init__(self) -> None:
        self.executor: ExecutorTotals | None = None
        self.number = 0  # of its executor
        self.ident = 0.0
        self.submit = self.start = self.finish = self.delivered = -1.0
        self.outcome = 0
        self.counted = False  # its wait; one without a worker may be reported again, by the worker


class ExecutorStatistics:
    """Counts the offloads of one process, from the records of all its rings."""

    def __init__(self, sites: SiteNames, labels: BoundedLabels) -> None:
        self.sites = sites
        self.labels = labels
        self.executors: dict[str, ExecutorTotals] = {}
        self._folded = FoldedLabels()
        self._pairs = 0
        # The process's own names are unique among its living executors.
        self._by_name: dict[str, _Executor] = {}
        self._by_number: dict[int, _Executor] = {}
        # Executors whose end the process ring has told, while the loop's ring has not named them yet.
        self._gone_early: set[int] = set()
        # Totals of executors that are gone: records of their last calls may come later, through the loop's ring.
        self._gone_totals: dict[int, ExecutorTotals] = {}
        self._early_workers: dict[int, int] = {}
        self._early_workers_at: dict[str, WorkersAt] = {}
        self._open: dict[int, _Offload] = {}
        # Labels by ident of the function, for known sites only, as their labels do not change.
        self._labels_of: dict[float, str] = {}
        # Whether records of starts and ends were lost, and the moment (monotonic s) from which they are complete again.
        self._lossy = False
        self._lost_until = -1.0

    def new_process(self, sites: SiteNames) -> None:
        """Another process takes the slot: calls under way are over, the counts stay."""
        self.sites = sites
        for offload in self._open.values():
            if offload.executor is not None:
                offload.executor.forget(id(offload))
        self._open.clear()
        for number in list(self._by_number):
            self._gone(number)
        self._labels_of.clear()
        self._folded.forget()
        self._gone_early.clear()
        self._gone_totals.clear()
        self._early_workers.clear()
        self._early_workers_at.clear()
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
        if self._by_name.get(known.name) is known:
            del self._by_name[known.name]
        self._gone_totals[number] = known.totals
        if len(self._gone_totals) > _MAX_EARLY:
            del self._gone_totals[next(iter(self._gone_totals))]
        self._set_workers(known, 0, 0)

    def _set_workers(self, executor: _Executor, workers: int, max_workers: int) -> None:
        """Sets an executor's number of workers. Executors that share a label are added up."""
        totals = executor.totals
        totals.workers += workers - executor.workers
        totals.max_workers += max_workers - executor.max_workers
        executor.workers, executor.max_workers = workers, max_workers

    def labelled(self, name: str) -> ExecutorTotals | None:
        """The totals of the executor that has this name in the process, or had it. Called from any thread."""
        known = self._by_name.get(name)
        return known.totals if known is not None else self.executors.get(name)

    def feed(self, decoded: Decoded) -> None:
        """Takes in one chunk of any ring of the process."""
        for number, label, max_workers in decoded.executors:
            executor = self._executor(number, label)
            self._set_workers(executor, executor.workers, max_workers)
        for step in decoded.offloads:
            self._step(step)
        if decoded.loop is None and (decoded.dropped or self._lossy):
            self._lose(decoded)
        for event in decoded.events:
            if event.data.get("kind") == "workers":
                self._take_workers(str(event.data.get("executor", "")), _workers_at(event.when, event.data))
        for number, started in decoded.workers:
            if started < 0:
                self._gone(number)
            elif number in self._by_number:
                executor = self._by_number[number]
                self._set_workers(executor, started, executor.max_workers)
            elif len(self._early_workers) < _MAX_EARLY:
                self._early_workers[number] = started
        if self._gone_early:
            for number in [number for number in self._gone_early if number in self._by_number]:
                self._gone_early.discard(number)
                self._gone(number)

    def _take_workers(self, name: str, seen: WorkersAt | None) -> None:
        totals = self.labelled(name)
        if seen is not None and totals is not None:
            totals.workers_at = seen
        elif seen is not None and len(self._early_workers_at) < _MAX_EARLY:
            self._early_workers_at[name] = seen

    def _executor(self, number: int, name: str) -> _Executor:
        known = self._by_number.get(number)
        if known is not None and (not name or known.name == name):
            return known
        if number in self._gone_totals:  # numbers are not given twice
            return _Executor(name, self._gone_totals[number])
        while len(self._by_number) >= _MAX_EXECUTORS:
            self._gone(next(iter(self._by_number)))
        same = self._by_name.get(name) if name else None
        # An executor without a name is counted by its number until its name is read.
        totals = same.totals if same is not None else self._totals(self._folded.take(name or f"executor-{number}"))
        made = self._by_number[number] = _Executor(name, totals)
        if name:
            self._by_name[name] = made
            totals.workers_at = self._early_workers_at.pop(name, totals.workers_at)
        if known is not None:
            self._set_workers(made, known.workers, known.max_workers)
            self._set_workers(known, 0, 0)
            self._move(number, known.totals, totals)
        self._set_workers(made, self._early_workers.pop(number, made.workers), made.max_workers)
        return made

    def _totals(self, label: str) -> ExecutorTotals:
        totals = self.executors.get(label)
        if totals is None:
            totals = self.executors[label] = ExecutorTotals(label)
        return totals

    def _move(self, number: int, old: ExecutorTotals, new: ExecutorTotals) -> None:
        """Moves the calls under way to the totals of the name that an executor now has instead of its number."""
        for offload in self._open.values():
            if offload.number == number and offload.executor is old:
                offload.executor = new
                if offload.start < 0.0:
                    old.waiting -= 1
                    new.waiting += 1
                elif offload.finish < 0.0:
                    old.active -= 1
                    new.active += 1

    def _step(self, step: OffloadStep) -> None:
        kind, when, number, executor_number, ident, _, _, worker, outcome = step
        offload = self._open.get(number)
        if offload is None:
            while len(self._open) >= _MAX_OPEN:
                self._forget(next(iter(self._open)))
            offload = self._open[number] = _Offload()
        executor = offload.executor
        if kind == "submit":
            offload.executor = executor = self._executor(executor_number, "").totals
            offload.number = executor_number
            offload.ident = ident
            offload.submit = when
            if offload.start >= 0.0:
                executor.active += 1
                if offload.counted:
                    self._waited(offload, executor)
            elif offload.finish < 0.0:
                executor.waiting += 1
            if offload.finish >= 0.0:
                self._finished(offload, executor)
        elif kind == "start":
            first = offload.start < 0.0
            offload.start = when
            if executor is not None:
                if first:
                    executor.waiting -= 1
                    executor.active += 1
                if worker and not offload.counted:
                    self._waited(offload, executor)
            offload.counted = offload.counted or bool(worker)
        elif kind == "finish":
            offload.finish = when
            offload.outcome = outcome
            if executor is not None:
                if offload.start < 0.0:
                    executor.waiting -= 1
                self._finished(offload, executor)
        elif kind == "deliver":
            offload.delivered = when
            if offload.finish < 0.0 and when < self._lost_until:
                self._forget(number)
                return
        # A call that was given up may still run; and its end is in another ring, which may be read later.
        if executor is not None and offload.finish >= 0.0 and offload.delivered >= 0.0:
            if offload.delivered >= offload.finish:
                executor.return_delays.add(offload.delivered - offload.finish)
            del self._open[number]

    def _lose(self, decoded: Decoded) -> None:
        """Handles a gap in the process ring.

        Calls that were delivered before the latest record of that ring have ended: their end was recorded earlier, and
        so has been read, or is lost.
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
        label = self._label(offload, executor)
        executor.started(id(offload), label, offload.submit, offload.start)
        function = self._function(label, executor)
        function.waited += waited
        if waited > function.longest_wait:
            function.longest_wait = waited

    def _gave_up(self, offload: _Offload, executor: ExecutorTotals) -> None:
        """Counts a call that was cancelled (its deadline passed) or refused before it ran. Its wait counts too."""
        waited = max(0.0, offload.finish - offload.submit)
        executor.queue_durations.add(waited)
        label = self._label(offload, executor)
        executor.given_up(label, offload.submit, offload.finish)
        function = self._function(label, executor)
        function.gave_up += 1
        function.waited += waited
        function.longest_wait = max(function.longest_wait, waited)

    def _finished(self, offload: _Offload, executor: ExecutorTotals) -> None:
        if offload.start < 0.0:
            self._gave_up(offload, executor)
            return
        if not offload.counted:
            offload.counted = True
            self._waited(offload, executor)
        executor.active -= 1
        duration = max(0.0, offload.finish - offload.start)
        executor.run_durations.add(duration)
        executor.finished(id(offload), offload.finish)
        function = self._function(self._label(offload, executor), executor)
        function.runs += 1
        function.seconds += duration

    def _label(self, offload: _Offload, executor: ExecutorTotals) -> str:
        label = self._labels_of.get(offload.ident)
        if label is None:
            site = self.sites.site(site_of(offload.ident))
            label = self.labels.admit((site or UNKNOWN_SITE).label)
            if site is not None and len(self._labels_of) < SITE_LIMIT:
                self._labels_of[offload.ident] = label
        return OTHER if self._pairs >= _MAX_PAIRS and label not in executor.functions else label

    def _function(self, label: str, executor: ExecutorTotals) -> FunctionTotals:
        totals = executor.functions.get(label)
        if totals is None:
            totals = executor.functions[label] = FunctionTotals()
            self._pairs += 1
        return totals

    def times_of(self, number: int) -> tuple[float, float]:
        """When this offload was started and when it ended (monotonic s; -1 where it did not, or it is not known).

        The times are kept from its end in the worker until its delivery has been fed.
        """
        offload = self._open.get(number)
        return (offload.start, offload.finish) if offload is not None else (-1.0, -1.0)

    def label_of(self, number: int) -> str:
        """The label of the executor of this number; "" where it was not named yet."""
        known = self._by_number.get(number)
        totals = known.totals if known is not None else self._gone_totals.get(number)
        return totals.label if totals is not None else ""

    def unstarted(self) -> list[tuple[str, str, float]]:
        """Calls that wait for a worker: executor, function, when it was submitted (monotonic s)."""
        return [
            (offload.executor.label, self._label(offload, offload.executor), offload.submit)
            for offload in self._open.values()
            if offload.executor is not None and offload.start < 0.0 and offload.finish < 0.0 <= offload.submit
        ]

    def running(self, now: float) -> list[tuple[str, str, float]]:
        """The calls that run at ``now`` (monotonic s): (executor, function, seconds so far), longest first."""
        out: list[tuple[str, str, float]] = []
        for offload in self._open.values():
            if offload.executor is not None and offload.start >= 0.0 and offload.finish < 0.0:
                label = self.sites.label_of(offload.ident)
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
