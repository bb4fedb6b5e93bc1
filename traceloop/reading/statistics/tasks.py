"""The tasks of one loop by coroutine: how many, how long they run, wait and are suspended, what makes them, the oldest.

``LoopStatistics`` counts all tasks, from the loop's words. An eager task that ends inside ``create_task`` has no step,
and so appears only there. This module counts the tasks that ran through the loop.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Set
from typing import NamedTuple

from ...record.layout import SITE_LIMIT
from ...record.sites import site_of
from ..decoding.decoded import Decoded
from .alive_tasks import AliveTasks, CoroutineTotals, Known, NativeTasks
from .context import SitesOf
from .counting import native_of
from .parts import Sample
from .waits import Waits


class OldTask(NamedTuple):
    """A task that is not done. since: when its first step was ready, monotonic s. alive: how many tasks its coroutine
    has that are not done.
    """

    coroutine: str
    name: str
    since: float
    alive: int


class TaskState(NamedTuple):
    """A task that is not done. since: when its first step was ready; last_step: end of its latest step (monotonic s).

    chain: the chain of coroutines at which it is suspended; 0 where it runs, is ready, or was not looked at since it
    ran. stood: the chain at which a look found it before it ran. creator: the site of the handle run that made it; 0
    where that is not known.
    """

    ident: float
    name: str
    since: float
    last_step: float
    chain: int
    stood: int
    creator: int


class TaskStatistics:
    """A part of a loop's statistics (``parts.Part``), for reports and ``top``. It has no series of its own."""

    def __init__(self, sites_of: SitesOf, waits: Waits, is_open: Callable[[], bool]) -> None:
        """``waits``: of the process. ``is_open``: whether a loop has the label now. A closed loop's tasks are gone."""
        self._waits = waits
        self._sites_of = sites_of
        self._is_open = is_open
        self._sites = sites_of()
        self._known: Known = AliveTasks()
        self._loop_number = 0
        self._loop_began = -math.inf

    @property
    def coroutines(self) -> dict[int, CoroutineTotals]:
        """The totals of each coroutine, by its site."""
        return self._known.coroutines

    def feed(self, decoded: Decoded) -> None:
        """Takes in one chunk of the loop's record."""
        if self._sites is not self._sites_of():  # another process has the slot: its sites have other numbers
            self._sites = self._sites_of()
            self._known = AliveTasks()
            self._loop_number = 0  # its loops are counted anew
            self._loop_began = -math.inf
        if decoded.loop is not None and decoded.loop.number != self._loop_number:
            self._loop_number = decoded.loop.number
            self._loop_began = decoded.loop.since
            self._known.clear()
        known = self._known
        if not known.coroutines:  # the first chunk, whose form decides
            module = native_of(decoded.runs)
            known = self._known = AliveTasks() if module is None else NativeTasks(module)
        self._waits.loop_began = self._loop_began
        known.feed(decoded, self._waits)
        circles = self._waits.circles
        for ident in decoded.left:
            if ident >= SITE_LIMIT:
                known.totals(site_of(ident)).left += 1
        for ident, when in decoded.abandoned:
            if ident >= SITE_LIMIT:
                known.totals(site_of(ident)).abandoned += 1
                task = known.remove(ident)
                if task is not None:
                    self._waits.seek_before(ident, when)
                    if ident in circles:
                        circles.left(ident, task.name, task.last_end, when, destroyed=True)
                self._waits.forget(ident)

    def end_loop(self, when: float) -> None:
        """The loop was closed, or its process has ended (monotonic s)."""
        self._waits.end_loop(self._loop_began, when)

    def idents(self) -> Set[float]:
        """The idents of the tasks that are not done."""
        return set(self._known.idents())

    def adopt(self, ident: float, since: float) -> None:
        """Adds a task of this loop that looks have found and whose beginning is not in the record."""
        self._known.begin(ident, since)

    def states(self, only: Collection[float] | None = None) -> Iterator[TaskState]:
        """The state of each task that is not done (and in ``only``), by the record and the looks."""
        looks = self._waits.looks
        known = self._known
        for ident in known.idents() if only is None else only:
            task = known.get(ident)
            if task is None:
                continue
            seen = looks.get(ident)
            chain = int(seen[-1]) if seen is not None and seen[-2] >= task.last_end else 0
            stood = self._waits.stood.get(ident, 0) if seen is None else int(seen[-1])
            last_step = max(task.last_end, task.since)
            yield TaskState(ident, task.name, task.since, last_step, chain, stood, task.creator)

    def standing(self) -> Iterator[tuple[int, int, float]]:
        """The tasks that a look found suspended and that have not run since: site, chain, since when."""
        for ident, seen in self._waits.looks.items():
            task = self._known.get(ident)
            if task is not None and seen[-2] >= task.last_end:
                since = task.last_end if task.last_end > 0.0 else seen[0]
                yield site_of(ident), int(seen[-1]), since

    # -- as it stands

    def label(self, site: int) -> str:
        """The name of a coroutine function."""
        return self._sites.label(site)

    @property
    def alive(self) -> int:
        """Tasks that had their first step and are not done."""
        return len(self._known)

    @property
    def forgotten(self) -> int:
        """Tasks that were forgotten while they were alive: of more than ``MAX_ALIVE`` the latest are known."""
        return self._known.forgotten

    def alive_by_coroutine(self) -> dict[int, int]:
        """How many tasks are alive, by the site of their coroutine."""
        return self._known.by_site()

    def oldest(self, limit: int = 5) -> list[OldTask]:
        """The oldest task of each coroutine that has tasks alive, oldest first."""
        if not self._is_open():
            return []
        counts = self.alive_by_coroutine()
        return [
            OldTask(self.label(site_of(task.ident)), task.name, task.since, counts[site_of(task.ident)])
            for task in itertools.islice(self._known.oldest(), limit)
        ]

    def most_time(self, limit: int = 10) -> list[tuple[str, CoroutineTotals]]:
        """Coroutines by time in steps, most first."""
        ranked = sorted(self.coroutines.items(), key=lambda item: -item[1].running)
        return [(self.label(site), totals) for site, totals in ranked[:limit]]

    def creators_of(self, totals: CoroutineTotals, limit: int = 3) -> list[tuple[str, int]]:
        """What made most of these tasks: (label of the handle run, number). Unknown makers are left out."""
        ranked = sorted(totals.creators.items(), key=lambda item: -item[1])
        return [(self.label(site), count) for site, count in ranked][:limit]

    def metrics(self) -> Iterator[Sample]:
        """No series of its own: coroutines appear in the series by callback."""
        return iter(())
