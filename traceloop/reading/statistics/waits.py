"""Where tasks wait: by coroutine and by the line of the application at which they stand suspended.

The process looks at its suspended tasks about once a second (recording/waiting), and the loop's record tells when each
task ran. Together they give the waits:

* A task that a look found between two of its steps stood at that place for all the time between them. A wait of
  ``LOOK_SECONDS`` or more is seen, where looks take in all tasks, and counts with its own length: **exactly**.
* A shorter wait is seen by chance. The probability is its length divided by the time between two looks. A wait that was
  seen counts as that time, so that the sum is right on average. This is an **estimate**, and is kept apart.
* The wait is over when its timer is due, or its bytes have arrived. Where the loop is late, the task is ready from then
  on, which is no wait.
* A look stands for the time up to the next one, or up to the end of its loop: in a program that ran for 20 ms no wait
  lasts a second.

Where a second's looks cannot take in all tasks, the time between two looks at one task is longer than ``LOOK_SECONDS``.
The record tells how long it is (``period``); shorter waits are estimated.
"""

from __future__ import annotations

import itertools
import json
import math
from array import array
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from ...record.frames import Frame, is_application, is_library, is_ours
from ...record.sites import Site, site_of
from ..decoding.decoded import Standing
from . import wait_kinds
from .broken_circles import BrokenCircles

LOOK_SECONDS: Final = 1.0
_MAX_CHAINS: Final = 16_384
_MAX_FRAMES: Final = 64
_MAX_PLACES: Final = 1_000
_MAX_TASKS: Final = 200_000
_MAX_LOOKS: Final = 64
_MAX_LATEST: Final = 256
_MAX_AWAITED: Final = 1000
_MAX_HOLDERS: Final = 20
# The longest period that makes sense, s: in a week some two hundred million tasks are looked at.
_MAX_PERIOD: Final = 604_800.0
# Names for the future at the end of a chain.
_FUTURES: Final = {
    "_asyncio.Future": "a future",
    "asyncio.futures.Future": "a future",
    "_asyncio.Task": "a task",
    "asyncio.tasks.Task": "a task",
    "asyncio.tasks._GatheringFuture": "asyncio.gather",
}
# Functions of asyncio that await their argument. Where that is asyncio's too, its name says more than theirs.
_PASSING_ON: Final = frozenset(("wait_for", "timeout"))
# Modules whose functions run their argument in a thread.
_HAND_OVER: Final = ("asyncio", "anyio.to_thread", "starlette.concurrency")
# Classes of asyncio by the function that makes them.
_ALIASES: Final = {"_AsCompletedIterator._wait_for_one": "as_completed"}
_MAX_TEXT: Final = 300


class AwaitPlace(NamedTuple):
    """Where a task stands.

    file, line, function: the application's innermost line in the chain of coroutines; a library's where the chain has
    none of the application's. inside: what that line waits in: ``module.qualname`` of the coroutine that it awaits, or
    the type of the future.
    """

    file: str
    line: int
    function: str
    inside: str
    kind: str = wait_kinds.OTHER

    @property
    def label(self) -> str:
        """``app.views.show:12 asyncio.Lock.acquire``, for a label."""
        where = f"{self.function}:{self.line}" if self.line else self.function
        return f"{where} {self.inside}" if self.inside else where


OTHER: Final = AwaitPlace("", 0, "other", "")
UNKNOWN: Final = AwaitPlace("", 0, "unknown", "")


class _Seen(NamedTuple):
    """Short waits that one look at a loop saw. began: when the loop began; seen_at: when the look was (monotonic s)."""

    began: float
    seen_at: float
    period: float

    def stands_for(self, until: float) -> float:
        """Seconds for which the look stands: up to the next one, or to ``until``, when the loop ended. The first look
        stands for the time before it, too.
        """
        first = self.seen_at - self.began if self.seen_at - self.began < self.period else 0.0
        return first + max(0.0, min(self.period, until - self.seen_at))


