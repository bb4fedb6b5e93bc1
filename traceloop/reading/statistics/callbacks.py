"""The handle runs of one loop: how long and how late they were, by callback; the slow ones, and who waited for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import add
from typing import Final

from ...record.sites import UNKNOWN_LABEL, site_of
from ..decoding.decoded import Decoded
from ..decoding.runs import Run
from ..site_names import SiteNames
from ..stalls.who_waited import PLUMBING, SlowRun, WhoWaited
from .counting import NativeRunCounter, RunCounter, TakeSums, run_counter
from .histograms import DURATIONS, Histogram
from .labels import OTHER, BoundedLabels
from .parts import Sample

# Pairs of callback and culprit that have series of their own, for each loop.
_MAX_PAIRS: Final = 500


class CallbackTotals:
    """One callback (label): runs, seconds in them, the longest."""

    __slots__ = ("label", "longest_s", "runs", "seconds", "threshold")

    def __init__(self, label: str) -> None:
        self.label = label
        self.runs = 0
        self.seconds = 0.0
        self.longest_s = 0.0
        self.threshold = 0.0

    def add(self, runs: int, seconds: float, longest_s: float) -> None:
        """Some more runs: how many, seconds in them, the longest."""
        self.runs += runs
        self.seconds += seconds
        if longest_s > self.longest_s:
            self.longest_s = longest_s


class SlowTotals:
    """Slow runs of one callback with one culprit. blocked_s: the delay (s) that they caused to others."""

    __slots__ = ("blocked_s", "longest_s", "runs", "seconds")

    def __init__(self) -> None:
        self.runs = 0
        self.seconds = 0.0
        self.longest_s = 0.0
        self.blocked_s = 0.0


class _Counted:
    """A slow run whose victims are still being found.

    ``totals``: None until it is decided whether the run counts as slow. blocked_s: the part of its bill (s) that its
    totals include already.
    """

    __slots__ = ("blocked_s", "callback", "slow", "totals")

    def __init__(self, slow: SlowRun, callback: CallbackTotals) -> None:
        self.slow = slow
        self.callback = callback
        self.totals: SlowTotals | None = None
        self.blocked_s = 0.0


class CallbackStatistics:
    """Counts the runs of one loop label.

    ``culprit_of``: names the culprit of a slow run that has ended; by default none is known.
    ``is_suspension``: whether a run was long only because the whole process stood still; it is then not slow.
    ``is_known``: whether nothing more can be learnt about a slow run; until then it is not counted.
    """

    def __init__(
        self,
        sites: SiteNames,
        labels: BoundedLabels,
        culprits: BoundedLabels,
        threshold_for: Callable[[str, float], float],
    ) -> None:
        self.sites = sites
        self.labels = labels
        self.culprits = culprits
        self.threshold_for = threshold_for
        #: The threshold in force, s; and the lowest that any callback may have.
        self.threshold = self.lowest_threshold = 0.1
        self.culprit_of: Callable[[Run, str], str] = lambda run, callback: UNKNOWN_LABEL
        self.is_suspension: Callable[[Run], bool] = lambda run: False
        self.is_known: Callable[[Run], bool] = lambda run: True
        #: Called with each slow run as it is counted, with its callback and culprit as labels.
        self.on_slow: Callable[[Run, str, str], None] = lambda run, callback, culprit: None
        self.durations: dict[str, Histogram] = {}
        self.delays: dict[str, Histogram] = {}
        self.callbacks: dict[str, CallbackTotals] = {}
        self.slow: dict[tuple[str, str], SlowTotals] = {}
        self.slow_runs = 0
        self.runs = 0
        # The counter for the form of runs (C or Python) that was fed last.
        self._counter: RunCounter | NativeRunCounter | None = None
        self._counted: type | None = None
        # By callback, the lengths of the runs that earlier counters have counted.
        self._earlier_lengths: dict[str, list[int]] = {}
        self.who_waited = WhoWaited(lambda ident: self.sites.label_of(ident) in PLUMBING)
        #: The runs of the latest chunk that may be slow: at least as long as the lowest threshold.
        self.new_slow: list[SlowRun] = []
        self._open: list[_Counted] = []
        self._uncounted: list[_Counted] = []

    def new_process(self, sites: SiteNames) -> None:
        """Idents mean other sites from now on."""
        self.who_waited.finish()
        self.count_slow(final=True)
        self.sites = sites
        if self._counter is not None:
            self._counter.forget()

    def set_threshold(self, threshold: float, lowest: float) -> None:
        """The loop's threshold in force, s (infinite: nothing is slow), and the lowest that any callback may have."""
        if threshold > 0.0 and (threshold, lowest) != (self.threshold, self.lowest_threshold):
            self.threshold = threshold
            self.lowest_threshold = min(lowest, threshold)
            for totals in self.callbacks.values():
                totals.threshold = self.threshold_for(totals.label, threshold)

    def feed(self, decoded: Decoded) -> None:
        """Takes in a chunk's runs."""
        runs = decoded.runs
        self.new_slow = []
        if not len(runs):
            return
        lowest = self.lowest_threshold
        if self._counter is None or self._counted is not type(runs):
            self._counted = type(runs)
            self._earlier_lengths = self._lengths()
            self._counter = run_counter(self.durations, self.delays, self._find_sums, runs)
        self.runs += len(runs)
        longest = self._counter.count(runs, decoded.finished)
        decoded.longest_s = longest
        if longest >= lowest or self.who_waited.is_charging:
            self._take_slow(self.who_waited.feed(runs, lowest))

    def lengths(self) -> dict[str, Histogram]:
        """How long all runs of each callback were, by its label. ``sum`` and ``maximum`` are those of its totals."""
        out = {}
        for label, counts in self._lengths().items():
            totals = self.callbacks.get(label)
            if totals is not None:
                out[label] = Histogram.of(DURATIONS, counts, totals.seconds, totals.longest_s, {})
        return out

    def _lengths(self) -> dict[str, list[int]]:
        lengths = dict(self._earlier_lengths)
        for label, counts in self._counter.lengths() if self._counter is not None else ():
            before = lengths.get(label)
            lengths[label] = counts if before is None else list(map(add, before, counts))
        return lengths

    def _find_sums(self, ident: float) -> tuple[str, TakeSums, bool]:
        totals, is_known = self._find(ident)
        return totals.label, totals.add, is_known

    def _find(self, ident: float) -> tuple[CallbackTotals, bool]:
        """The totals of an ident, and whether its site is known yet."""
        site = self.sites.site(site_of(ident))
        label = self.labels.admit(site.label if site is not None else UNKNOWN_LABEL)
        totals = self.callbacks.get(label)
        if totals is None:
            totals = self.callbacks[label] = CallbackTotals(label)
            totals.threshold = self.threshold_for(label, self.threshold)
        return totals, site is not None

    # -- slow runs and their victims

    def _take_slow(self, found: list[SlowRun]) -> None:
        """Counts new slow runs, and what was charged to earlier ones meanwhile."""
        self.new_slow = found
        for slow in found:
            counted = _Counted(slow, self._find(slow.run[3])[0])
            if not self.is_known(slow.run):
                self._uncounted.append(counted)
            elif self._count_slow(counted):
                self._open.append(counted)
        self._count_blocked()

    def _count_blocked(self) -> None:
        for counted in self._open:
            totals, exact = counted.totals, counted.slow.bill.exact
            if totals is not None and exact != counted.blocked_s:
                totals.blocked_s += exact - counted.blocked_s
                counted.blocked_s = exact
        self._open = [counted for counted in self._open if not counted.slow.complete]

    def count_slow(self, *, final: bool = False) -> None:
        """Counts the slow runs about which nothing more can be learnt. ``final``: nothing more will be read."""
        rest: list[_Counted] = []
        for counted in self._uncounted:
            if not final and not self.is_known(counted.slow.run):
                rest.append(counted)
            elif self._count_slow(counted):
                self._open.append(counted)
        self._uncounted = rest
        self._count_blocked()

    def _count_slow(self, counted: _Counted) -> bool:
        """Counts a run if, with its culprit known, it is a slow one. Returns whether it counted."""
        run, callback = counted.slow.run, counted.callback
        duration = run[2] - run[1]
        culprit = self.culprit_of(run, callback.label)
        limit = callback.threshold
        if limit == self.threshold:  # no pattern knows the callback; one may know the culprit
            limit = self.threshold_for(culprit, limit)
        if duration < limit or self.is_suspension(run):
            return False
        culprit = self.culprits.admit(culprit)
        if len(self.slow) >= _MAX_PAIRS and (callback.label, culprit) not in self.slow:
            culprit = OTHER
        totals = self.slow.get((callback.label, culprit))
        if totals is None:
            totals = self.slow[callback.label, culprit] = SlowTotals()
        counted.totals = totals
        totals.runs += 1
        totals.seconds += duration
        totals.longest_s = max(totals.longest_s, duration)
        self.slow_runs += 1
        self.on_slow(run, callback.label, culprit)
        return True

    def count_own_work(self, label: str, run: Run) -> bool:
        """Counts the loop's own work, if it took as long as a slow callback; it is then its own culprit.

        No handle runs meanwhile. Returns whether it counted.
        """
        seconds = run[2] - run[1]
        if seconds < self.threshold_for(label, self.threshold) or self.is_suspension(run):
            return False
        callback, culprit = self.labels.admit(label), self.culprits.admit(label)
        totals = self.slow.setdefault((callback, culprit), SlowTotals())
        totals.runs += 1
        totals.seconds += seconds
        totals.longest_s = max(totals.longest_s, seconds)
        self.slow_runs += 1
        self.on_slow(run, callback, culprit)
        return True

    def metrics(self) -> Iterator[Sample]:
        """Runs, delays, slow runs."""
        self.count_slow()
        for kind, histogram in self.durations.items():
            yield Sample("asyncio_callback_duration_seconds", (("kind", kind),), histogram)
        for kind, histogram in self.delays.items():
            yield Sample("asyncio_callback_schedule_delay_seconds", (("kind", kind),), histogram)
        for label, totals in self.callbacks.items():
            labels = (("callback", label),)
            yield Sample("asyncio_callback_runs_total", labels, totals.runs)
            yield Sample("asyncio_callback_time_seconds_total", labels, totals.seconds)
        yield Sample("asyncio_eventloop_slow_callbacks_total", (), self.slow_runs)
        for (callback, culprit), slow in self.slow.items():
            both = (("callback", callback), ("culprit", culprit))
            yield Sample("asyncio_slow_callbacks_total", both, slow.runs)
            yield Sample("asyncio_slow_callback_time_seconds_total", both, slow.seconds)
            yield Sample("asyncio_callback_blocked_seconds_total", both, slow.blocked_s)
        yield Sample("asyncio_slow_callback_threshold_seconds", (), self.threshold)
