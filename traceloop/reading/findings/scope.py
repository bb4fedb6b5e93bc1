"""What a rule looks at: one process of a run, with what several rules need to know about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ...record.layout import SITE_LIMIT
from ..stalls.model import ProcessorTime
from ..stalls.parts import stalls_of
from . import thresholds
from .model import CRITICAL, NOTE, WARNING, Who, short_path

if TYPE_CHECKING:
    from ..stalls.index import StallIndex
    from ..statistics.loop import LoopStatistics
    from ..statistics.process import ProcessStatistics
    from ..statistics.run import Statistics
    from .slow import Slow


class Scope:
    """One process slot. loops: those that ran anything. now: monotonic s, for what is in progress.

    observed_s: how long its loops were observed; of several that ran at the same time, the longest.
    """

    def __init__(self, process: ProcessStatistics, now: float) -> None:
        self.process = process
        self.now = now
        self.loops: list[LoopStatistics] = [loop for loop in process.loops.values() if loop.iterations or loop.is_open]
        self.observed_s = max((sum(loop.times(now)) for loop in self.loops), default=0.0)
        #: What ``slow_runs.slow_of`` found, which several rules ask for.
        self.slow: list[Slow] | None = None
        self._places: dict[str, tuple[str, int]] | None = None

    def who(self, label: str, callback: str = "") -> Who:
        """The code of a label of the statistics, with its file and the line it begins at where these are known."""
        if self._places is None:
            self._places = {}
            for number in range(1, SITE_LIMIT):
                site = self.process.sites.site(number)
                if site is None:
                    break
                self._places.setdefault(site.label, (site.file, site.line))
        file, line = self._places.get(label, ("", 0))
        return Who(label, file, line, callback if callback != label else "")

    def severity(self, cost_s: float, observed_s: float | None = None) -> str:
        """The severity of a finding, by the share of the time observed that it cost."""
        observed = max(self.observed_s if observed_s is None else observed_s, 1e-9)
        if cost_s >= thresholds.CRITICAL_SHARE * observed and cost_s >= thresholds.NOTE_SECONDS:
            return CRITICAL
        if cost_s < thresholds.NOTE_SHARE * observed and cost_s < thresholds.NOTE_SECONDS:
            return NOTE
        return WARNING

    def processor(self) -> ProcessorTime:
        """CPU time and waiting time of the loops' threads. Recorded only for loops that had to wait for a processor
        much of the time. They are of the whole life of a loop: where its record was not read whole, a share counts.
        """
        process = self.process
        read = 1.0 - min(process.dropped, process.records) / max(1, process.records)
        return ProcessorTime(*(read * each for each in processor_times(self.indexes())))

    def indexes(self) -> list[StallIndex]:
        """The stall indexes of the processes that had this slot, one after the other; none if stalls are not counted.
        """
        try:
            stalls = stalls_of(self.process)
        except LookupError:
            return []
        return [*stalls.earlier, stalls.index]

    def late(self, reason: str) -> float:
        """Seconds by which the watchdog came late for this reason: gil, starved, suspended."""
        return sum(index.late.get(reason, 0.0) for index in self.indexes())

    def waiting_share(self) -> float:
        """The share of the time in which the loops' threads waited for a processor, of all time in which they had work.
        """
        ran, waited, _ = self.processor()
        return waited / (ran + waited) if waited >= thresholds.STARVED_SECONDS else 0.0

    def leak_cost(self) -> float:
        """What a leak counts as, s."""
        return thresholds.LEAK_SHARE * self.observed_s


def processor_times(indexes: Iterable[StallIndex]) -> ProcessorTime:
    """CPU time and waiting time of the loops' threads, as far as ``Scope.processor`` has them.

    Threads wait at the same time, so their waits are not added up: each index counts with the thread that waited
    longest. ``indexes``: of one process slot, one after the other.
    """
    return _sum(max(_by_ring(index), key=lambda each: each.waited, default=ProcessorTime()) for index in indexes)


def _by_ring(index: StallIndex) -> list[ProcessorTime]:
    """The same for each ring, whose loops run one after the other."""
    rings: dict[int, list[ProcessorTime]] = {}
    for (ring, _), times in index.processor.items():
        rings.setdefault(ring, []).append(times)
    return [_sum(every) for every in rings.values()]


def _sum(times: Iterable[ProcessorTime]) -> ProcessorTime:
    every = list(times)
    return ProcessorTime(*map(sum, zip(*every, strict=True))) if every else ProcessorTime()


def waiting_share(statistics: Statistics) -> float:
    """As ``Scope.waiting_share``, for all processes. Call it under the statistics' lock."""
    every = [Scope(process, 0.0).processor() for process in statistics.processes.values()]
    ran, waited = sum(each.ran for each in every), sum(each.waited for each in every)
    return waited / (ran + waited) if waited >= thresholds.STARVED_SECONDS else 0.0


def busiest(loop: LoopStatistics, by: Callable[[str], bool] | None = None) -> tuple[str, float, float] | None:
    """The callback that took most of a loop's time: label, seconds, share of the time of all."""
    every = loop.callbacks.callbacks
    total = sum(each.seconds for each in every.values())
    chosen = [each for label, each in every.items() if by is None or by(label)]
    if not chosen or total <= 0.0:
        return None
    most = max(chosen, key=lambda each: each.seconds)
    return most.label, most.seconds, most.seconds / total


def frame_line(frame: tuple[str, int, str, str]) -> str:
    """A frame in one line: ``app/prices.py:31 in load_prices``."""
    file, line, _, qualname = frame
    return f"{short_path(file)}:{line} in {qualname}"