class WaitTotals:
    """The waits of one coroutine's tasks at one place, in seconds.

    exact_s: of waits that are over and lasted for at least the time between two looks. count: how many waits were seen.
    longest_s: the longest of them. rounds: how many rounds of looks saw shorter waits. One round is no estimate: many
    tasks that wait at one moment are all seen by one look, or all missed.
    """

    __slots__ = ("_latest", "_seen_at", "_settled_s", "count", "exact_s", "longest_s", "rounds")

    def __init__(self) -> None:
        self.count = self.rounds = 0
        self.exact_s = self.longest_s = self._settled_s = 0.0
        # Looks of the last period, whose loop may end before they stand for a whole one: the number of the waits, and
        # how long these were together.
        self._latest: dict[_Seen, tuple[int, float]] = {}
        self._seen_at = -math.inf

    def add(self, seconds: float, period: float, seen_at: float, began: float = -math.inf) -> None:
        """Adds a wait that is over, and that a look saw at ``seen_at``; its loop began at ``began`` (monotonic s)."""
        self.count += 1
        self.longest_s = max(self.longest_s, seconds)
        if seconds >= period:
            self.exact_s += seconds
            return
        seen = _Seen(began, seen_at, period)
        if seen not in self._latest:
            settled = [each for each in self._latest if each.seen_at + each.period <= seen_at]
            for each in settled or [*self._latest][: max(0, len(self._latest) - _MAX_LATEST)]:
                self._settle(each, math.inf)
        count, together = self._latest.get(seen, (0, 0.0))
        self._latest[seen] = count + 1, together + seconds
        if seen_at >= self._seen_at + period / 2:
            self.rounds += 1
            self._seen_at = seen_at

    def end_loop(self, began: float, when: float) -> None:
        """The loop that began at ``began`` has ended (monotonic s; 0 where that is not known)."""
        for each in [each for each in self._latest if each.began == began]:
            self._settle(each, when or math.inf)

    def _settle(self, seen: _Seen, until: float) -> None:
        self._settled_s += self._estimate(seen, until)
        del self._latest[seen]

    def _estimate(self, seen: _Seen, until: float) -> float:
        count, together = self._latest[seen]
        return max(together, count * seen.stands_for(until))

    def estimated_s(self, now: float = math.inf) -> float:
        """Seconds of shorter waits. ``now``: of the loops that still run (monotonic s)."""
        return self._settled_s + sum(self._estimate(each, now) for each in self._latest)


class Call(NamedTuple):
    """A call in an executor that a task waits for: the executor's label, and the function."""

    executor: str
    function: Frame

    @property
    def text(self) -> str:
        """``app.prices.load in executor default``."""
        _, line, module, qualname = self.function
        return f"{Site(module, qualname, '', line).label} in executor {self.executor}"


def place_of(frames: list[Frame], awaited: str, call: Call | None = None) -> AwaitPlace:
    """The place of a chain. ``frames``: outermost first. ``awaited``: the type of the future at its end, or what made
    it. ``call``: the call in an executor whose future that is.
    """
    if not frames:
        return UNKNOWN
    frames = [frame for frame in map(_as_asyncio, frames) if not is_ours(frame[0])] or frames
    chosen = _innermost(frames, lambda frame: is_application(frame[0], frame[2]))
    if chosen < 0:
        chosen = _caller_of_public(frames, _innermost(frames, lambda frame: is_library(frame[0])))
    if chosen < 0:
        chosen = 0
    file, line, module, qualname = frames[chosen]
    function = f"{module}.{qualname}" if module else qualname
    below = frames[chosen + 1 :]
    if call is not None and _is_on_chain(call, below):
        # Whatever the task waits in (a limiter of threads, for example) belongs to the executor.
        return AwaitPlace(file, line, function, call.text)
    return AwaitPlace(file, line, function, _inside(below, awaited), wait_kinds.kind_of(below, awaited))


