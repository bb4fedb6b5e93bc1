"""The tasks of one loop that are alive, by ident, and the totals of their coroutines.

``AliveTasks`` is the plain form. The C form (``decoding/native/alive.h``) has the same methods and gives the same
numbers; no task is a Python object there, which matters where tasks are many or short. ``Known`` is either.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from ...record.layout import OUTCOME_CANCELLED, OUTCOME_EXCEPTION, OUTCOME_RESULT, SITE_LIMIT
from ...record.sites import site_of
from ..decoding.decoded import LATEST, OUTSIDE, Decoded
from ..decoding.runs import Runs
from ..decoding.task_rows import KnownTask, NewTask, TaskEnd
from .waits import Waits

# Bounds: tasks that live at the same time and are remembered; coroutines; creators of one coroutine's tasks.
MAX_ALIVE: Final = 200_000
MAX_COROUTINES: Final = 4096
MAX_CREATORS: Final = 64
# The longest chain of callbacks by which one thing makes a task ready.
MAX_HOPS_BACK: Final = 16
OTHER_SITE: Final = 0


class CoroutineTotals:
    """Tasks of one coroutine function; seconds.

    running: in steps. ready: from becoming ready to the step; what made it ready may have been late itself, which is in
    it too. suspended: from the end of a step to becoming ready.
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


class Known(Protocol):
    """The tasks of a loop that are alive: since their first step, in the order of these."""

    coroutines: dict[int, CoroutineTotals]

    @property
    def forgotten(self) -> int:
        """Tasks that were alive and are not known any more, or were met again, because there were too many."""

    def __len__(self) -> int: ...

    def feed(self, decoded: Decoded, waits: Waits) -> None:
        """Takes in the tasks that begin, step and end in a chunk. ``waits``: of the process."""

    def totals(self, site: int) -> CoroutineTotals:
        """The totals of the coroutine at a site."""

    def begin(self, ident: float, since: float) -> None:
        """Adds a task."""

    def remove(self, ident: float) -> KnownTask | None:
        """Removes a task that was destroyed, and returns it; None where it is not known."""

    def clear(self) -> None:
        """Another loop has the label: forgets all tasks, but not the totals."""

    def get(self, ident: float) -> KnownTask | None:
        """A task that is alive."""

    def idents(self) -> Iterable[float]:
        """The idents of all."""

    def by_site(self) -> dict[int, int]:
        """How many are alive, by the site of their coroutine."""

    def oldest(self) -> Iterable[KnownTask]:
        """The oldest task of each coroutine that has tasks alive, oldest first."""


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

    def known(self, ident: float) -> KnownTask:
        return KnownTask(ident, self.name, self.since, self.last_end, self.creator)


