"""Tasks that waited for each other until something from outside ended it: `asyncio.run`, a time limit, a cancel.

While a circle lasts, the looks show it (task_tree.py). When its tasks have ended, nothing of that is left, and a report
could show only cancelled or destroyed tasks. So circles are sought when the looks are read. A circle counts as a
deadlock if, by the steps of its tasks, each of them stayed where the look found it until all had been looked at.

A lock changes hands: a task that waits for a lock waits for its present holder. So the task has to be looked at once
more after the holder began to wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from ...record.sites import site_of
from .circles import circles

_MAX_TASKS: Final = 1_000
_MAX_BROKEN: Final = 20


class Left(NamedTuple):
    """A task that has left a circle. chain: the number of the chain at which it stood. since, until: of its wait,
    monotonic s. awaits: the tasks of the circle that it waited for. destroyed: whether it was freed while it waited.
    """

    ident: float
    name: str
    chain: int
    since: float
    until: float
    awaits: tuple[float, ...]
    destroyed: bool


class _Circle:
    """seen: when looks had found the whole circle (monotonic s). found: for each task, when it was looked at, and at
    which chain. latest: for each task, when it was last seen to wait for the others.
    """

    __slots__ = ("awaits", "found", "latest", "left", "seen")

    def __init__(self, seen: float) -> None:
        self.seen = seen
        self.found: dict[float, tuple[float, int]] = {}
        self.latest: dict[float, float] = {}
        self.awaits: dict[float, tuple[float, ...]] = {}
        self.left: dict[float, Left] = {}


class BrokenCircles:
    """Of one process. ``waits.Waits`` feeds it what the looks found, ``TaskStatistics`` how the tasks went on."""

    def __init__(self, is_for_lock: Callable[[int], bool] = lambda chain: False) -> None:
        """is_for_lock: whether a task that stands at a chain waits for a lock."""
        self._is_for_lock = is_for_lock
        #: Circles that all their tasks have left: the latest ones, each in the order of idents.
        self.broken: list[list[Left]] = []
        #: The circles of tasks that are not known to have left them.
        self.waiting: dict[float, _Circle] = {}

    def __contains__(self, ident: float) -> bool:
        """Whether looks found the task in a circle that it is not known to have left."""
        return ident in self.waiting

    def look(
        self, awaited: Mapping[float, Iterable[float]], looks: Mapping[float, Sequence[float]], when: float
    ) -> None:
        """Seeks circles. awaited: the tasks that each task waits for. looks: by task; the last two numbers are the time
        of its latest look (monotonic s) and the chain. when: the latest look at any task, monotonic s.
        """
        for members in circles(awaited):
            known = self.waiting.get(members[0])
            if known is not None and known.found.keys() == set(members) and not known.left:
                known.latest.update((ident, looks[ident][-2]) for ident in members if ident in looks)
                continue  # which is true from its first look on, until its tasks' steps say otherwise
            if len(members) > _MAX_TASKS or not all(ident in looks for ident in members):
                continue
            while len(self.waiting) + len(members) > _MAX_TASKS:
                self._drop(next(iter(self.waiting.values())))
            circle = _Circle(when)
            inside = set(members)
            for ident in members:
                circle.found[ident] = looks[ident][-2], int(looks[ident][-1])
                circle.latest[ident] = looks[ident][-2]
                circle.awaits[ident] = tuple(other for other in awaited[ident] if other in inside)
                former = self.waiting.get(ident)
                if former is not None:
                    self._drop(former)
                self.waiting[ident] = circle

    def left(self, ident: float, name: str, since: float, until: float, *, destroyed: bool = False) -> None:
        """A task that is in a circle has waited from ``since`` to ``until`` (monotonic s)."""
        circle = self.waiting[ident]
        looked_at, chain = circle.found[ident]
        if not (since <= looked_at and (until > circle.seen or destroyed)):
            if since > circle.seen:  # the task had gone on before the others were seen to wait: there was no circle
                self._drop(circle)
            return
        until = max(until, circle.seen)
        circle.left[ident] = Left(ident, name, chain, since, until, circle.awaits[ident], destroyed)
        del self.waiting[ident]
        if len(circle.left) == len(circle.found) and self._is_certain(circle):
            self.broken.append([circle.left[each] for each in sorted(circle.left)])
            del self.broken[:-_MAX_BROKEN]

    def _is_certain(self, circle: _Circle) -> bool:
        """Whether none of its locks can have changed hands before the holder began to wait."""
        return all(
            circle.left[other].since <= circle.latest[each.ident]
            for each in circle.left.values()
            if self._is_for_lock(each.chain)
            for other in each.awaits
        )

    def destroyed(self, site: int) -> int:
        """How many tasks of the coroutine at ``site`` were destroyed while they waited for each other."""
        return sum(each.destroyed and site_of(each.ident) == site for circle in self.broken for each in circle)

    def lasted(self, least: float) -> list[list[Left]]:
        """The circles that lasted for ``least`` (s), longest first."""
        return sorted((circle for circle in self.broken if _lasted(circle) >= least), key=_lasted, reverse=True)

    def _drop(self, circle: _Circle) -> None:
        for ident in circle.found:
            if self.waiting.get(ident) is circle:
                del self.waiting[ident]


def _lasted(circle: list[Left]) -> float:
    return min(each.until for each in circle) - max(each.since for each in circle)