def _as_asyncio(frame: Frame) -> Frame:
    """Names a frame of our loop as asyncio's documentation does: ``loop.sock_recv``."""
    file, line, module, qualname = frame
    if not is_ours(file) or not module.startswith("traceloop.loop."):
        return frame
    owner, _, method = qualname.rpartition(".")
    owner = owner if owner == "Server" else "loop"
    return "", line, "asyncio", f"{owner}.{method}"


def _is_on_chain(call: Call, below: list[Frame]) -> bool:
    """Whether the called function names the place better than what the line awaits.

    It does not where a library makes calls of its own in threads (a file's ``read``): the library's function is better.
    """
    if is_application(call.function[0], call.function[2]):
        return True
    return all(module.startswith(_HAND_OVER) for _, _, module, _ in below[:1])


def _caller_of_public(frames: list[Frame], innermost: int) -> int:
    """The index of the library's frame that awaits its innermost public function; ``innermost`` where that is public.

    What is below a public function is of no use to readers: ``_asyncio.py:2779`` says nothing, and
    ``anyio.to_thread.run_sync`` does.
    """
    chosen = innermost
    while chosen > 0 and _is_private(frames[chosen]) and is_library(frames[chosen - 1][0]):
        chosen -= 1
    hidden = chosen < innermost and is_library(frames[chosen - 1][0]) and chosen > 0
    return chosen - 1 if hidden else chosen


def _is_private(frame: Frame) -> bool:
    names = f"{frame[2]}.{frame[3]}".split(".")
    return any(name.startswith("_") and not name.endswith("__") for name in names)


def _inside(below: list[Frame], awaited: str) -> str:
    """What a line waits in: the function of a library that it awaits, or the outermost public one of asyncio."""
    if not below:
        return _FUTURES.get(awaited, awaited)
    _, _, module, qualname = below[0]
    if module.partition(".")[0] != "asyncio":
        return f"{module}.{qualname}"
    for _, _, name, inner in below:
        inner = _ALIASES.get(inner, inner).partition(".<locals>")[0]
        if name.partition(".")[0] == "asyncio" and not any(part.startswith("_") for part in inner.split(".")):
            if inner not in _PASSING_ON:
                return f"asyncio.{inner}"
            qualname = inner
    return f"asyncio.{qualname}"


def _innermost(frames: list[Frame], wanted: Any) -> int:
    return next((index for index in range(len(frames) - 1, -1, -1) if wanted(frames[index])), -1)


def _frame(values: Any) -> Frame:
    file, line, module, qualname = values
    return str(file)[:_MAX_TEXT], int(line), str(module)[:_MAX_TEXT], str(qualname)[:_MAX_TEXT]


class AwaitChains:
    """The chains of one process by number, as its record defines them. Damaged definitions are ignored."""

    def __init__(self) -> None:
        self._places: dict[int, AwaitPlace] = {}
        self._frames: dict[int, list[Frame]] = {}

    def define(self, number: int, text: str) -> None:
        """Takes in one R_CHAIN record."""
        if len(self._places) >= _MAX_CHAINS:
            return
        try:
            listed, awaited, *more = json.loads(text)
            frames = [_frame(each) for each in listed[:_MAX_FRAMES]]
            call = Call(str(more[0][0])[:_MAX_TEXT], _frame(more[0][1:])) if more else None
            self._places[number] = place_of(frames, str(awaited)[:_MAX_TEXT], call)
            self._frames[number] = frames
        except (ValueError, TypeError, LookupError, RecursionError, OverflowError):
            return

    def place(self, number: int) -> AwaitPlace:
        """The place of this chain; ``UNKNOWN`` where it was not (yet) read."""
        return self._places.get(number, UNKNOWN)

    def frames(self, number: int) -> list[Frame]:
        """Its frames, outermost first; at most ``_MAX_FRAMES``."""
        return self._frames.get(number, [])


