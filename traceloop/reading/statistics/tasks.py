"""The tasks of one loop by coroutine: how many, how long they run, wait and are suspended, what makes them, the oldest.

``LoopStatistics`` counts all tasks, from the loop's words. An eager task that ends inside ``create_task`` has no step,
and so appears only there. This module counts the tasks that ran through the loop.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Set
from typing import Any, Final, NamedTuple

from ...record.layout import OUTCOME_CANCELLED, OUTCOME_EXCEPTION, OUTCOME_RESULT, SITE_LIMIT
from ...record.sites import site_of
from ..decoding.decoded import LATEST, Decoded, NewTask
from ..decoding.runs import Run
from .context import SitesOf
from .counting import native_of
from .parts import Sample
from .waits import Waits

# Bounds: tasks that live at the same time and are remembered; coroutines; creators of one coroutine's tasks.
_MAX_ALIVE: Final = 200_000
_MAX_COROUTINES: Final = 4096
_MAX_CREATORS: Final = 64
_OTHER_SITE: Final = 0

#: A task's steps in a chunk: its ident; how many; seconds in them, in the longest, from ready to step, suspended
#: between them; when the first was ready, the last ended; steps before which there was none, and the last of these.
StepGroup = tuple[float, int, float, float, float, float, float, float, int, float]

#: A task's end: its ident, its outcome, when its last step began, the number of that run.
TaskEnd = tuple[float, int, float, int]
#: The tasks of one coroutine that began and ended within a chunk: its site; how many ended how (by outcome); steps;
#: seconds in them, in the longest, from ready to step, suspended between them; how many were made by the runs of which
#: sites; when each was first ready, and when it ended, as bytes of doubles.
WholeTasks = tuple[int, tuple[int, int, int, int], int, float, float, float, float, list[tuple[int, int]], bytes, bytes]


class CoroutineTotals:
    """Tasks of one coroutine function; seconds.

    running: in steps. ready: from becoming ready to the step. suspended: from the end of a step to becoming ready.
    creators: tasks by the site of the handle run that made them; tasks that no run made, or whose maker is not known,
    are not in it. alive: tasks that are not done. most_alive: the most that were alive at once; `asyncio.run` cancels
    all tasks at its end, so this number shows a leak. abandoned: tasks destroyed before they were done. left: those of
    them that were destroyed while their loop did not run. forgotten: tasks that were not remembered because there were
    too many, and may be met again.
    """

    __slots__ = (
        "abandoned",
        "alive",
        "cancelled",
        "count",
        "creators",
        "exceptions",
        "forgotten",
        "left",
        "longest_step",
        "most_alive",
        "ready",
        "results",
        "running",
        "steps",
        "suspended",
    )

    def __init__(self) -> None:
        self.count = 0
        self.alive = self.most_alive = self.forgotten = 0
        self.steps = 0
        self.running = self.ready = self.suspended = self.longest_step = 0.0
        self.results = self.exceptions = self.cancelled = self.abandoned = self.left = 0
        self.creators: dict[int, int] = {}


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


class _Alive:
    """A task that is not done, since its first step. ``last_end``: of its steps; below 0 before the first one's end.

    creator: site of the handle run that made it, 0 where none did or it is not known.
    """

    __slots__ = ("creator", "last_end", "name", "since", "totals")

    def __init__(self, name: str, since: float, totals: CoroutineTotals) -> None:
        self.name = name
        self.since = since
        self.totals = totals
        self.last_end = -1.0
        self.creator = 0


class TaskStatistics:
    """A part of a loop's statistics (``parts.Part``), for reports and ``top``. It has no series of its own."""

    def __init__(self, sites_of: SitesOf, waits: Waits, is_open: Callable[[], bool]) -> None:
        """``waits``: of the process. ``is_open``: whether a loop has the label now. A closed loop's tasks are gone."""
        self._waits = waits
        self._sites_of = sites_of
        self._is_open = is_open
        self._sites = sites_of()
        self.coroutines: dict[int, CoroutineTotals] = {}
        # By ident, in order of their first steps.
        self._alive: dict[float, _Alive] = {}
        # Tasks that were done in the chunk before: their last steps may end in this one.
        self._done: dict[float, _Alive] = {}
        # The same of tasks that began in that chunk too: the end of the last step.
        self._done_whole: dict[float, float] = {}
        self._loop_number = 0

    def _totals(self, site: int) -> CoroutineTotals:
        totals = self.coroutines.get(site)
        if totals is None:
            if len(self.coroutines) >= _MAX_COROUTINES:
                return self.coroutines.setdefault(_OTHER_SITE, CoroutineTotals())
            totals = self.coroutines[site] = CoroutineTotals()
        return totals

    def feed(self, decoded: Decoded) -> None:
        """Takes in one chunk of the loop's record."""
        if self._sites is not self._sites_of():  # another process has the slot: its sites have other numbers
            self._sites = self._sites_of()
            self.coroutines = {}
            self._alive = {}
            self._done = {}
            self._done_whole = {}
        if decoded.loop is not None and decoded.loop.number != self._loop_number:
            self._loop_number = decoded.loop.number
            self._alive = {}
            self._done = {}
            self._done_whole = {}
            for totals in self.coroutines.values():
                totals.alive = totals.forgotten = 0
        module = native_of(decoded.runs)
        if module is None:
            self._take_tasks(decoded.tasks)
            self._feed_rows([run for run in decoded.runs if run[3] >= SITE_LIMIT])
            self._find_peaks(decoded.tasks, decoded.finished)
            self._take_ends(decoded.finished)
        else:
            self._feed_native(module, decoded)
        circles = self._waits.circles
        for ident in decoded.left:
            if ident >= SITE_LIMIT:
                self._totals(site_of(ident)).left += 1
        for ident, when in decoded.abandoned:
            if ident >= SITE_LIMIT:
                totals = self._totals(site_of(ident))
                totals.abandoned += 1
                alive = self._alive.pop(ident, None)
                if alive is not None:
                    totals.alive -= 1
                    self._waits.seek_before(ident, when)
                    if ident in circles:
                        circles.left(ident, alive.name, alive.last_end, when, destroyed=True)
                self._waits.forget(ident)

    def _take_tasks(self, tasks: Iterable[NewTask]) -> None:
        for task in tasks:
            begun = self._begin(task.ident, task.name, task.start)
            totals = begun.totals
            if task.creator_ident:
                creators = totals.creators
                creator = begun.creator = site_of(task.creator_ident)
                if creator in creators or len(creators) < _MAX_CREATORS:
                    creators[creator] = creators.get(creator, 0) + 1

    def _take_ends(self, finished: Iterable[TaskEnd]) -> None:
        self._done = {}
        forget = self._waits.forget
        for ident, outcome, _, _ in finished:
            forget(ident)
            alive = self._alive.pop(ident, None)
            if alive is not None:
                alive.totals.alive -= 1
                self._done[ident] = alive
            totals = alive.totals if alive is not None else self._totals(site_of(ident))
            if outcome == OUTCOME_RESULT:
                totals.results += 1
            elif outcome == OUTCOME_EXCEPTION:
                totals.exceptions += 1
            elif outcome == OUTCOME_CANCELLED:
                totals.cancelled += 1

    def _feed_native(self, module: Any, decoded: Decoded) -> None:
        """Takes in a chunk with sums from the reader's C half, which adds up whole tasks by coroutine."""
        waits = self._waits
        known = (self._alive, self._done, self._done_whole, waits.looks, waits.awaited)
        # Not where some of these are to be forgotten before they step.
        adds = len(self._alive) + len(decoded.tasks) < _MAX_ALIVE
        groups, tasks, finished, sums, done_whole, known_steps = module.whole_tasks(
            decoded.runs, decoded.tasks, decoded.finished, known, adds
        )
        for totals, steps, running, longest, ready, suspended in known_steps:
            totals.steps += steps
            totals.running += running
            totals.longest_step = max(totals.longest_step, longest)
            totals.ready += ready
            totals.suspended += suspended
        self._take_tasks(tasks)
        self._feed_groups(groups, decoded.runs)
        whole: dict[CoroutineTotals, list[WholeTasks]] = {}
        for each in sums:
            totals = self._totals(each[0])
            whole.setdefault(totals, []).append(each)
            self._take_whole(totals, each)
        self._find_native_peaks(module, tasks, finished, whole)
        self._take_ends(finished)
        self._done_whole = done_whole

    def _take_whole(self, totals: CoroutineTotals, tasks: WholeTasks) -> None:
        _, outcomes, steps, running, longest, ready, suspended, made_by, _, _ = tasks
        totals.count += sum(outcomes)
        totals.results += outcomes[OUTCOME_RESULT]
        totals.exceptions += outcomes[OUTCOME_EXCEPTION]
        totals.cancelled += outcomes[OUTCOME_CANCELLED]
        totals.steps += steps
        totals.running += running
        totals.longest_step = max(totals.longest_step, longest)
        totals.ready += ready
        totals.suspended += suspended
        creators = totals.creators
        for creator, count in made_by:
            if creator in creators or len(creators) < _MAX_CREATORS:
                creators[creator] = creators.get(creator, 0) + count

    def _find_native_peaks(
        self,
        module: Any,
        tasks: Iterable[NewTask],
        finished: Iterable[TaskEnd],
        whole: dict[CoroutineTotals, list[WholeTasks]],
    ) -> None:
        """Like ``_find_peaks``, but also counts the tasks that the C half has summed up and that are in no list."""
        higher: dict[CoroutineTotals, tuple[array[float], array[float]]] = {
            totals: (array("d"), array("d"))
            for totals in self.coroutines.values()
            if totals.alive + sum(sum(each[1]) for each in whole.get(totals, ())) > totals.most_alive
        }
        if not higher:
            return
        for ident, _, end, _ in finished:
            alive = self._alive.get(ident)
            if alive is not None and alive.totals in higher:
                higher[alive.totals][1].append(end)
        for alive in map(self._alive.get, (task.ident for task in tasks)):
            if alive is not None and alive.totals in higher:
                higher[alive.totals][0].append(alive.since)
        for totals, (begins, ends) in higher.items():
            before = totals.alive - len(begins)
            for each in whole.get(totals, ()):
                begins.frombytes(each[8])
                ends.frombytes(each[9])
            totals.most_alive = max(totals.most_alive, module.most_at_once(before, begins, ends))

    def idents(self) -> Set[float]:
        """The idents of the tasks that are not done."""
        return self._alive.keys()

    def adopt(self, ident: float, since: float) -> None:
        """Adds a task of this loop that looks have found and whose beginning is not in the record."""
        self._begin(ident, "", since)

    def _begin(self, ident: float, name: str, since: float) -> _Alive:
        if len(self._alive) >= _MAX_ALIVE:
            # Many at once, because finding the first key of a dict takes longer the more keys before it were deleted.
            for oldest in list(itertools.islice(self._alive, _MAX_ALIVE // 16)):
                alive = self._alive.pop(oldest)
                alive.totals.alive -= 1
                alive.totals.forgotten += alive.last_end >= 0.0
        known = self._alive.get(ident)
        alive = self._alive[ident] = _Alive(name, since, self._totals(site_of(ident)))
        if known is None:
            alive.totals.alive += 1
        return alive

    def _meet(self, ident: float, start: float) -> _Alive:
        """Adds a task that steps and is not known: its beginning was not read, or it was forgotten among too many."""
        alive = self._begin(ident, "", start)
        if alive.totals.forgotten:
            alive.totals.forgotten -= 1
            alive.totals.count -= 1  # the step counts it once more
        return alive

    def _find_peaks(self, tasks: Iterable[NewTask], finished: Iterable[TaskEnd]) -> None:
        """Finds how many tasks of each coroutine were alive at once in this chunk.

        Called before the tasks that ended in the chunk are subtracted.
        """
        higher = {totals for totals in self.coroutines.values() if totals.alive > totals.most_alive}
        if not higher:
            return
        # Goes backwards through the ends and the beginnings, from the number with all new tasks to that before them.
        moments: dict[CoroutineTotals, list[tuple[float, int]]] = {totals: [] for totals in higher}
        for ident, _, end, _ in finished:
            alive = self._alive.get(ident)
            if alive is not None and alive.totals in higher:
                moments[alive.totals].append((end, -1))
        for totals, ends in moments.items():
            if not ends:
                totals.most_alive = totals.alive
        begun = [alive for alive in map(self._alive.get, (task.ident for task in tasks)) if alive is not None]
        for alive in begun:
            if moments.get(alive.totals):
                moments[alive.totals].append((alive.since, 1))
        for totals, events in moments.items():
            if events:
                events.sort()
                now = totals.alive - sum(change for _, change in events if change > 0)
                for _, change in events:
                    now += change
                    totals.most_alive = max(totals.most_alive, now)

    def _feed_groups(self, groups: Iterable[StepGroup], runs: Any) -> None:
        """Takes in the steps of each task as one sum, which ``_feed_rows`` would make step by step."""
        known = self._alive.get
        done = self._done.get
        looks = self._waits.looks
        for ident, steps, running, longest, ready, suspended, start, last_end, begun, since in groups:
            alive = known(ident) or done(ident) or self._ended_whole(ident) or self._meet(ident, start)
            before = alive.last_end
            if ident in looks and looks[ident][0] < last_end:
                self._find_waits(alive, ident, before, runs.of_ident(ident))
            totals = alive.totals
            totals.steps += steps
            totals.running += running
            totals.ready += ready
            totals.count += begun
            if longest > totals.longest_step:
                totals.longest_step = longest
            if before < 0.0:
                totals.count += 1
                alive.since = start
            elif start > before:
                suspended += start - before
            if begun:
                alive.since = since
            totals.suspended += suspended
            alive.last_end = last_end

    def _ended_whole(self, ident: float) -> _Alive | None:
        """A task that had ended in the chunk before, and has one more step: this happens in a damaged record."""
        last_end = self._done_whole.get(ident)
        if last_end is None:
            return None
        alive = _Alive("", 0.0, self._totals(site_of(ident)))
        alive.last_end = last_end
        return alive

    def _find_waits(self, alive: _Alive, ident: float, before: float, steps: Iterable[Run]) -> None:
        """A look has found the task suspended before one of these steps of it."""
        looks = self._waits.looks
        looked_at = looks[ident][0]
        before = before if before >= 0.0 else looked_at  # the time before the look is not known, or was forgotten
        for _, start, end, _, _, delay, _, _, _, _ in steps:
            if 0.0 < delay < LATEST:
                start -= delay
            if looked_at < start and start > before:
                self._waits.step(ident, before, start, alive.name)
                if ident not in looks:
                    return
                looked_at = looks[ident][0]
            before = end

    def _feed_rows(self, steps: Iterable[Run]) -> None:
        known = self._alive.get
        done = self._done.get
        looks = self._waits.looks
        for _, start, end, ident, _, delay, _, _, _, _ in steps:
            alive = known(ident) or done(ident) or self._meet(ident, start)
            totals = alive.totals
            took = end - start
            totals.steps += 1
            totals.running += took
            if took > totals.longest_step:
                totals.longest_step = took
            if 0.0 < delay < LATEST:
                totals.ready += delay
                start -= delay
            before = alive.last_end
            if before < 0.0:
                totals.count += 1
                alive.since = start
                if ident in looks and looks[ident][0] < start:  # the time before the look is not known, or forgotten
                    self._waits.step(ident, looks[ident][0], start, alive.name)
            elif start > before:
                totals.suspended += start - before
                if ident in looks:
                    self._waits.step(ident, before, start, alive.name)
            alive.last_end = end

    def states(self, only: Collection[float] | None = None) -> Iterator[TaskState]:
        """The state of each task that is not done (and in ``only``), by the record and the looks."""
        looks = self._waits.looks
        for ident in self._alive if only is None else only:
            alive = self._alive.get(ident)
            if alive is None:
                continue
            seen = looks.get(ident)
            chain = int(seen[-1]) if seen is not None and seen[-2] >= alive.last_end else 0
            stood = self._waits.stood.get(ident, 0) if seen is None else int(seen[-1])
            last_step = max(alive.last_end, alive.since)
            yield TaskState(ident, alive.name, alive.since, last_step, chain, stood, alive.creator)

    def standing(self) -> Iterator[tuple[int, int, float]]:
        """The tasks that a look found suspended and that have not run since: site, chain, since when."""
        looks = self._waits.looks
        for ident, alive in self._alive.items():
            seen = looks.get(ident)
            if seen is not None and seen[-2] >= alive.last_end:
                since = alive.last_end if alive.last_end > 0.0 else seen[0]
                yield site_of(ident), int(seen[-1]), since

    # -- as it stands

    def label(self, site: int) -> str:
        """The name of a coroutine function."""
        return self._sites.label(site)

    @property
    def alive(self) -> int:
        """Tasks that had their first step and are not done."""
        return len(self._alive)

    def alive_by_coroutine(self) -> dict[int, int]:
        """How many tasks are alive, by the site of their coroutine."""
        counts: dict[int, int] = {}
        for ident in self._alive:
            site = site_of(ident)
            counts[site] = counts.get(site, 0) + 1
        return counts

    def oldest(self, limit: int = 5) -> list[OldTask]:
        """The oldest task of each coroutine that has tasks alive, oldest first."""
        if not self._is_open():
            return []
        counts = self.alive_by_coroutine()
        seen: set[int] = set()
        out: list[OldTask] = []
        for ident, alive in self._alive.items():
            site = site_of(ident)
            if site not in seen:
                seen.add(site)
                out.append(OldTask(self.label(site), alive.name, alive.since, counts[site]))
                if len(out) >= limit:
                    break
        return out

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