class AliveTasks:
    """See ``Known``."""

    def __init__(self) -> None:
        self.coroutines: dict[int, CoroutineTotals] = {}
        # By ident, in order of their first steps.
        self._alive: dict[float, _Alive] = {}
        # Tasks that were done in the chunk before: their last steps may end in this one.
        self._done: dict[float, _Alive] = {}
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._alive)

    def totals(self, site: int) -> CoroutineTotals:
        totals = self.coroutines.get(site)
        if totals is None:
            if len(self.coroutines) >= MAX_COROUTINES:
                return self.coroutines.setdefault(OTHER_SITE, CoroutineTotals())
            totals = self.coroutines[site] = CoroutineTotals()
        return totals

    def clear(self) -> None:
        self._alive = {}
        self._done = {}
        for totals in self.coroutines.values():
            totals.alive = totals.forgotten = 0

    # -- taking in

    def feed(self, decoded: Decoded, waits: Waits) -> None:
        self._take_tasks(decoded.tasks)
        self._take_steps(decoded.runs, waits)
        self._find_peaks(decoded.tasks, decoded.finished)
        self._take_ends(decoded.finished, waits)

    def _take_tasks(self, tasks: Iterable[NewTask]) -> None:
        for task in tasks:
            begun = self._begin(task.ident, task.name, task.start)
            totals = begun.totals
            if task.waited_from >= 0.0:
                totals.count += 1
                begun.since = begun.last_end = task.waited_from
            if task.creator_ident:
                creators = totals.creators
                creator = begun.creator = site_of(task.creator_ident)
                if creator in creators or len(creators) < MAX_CREATORS:
                    creators[creator] = creators.get(creator, 0) + 1

    def _begin(self, ident: float, name: str, since: float) -> _Alive:
        if len(self._alive) >= MAX_ALIVE:
            # Many at once, because finding the first key of a dict takes longer the more keys before it were deleted.
            for oldest in list(itertools.islice(self._alive, MAX_ALIVE // 16)):
                alive = self._alive.pop(oldest)
                alive.totals.alive -= 1
                alive.totals.forgotten += alive.last_end >= 0.0
                self.forgotten += 1
        known = self._alive.get(ident)
        alive = self._alive[ident] = _Alive(name, since, self.totals(site_of(ident)))
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

    def _take_steps(self, runs: Runs, waits: Waits) -> None:
        known = self._alive.get
        done = self._done.get
        looks = waits.looks
        for _, start, end, ident, _, delay, scheduler, _, _, _ in runs:
            if ident < SITE_LIMIT:
                continue
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
                    waits.step(ident, looks[ident][0], start, alive.name)
            elif start > before:
                woken = max(before, _woken(runs, scheduler, start))
                totals.ready += start - woken
                totals.suspended += woken - before
                if ident in looks:
                    waits.step(ident, before, start, alive.name, woken)
            alive.last_end = end

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

    def _take_ends(self, finished: Iterable[TaskEnd], waits: Waits) -> None:
        self._done = {}
        forget = waits.forget
        for ident, outcome, _, _ in finished:
            forget(ident)
            alive = self._alive.pop(ident, None)
            if alive is not None:
                alive.totals.alive -= 1
                self._done[ident] = alive
            totals = alive.totals if alive is not None else self.totals(site_of(ident))
            if outcome == OUTCOME_RESULT:
                totals.results += 1
            elif outcome == OUTCOME_EXCEPTION:
                totals.exceptions += 1
            elif outcome == OUTCOME_CANCELLED:
                totals.cancelled += 1

    def begin(self, ident: float, since: float) -> None:
        self._begin(ident, "", since)

    def remove(self, ident: float) -> KnownTask | None:
        alive = self._alive.pop(ident, None)
        if alive is None:
            return None
        alive.totals.alive -= 1
        return alive.known(ident)

    # -- as it stands

    def get(self, ident: float) -> KnownTask | None:
        alive = self._alive.get(ident)
        return alive.known(ident) if alive is not None else None

    def idents(self) -> Iterable[float]:
        return self._alive.keys()

    def by_site(self) -> dict[int, int]:
        counts: dict[int, int] = {}
        for ident in self._alive:
            site = site_of(ident)
            counts[site] = counts.get(site, 0) + 1
        return counts

    def oldest(self) -> Iterable[KnownTask]:
        seen: set[int] = set()
        for ident, alive in self._alive.items():
            site = site_of(ident)
            if site not in seen:
                seen.add(site)
                yield alive.known(ident)


def _woken(runs: Runs, scheduler: int, ready: float) -> float:
    """Since when what made a step ready at ``ready`` could have run (both monotonic s): the loop was late where a timer
    was due, or bytes had arrived, before that. As far as the chunk's own runs tell.
    """
    first = runs[0][0]
    for _ in range(MAX_HOPS_BACK):
        index = scheduler - first
        if not (scheduler > 0 and 0 <= index < len(runs)):
            break
        _, start, _, ident, kind, delay, scheduler, *_ = runs[index]
        if ident >= SITE_LIMIT or not 0.0 <= delay < LATEST:
            break
        ready = min(ready, start - delay)
        if kind in OUTSIDE:
            break
    return ready


class NativeTasks:
    """See ``Known``. The C form, for the columns that the reader's C half decodes; others are copied."""

    def __init__(self, module: Any) -> None:
        self.coroutines: dict[int, CoroutineTotals] = {}
        self._module = module
        self._tasks = tasks = module.AliveTasks(self.coroutines, MAX_ALIVE)
        self.totals = tasks.totals
        self.begin = tasks.begin
        self.remove = tasks.remove
        self.clear = tasks.clear
        self.get = tasks.get
        self.idents = tasks.idents
        self.by_site = tasks.by_site
        self.oldest = tasks.oldest

    @property
    def forgotten(self) -> int:
        forgotten: int = self._tasks.forgotten
        return forgotten

    def __len__(self) -> int:
        return len(self._tasks)

    def feed(self, decoded: Decoded, waits: Waits) -> None:
        columns: list[Any] = [decoded.runs, decoded.tasks, decoded.finished]
        if any(isinstance(column, list) for column in columns):
            columns = self._copied(columns)
        self._tasks.feed(*columns, waits.looks, waits.stood, waits.awaited, waits.circles.waiting, waits.step)

    def _copied(self, columns: Sequence[Any]) -> list[Any]:
        runs, _, tasks, ends, *_ = self._module.new_columns()
        out = []
        for column, empty in zip(columns, (runs, tasks, ends), strict=True):
            if isinstance(column, list):
                for row in column:
                    empty.append(row)
            out.append(empty if isinstance(column, list) else column)
        return out