class Waits:
    """The waits of a process slot's tasks. Its keys are (site of the coroutine, place)."""

    def __init__(self) -> None:
        self.chains = AwaitChains()
        self.totals: dict[tuple[int, AwaitPlace], WaitTotals] = {}
        #: By the ident of a task: when looks found it suspended (monotonic s) and at which chain, one after the other.
        self.looks: dict[float, array[float]] = {}
        #: By the ident of a task that has gone on since looks found it suspended: the chain at which the last look did.
        self.stood: dict[float, int] = {}
        #: By the ident of a task: the tasks that it waited for when it was last looked at.
        self.awaited: dict[float, dict[float, None]] = {}
        #: By the place of a wait for a lock: how often each holder was seen, by (site of its coroutine, place).
        self.holders: dict[AwaitPlace, dict[tuple[int, AwaitPlace], int]] = {}
        #: Tasks that waited for each other; when (monotonic s) they were last sought; and the latest look since then.
        self.circles = BrokenCircles(self._is_for_lock)
        self._sought_at = self._unsought = -math.inf
        #: No look in ``looks`` is later than this (monotonic s).
        self.latest_look = -math.inf
        #: Time between two looks at one task, s.
        self.period = LOOK_SECONDS
        #: When the loop whose steps are taken in began (monotonic s); below 0 where that is not known.
        self.loop_began = -math.inf

    def new_process(self) -> None:
        """Another process has the slot: its chains and its sites have other numbers."""
        self.chains = AwaitChains()
        self.totals = {}
        self.looks = {}
        self.stood = {}
        self.awaited = {}
        self.holders = {}
        self.circles = BrokenCircles(self._is_for_lock)
        self._sought_at = self._unsought = -math.inf
        self.latest_look = self.loop_began = -math.inf
        self.period = LOOK_SECONDS

    def look(
        self, standing: Iterable[Standing], period: float, awaited: Iterable[tuple[float, float, float]] = ()
    ) -> None:
        """Takes in looks at tasks, each of which is looked at once in ``period`` seconds. Called before the steps that
        follow the looks are taken in.

        ``awaited``: which tasks wait for which, as (when, ident, ident of the other), in the order of ``standing``.
        """
        if LOOK_SECONDS <= period < _MAX_PERIOD:
            self.period = period
        others = itertools.groupby(awaited, lambda each: each[0])
        now, edges = next(others, (math.inf, iter(())))
        for when, found in itertools.groupby(standing, lambda each: each.when):
            self.latest_look = max(self.latest_look, when)
            self._stand(found)
            while now <= when:
                self._await(edges)
                now, edges = next(others, (math.inf, iter(())))
            if self.awaited and self._may_seek(when):
                self._seek(when)
        while now < math.inf:  # a chunk may end between a task and those that it waits for
            self._await(edge for edge in edges if edge[1] in self.looks)
            now, edges = next(others, (math.inf, iter(())))

    def _may_seek(self, when: float) -> bool:
        """Whether it is time to seek circles again: once or twice for each round of looks."""
        return when - self._sought_at >= self.period / 2

    def _seek(self, when: float) -> None:
        self._sought_at, self._unsought = when, -math.inf
        self.circles.look(self.awaited, self.looks, when)

    def seek_before(self, ident: float, when: float) -> None:
        """Seeks circles before a task goes on, or ends, at ``when`` (monotonic s).

        This is needed where a loop sleeps: no look came after the one that completed a circle.
        """
        if self._sought_at < self._unsought < when and ident in self.awaited and self._may_seek(when):
            self._seek(self._unsought)

    def _await(self, edges: Iterable[tuple[float, float, float]]) -> None:
        for when, ident, other in edges:
            self._unsought = when
            known = self.awaited.setdefault(ident, {})
            if len(known) < _MAX_AWAITED:
                known[other] = None
            place = self._place_of(ident)
            if place.kind == wait_kinds.LOCK:
                self._hold(place, other)

    def _place_of(self, ident: float) -> AwaitPlace:
        """The place where the last look found a task."""
        seen = self.looks.get(ident)
        return self.chains.place(int(seen[-1])) if seen else UNKNOWN

    def _is_for_lock(self, chain: int) -> bool:
        return self.chains.place(chain).kind == wait_kinds.LOCK

    def _hold(self, place: AwaitPlace, ident: float) -> None:
        holders = self.holders.get(place)
        if holders is None:
            if len(self.holders) >= _MAX_PLACES:
                return
            holders = self.holders[place] = {}
        key = (site_of(ident), self._place_of(ident))
        if key in holders or len(holders) < _MAX_HOLDERS:
            holders[key] = holders.pop(key, 0) + 1  # the latest holder comes last

    def _stand(self, standing: Iterable[Standing]) -> None:
        looks = self.looks
        for when, ident, chain in standing:
            seen = looks.get(ident)
            if seen is None:
                if len(looks) >= _MAX_TASKS:
                    for oldest in list(itertools.islice(looks, _MAX_TASKS // 16)):
                        self.forget(oldest)
                seen = looks[ident] = array("d")
            elif len(seen) >= 2 * _MAX_LOOKS:
                # The task stands for long. Looks in the middle of a wait tell nothing that those around them do not.
                seen = looks[ident] = array("d", [*seen[:2], *seen[-_MAX_LOOKS:]])
            seen.append(when)
            seen.append(chain)
            self.awaited.pop(ident, None)

    def forget(self, ident: float) -> None:
        """A task has ended."""
        self.looks.pop(ident, None)
        self.stood.pop(ident, None)
        self.awaited.pop(ident, None)

    def step(self, ident: float, before: float, start: float, name: str = "", woken: float = math.inf) -> None:
        """A task in ``looks`` (its name: ``name``) steps at ``start``; its previous step ended at ``before``. What it
        waited for had come by ``woken``, where that was before ``start``: then the loop was late (monotonic s).
        """
        self.seek_before(ident, start)
        if ident in self.circles:
            self.circles.left(ident, name, before, start)
        seen = self.looks[ident]
        chain = used = 0
        seen_at = 0.0
        while used < len(seen) and seen[used] < start:
            if before <= seen[used] < woken:
                seen_at, chain = seen[used], int(seen[used + 1])
            used += 2
        if used == len(seen):
            if len(self.stood) < _MAX_TASKS or ident in self.stood:
                self.stood[ident] = int(seen[-1])
            del self.looks[ident]
        elif used:
            del seen[:used]
        if chain:
            self.ended(site_of(ident), chain, min(start, woken) - before, seen_at)

    def ended(self, site: int, chain: int, seconds: float, seen_at: float) -> None:
        """Adds a wait of ``seconds`` at ``chain`` by a task of the coroutine at ``site``; a look saw it at ``seen_at``
        (monotonic s).
        """
        key = (site, self.chains.place(chain))
        totals = self.totals.get(key)
        if totals is None:
            if len(self.totals) >= _MAX_PLACES:
                key = (0, OTHER)
                totals = self.totals.setdefault(key, WaitTotals())
            else:
                totals = self.totals[key] = WaitTotals()
        totals.add(seconds, self.period, seen_at, self.loop_began)

    def end_loop(self, began: float, when: float) -> None:
        """A loop has ended (both monotonic s; ``when`` is 0 where that is not known)."""
        for totals in self.totals.values():
            totals.end_loop(began, when)

    def waiting_now(self, standing: Iterable[tuple[int, int, float]], now: float) -> dict[
        tuple[int, AwaitPlace], tuple[int, float, float]
    ]:
        """How many tasks stand at each place, for how long in all and at the longest (s).

        ``standing``: (site of its coroutine, chain, since when) of each task that a look found suspended.
        """
        out: dict[tuple[int, AwaitPlace], tuple[int, float, float]] = {}
        for site, chain, since in standing:
            key = (site, self.chains.place(chain))
            if key not in out and len(out) >= _MAX_PLACES:
                key = (0, OTHER)
            count, total, longest = out.get(key, (0, 0.0, 0.0))
            waited = max(0.0, now - since)
            out[key] = (count + 1, total + waited, max(longest, waited))
        return out
