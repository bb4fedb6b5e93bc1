"""The waits of a process as series, and ordered for reports: the places with most waiting first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from ..decoding.decoded import Decoded
from .context import SitesOf
from .labels import BoundedLabels
from .loop import LoopStatistics
from .parts import Labels, Sample
from .waits import AwaitPlace, Waits

#: Places that a process may have as label values; the rest is ``other``.
PLACE_LIMIT: Final = 100


class Waited(NamedTuple):
    """The waits of one coroutine's tasks at one place, in seconds. Waits that last count up to now.

    estimated_s: the part of ``seconds`` that is an estimate, from ``rounds`` rounds of looks. waits: how many were
    seen. now: how many tasks wait there now.
    """

    coroutine: str
    place: AwaitPlace
    seconds: float
    estimated_s: float
    longest_s: float
    waits: int
    now: int
    rounds: int

    @property
    def seen_once(self) -> bool:
        """Whether one look saw one short wait. From that the number of such waits cannot be estimated."""
        return self.waits == 1 and self.estimated_s > 0.0

    @property
    def shown_s(self) -> float:
        """The seconds to show: ``seconds``; for a wait that was seen only once, the length of that wait."""
        return self.longest_s if self.seen_once else self.seconds

    @property
    def rough(self) -> bool:
        """Whether so much of ``shown_s`` is an estimate that it must be shown as one."""
        return self.estimated_s > 0.1 * self.seconds and not self.seen_once


class WaitSeries:
    """A part of a process's statistics (``parts.Part``)."""

    def __init__(
        self, waits: Waits, loops: Callable[[], Iterable[LoopStatistics]], sites_of: SitesOf, callbacks: BoundedLabels
    ) -> None:
        self._waits = waits
        self._loops = loops
        self._sites_of = sites_of
        self._callbacks = callbacks
        self._places = BoundedLabels(PLACE_LIMIT)
        # Values of processes that had the slot before, and the highest value shown so far, since no counter may fall.
        self._ended: dict[Labels, float] = {}
        self._shown: dict[Labels, float] = {}

    def new_process(self) -> None:
        """Another process takes the slot: its waits are added to those before."""
        for labels, value in self._by_labels(self.most(time.monotonic(), running=False)).items():
            self._shown[labels] = max(self._shown.get(labels, 0.0), self._ended.get(labels, 0.0) + value[0])
        self._ended = dict(self._shown)

    def feed(self, decoded: Decoded) -> None:
        """Does nothing: the process and its loops' tasks feed ``Waits``."""

    def most(self, now: float, *, running: bool = True) -> list[Waited]:
        """The places where tasks waited, most time first; ``now``: monotonic s. ``running``: with waits that last."""
        standing: list[tuple[int, int, float]] = []
        if running:
            for loop in self._loops():
                standing += loop.tasks.standing()
        waiting = self._waits.waiting_now(standing, now)
        period = self._waits.period
        out: list[Waited] = []
        for key in {**self._waits.totals, **waiting}:
            site, place = key
            totals = self._waits.totals.get(key)
            tasks, lasting, longest = waiting.get(key, (0, 0.0, 0.0))
            # A wait that is shorter than the time between two looks counts only once it is over.
            lasting = lasting if longest >= period else 0.0
            estimated = totals.estimated_s(now) if totals else 0.0
            out.append(
                Waited(
                    self._sites_of().label(site),
                    place,
                    (totals.exact_s if totals else 0.0) + estimated + lasting,
                    estimated,
                    max(totals.longest_s if totals else 0.0, longest),
                    (totals.count if totals else 0) + tasks,
                    tasks,
                    totals.rounds if totals else 0,
                )
            )
        return sorted(out, key=lambda each: -each.seconds)

    def _by_labels(self, waits: list[Waited]) -> dict[Labels, tuple[float, int]]:
        out: dict[Labels, tuple[float, int]] = {}
        for each in waits:
            labels = (
                ("callback", self._callbacks.admit(each.coroutine)),
                ("site", self._places.admit(each.place.label)),
            )
            seconds, tasks = out.get(labels, (0.0, 0))
            out[labels] = (seconds + each.seconds, tasks + each.now)
        return out

    def metrics(self) -> Iterator[Sample]:
        """The series as they stand, without the label ``process``."""
        found = self._by_labels(self.most(time.monotonic()))
        for labels, (seconds, _) in found.items():
            self._shown[labels] = max(self._shown.get(labels, 0.0), self._ended.get(labels, 0.0) + seconds)
        for labels, seconds in self._shown.items():
            yield Sample("asyncio_task_waiting_seconds_total", labels, seconds)
            yield Sample("asyncio_task_waiting", labels, found[labels][1] if labels in found else 0)
