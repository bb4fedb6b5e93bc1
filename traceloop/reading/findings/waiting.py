"""Rules on tasks that wait: for a connection of an empty pool, for a lock, for each other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...record.frames import is_application
from ..source_lines import source_line
from ..statistics import wait_kinds
from ..statistics.task_tree import TaskNow, separate_circles, tasks_in_circles, tasks_of_broken_circles
from ..statistics.wait_series import Waited
from ..statistics.waits import AwaitPlace
from ..units import counted, percent, seconds
from . import thresholds
from .model import CRITICAL, Finding, Who, short_path
from .scope import Scope

_REMEDIES = {
    wait_kinds.POOL: "Give the connection back before awaiting something slow (end the `async with` earlier); make the "
    "pool as large as the number of requests at a time; put a time limit on the wait.",
    wait_kinds.LOCK: "Hold the lock for less: await what is slow outside of it; or allow more holders "
    "(`asyncio.Semaphore(n)`); put a time limit on the wait (`asyncio.timeout`).",
}
_REMEDY_OF_SEMAPHORES = (
    "If the limit is meant, this is the queue in front of it. Otherwise allow more holders at a time, or hold it for "
    "less: await what is slow outside of it. Put a time limit on the wait (`asyncio.timeout`)."
)
_TITLES = {
    wait_kinds.POOL: "wait for a connection of a pool",
    wait_kinds.LOCK: "wait for a lock that others hold",
}
_TITLE_OF_SEMAPHORES = "wait for a semaphore that others hold"
_SEMAPHORES = ("Semaphore.acquire", "CapacityLimiter.acquire_on_behalf_of", "CapacityLimiter.acquire")
_CONDITIONS = ("asyncio.Condition.wait", "asyncio.Condition.wait_for")
# A limiter of rates or a lock for readers has an ``acquire``, too.
_POOLS_NAME = re.compile(r"pool|conn|checkout|borrow|lease|get_(client|session)", re.I)

_TAKES = re.compile(
    r"(^|\.)_?(acquire|checkout|borrow|lease|get_?conn(ection)?|get_(client|session))$|pool\._?(get|take|pop)$", re.I
)
_POOLS_LINE = re.compile(r"\b\w*(pool|conn(ection)?s)\w*\.get\s*\(", re.I)
_LOCK = "asyncio.Lock.acquire"
# So many coroutines are named in the evidence.
_COROUTINES = 3
# So many deadlocks are findings of their own.
_DEADLOCKS = 3
# So many holders of a lock are named.
_HOLDERS = 2
_LASTING = "Tasks wait for each other, and none will go on"
_LASTING_ALONE = "A task waits for a lock that it holds itself"
_BROKEN_ALONE = "A task waited for a lock that it held itself, until it was cancelled or destroyed"
_REMEDY_OF_TASKS = (
    "Let one of them not await the other: pass the result by a future or a queue, or give it a time limit."
)
_REMEDY_OF_LOCKS = (
    "Take locks in the same order everywhere, and none that is held already; put a time limit on the wait "
    "(`asyncio.timeout`)."
)
_BROKEN = "Tasks waited for each other, and none went on until they were cancelled or destroyed"


def contended(scope: Scope) -> Iterator[Finding]:
    """Tasks wait for a connection or a lock that other tasks hold."""
    every = scope.process.wait_series.most(scope.now, running=scope.process.attached)
    by_line: dict[tuple[str, str, str, int], list[Waited]] = {}
    for waited in every:
        place = waited.place
        kind = _kind_of(place)
        if kind in _TITLES:
            by_line.setdefault((kind, place.function, place.file, place.line), []).append(waited)
    for (kind, *_), those in by_line.items():
        waited = _together(those)
        # What one look saw at one moment says little about all the other moments.
        known = sum(
            each.seconds - (each.estimated_s if each.rounds < thresholds.CONTENDED_ROUNDS else 0.0) for each in those
        )
        if (
            (waited.waits < thresholds.CONTENDED_WAITS and not any(map(_is_held_long, those)))
            or known < thresholds.CONTENDED_SECONDS
            or known < thresholds.CONTENDED_SHARE * scope.observed_s
        ):
            continue
        place = waited.place
        is_semaphore = kind == wait_kinds.LOCK and _are_for_semaphores(those)
        who = Who(place.function, place.file, place.line)
        harm = f"{_waits(waited)}, {seconds(waited.longest_s)} at most"
        if waited.now:
            harm += f"; {counted(waited.now, 'task')} there now"
        yield Finding(
            "waiting",
            kind,
            scope.severity(waited.seconds),
            f"Tasks {_TITLE_OF_SEMAPHORES if is_semaphore else _TITLES[kind]} at {who.place}",
            harm,
            waited.seconds,
            scope.process.slot,
            "",
            who,
            tuple(_evidence(scope, those, every)),
            _REMEDY_OF_SEMAPHORES if is_semaphore else _REMEDIES[kind],
        )


def _kind_of(place: AwaitPlace) -> str:
    """What kind of thing tasks wait for at a place. An ``asyncio.Queue`` that keeps connections is a pool: the name of
    the queue, or of the function that takes one out, shows that; so does the name of one that waits for a condition.
    Code that waits for work has other names.
    """
    if place.inside in _CONDITIONS:
        return wait_kinds.POOL if _TAKES.search(place.function) and _POOLS_NAME.search(place.function) else place.kind
    if place.kind != wait_kinds.QUEUE or not place.inside.endswith("Queue.get"):
        return place.kind
    name = ".".join(place.function.rpartition(".<locals>.")[2].split(".")[-2:])
    is_pool = _TAKES.search(name) or _POOLS_LINE.search(source_line(place.file, place.line))
    return wait_kinds.POOL if is_pool else place.kind


def _are_for_semaphores(those: list[Waited]) -> bool:
    return all(each.place.inside.endswith(_SEMAPHORES) for each in those)


def _together(those: list[Waited]) -> Waited:
    """Adds up the waits at one line of tasks of several coroutines. The one that waited most gives its name."""
    return those[0]._replace(
        seconds=sum(each.seconds for each in those),
        estimated_s=sum(each.estimated_s for each in those),
        longest_s=max(each.longest_s for each in those),
        waits=sum(each.waits for each in those),
        now=sum(each.now for each in those),
        rounds=max(each.rounds for each in those),
    )


def _is_held_long(waited: Waited) -> bool:
    """Whether one task waited for a lock for long. That is enough: two tasks that take two locks crosswise wait once
    each. Only for ``asyncio.Lock``: a semaphore may be a signal, for which a healthy program waits all day.
    """
    return waited.place.inside == _LOCK and waited.longest_s >= thresholds.HELD_SECONDS


def _waits(waited: Waited) -> str:
    """How many waits, and for how long. Looks find only some of the short ones, so that sum is an estimate."""
    if waited.rough:
        return f"{counted(waited.waits, 'wait')} seen, some {seconds(waited.seconds)} in all by estimate"
    return f"{counted(waited.waits, 'wait')}, {seconds(waited.shown_s)} in all"


def _evidence(scope: Scope, those: list[Waited], every: list[Waited]) -> Iterator[str]:
    for inside, coroutines in _by_what_they_wait_in(those).items():
        more = f" and {len(coroutines) - _COROUTINES} others" if len(coroutines) > _COROUTINES else ""
        yield f"they are tasks of {', '.join(coroutines[:_COROUTINES])}{more}, in {inside}"
    holders = _seen_holders(scope, those)
    yield from holders
    holder = next((found for each in those if (found := _holder(scope, each, every)) is not None), None)
    if holder is not None and not holders:
        where = f"{short_path(holder.place.file)}:{holder.place.line}, in {holder.place.inside}"
        some = "some " if holder.rough else ""
        yield f"other tasks of it waited {some}{seconds(holder.shown_s)} at {where}: perhaps while they held it"
    if scope.loops:
        busiest = max(loop.utilization(scope.now) for loop in scope.loops)
        yield f"the loop was active {percent(busiest)} of the time"


def _seen_holders(scope: Scope, those: list[Waited]) -> list[str]:
    """The holders of the lock when its waiters were looked at: those seen most often; of equals the latest."""
    seen: dict[tuple[int, AwaitPlace], int] = {}
    for place in {each.place for each in those}:
        for key, times in scope.process.waits.holders.get(place, {}).items():
            seen[key] = seen.get(key, 0) + times
    what = "semaphore" if _are_for_semaphores(those) else "lock"
    out = []
    latest_first = list(reversed(seen))
    latest_first.sort(key=lambda key: -seen[key])
    for site, place in latest_first[:_HOLDERS]:
        where = f" at {short_path(place.file)}:{place.line}, in {place.inside}" if place.file else ""
        out.append(f"the {what} was held by {scope.process.sites.label(site)}{where}")
    return out


def _by_what_they_wait_in(those: list[Waited]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for each in those:
        out.setdefault(each.place.inside, []).append(each.coroutine)
    return out


def _holder(scope: Scope, waited: Waited, every: list[Waited]) -> Waited | None:
    """Where the holders may have waited meanwhile, most first: at other lines of the function that waits for the lock,
    or else of the same coroutine. Not of a server's coroutine: all its requests are tasks of that, whatever their
    endpoint.
    """
    others = [
        each
        for each in every
        if each.coroutine == waited.coroutine and each.place != waited.place and each.place.kind not in _TITLES
    ]
    function, file = waited.place.function, waited.place.file
    same = [each for each in others if (each.place.function, each.place.file) == (function, file)]
    coroutine = scope.who(waited.coroutine)
    if not same and is_application(coroutine.file, coroutine.function.rpartition(".")[0]):
        same = others
    return same[0] if same else None


def deadlocked(scope: Scope) -> Iterator[Finding]:
    """Tasks wait for each other in a circle. None of them will ever go on."""
    process = scope.process
    found = (tasks_in_circles(process, scope.now) if process.attached else []) or process.left_in_circles
    found = found or tasks_of_broken_circles(process, thresholds.DEADLOCK_SECONDS)
    by_places: dict[frozenset[AwaitPlace], list[list[TaskNow]]] = {}
    for circle in separate_circles(found):
        if min(task.waited_s for task in circle) >= thresholds.DEADLOCK_SECONDS:
            by_places.setdefault(frozenset(task.place for task in circle), []).append(circle)
    for alike in list(by_places.values())[:_DEADLOCKS]:
        yield _deadlock(scope, alike)


def _deadlock(scope: Scope, circles: list[list[TaskNow]]) -> Finding:
    """The finding about circles at the same lines."""
    longest = max(circles, key=lambda circle: circle[0].waited_s)
    first = longest[0]
    who = Who(first.place.function, first.place.file, first.place.line)
    over_locks = any(task.place.kind == wait_kinds.LOCK for task in longest)
    title = _BROKEN if first.is_over else _LASTING
    if len(longest) == 1:
        title = _BROKEN_ALONE if first.is_over else _LASTING_ALONE
    harm = f"{counted(len(longest), 'task')}, for {seconds(first.waited_s)}"
    if len(circles) > 1:
        harm += f", and {counted(len(circles) - 1, 'more circle')} at the same lines"
    return Finding(
        "deadlock",
        "",
        CRITICAL,
        f"{title}: {who.place}",
        harm,
        sum(task.waited_s for circle in circles for task in circle),
        scope.process.slot,
        first.loop,
        who,
        tuple(_line(task) for task in longest[:5]),
        _REMEDY_OF_LOCKS if over_locks else _REMEDY_OF_TASKS,
    )


def without_deadlocked_waits(found: list[Finding]) -> list[Finding]:
    """Findings of waits, where a process has a deadlock: the one at the deadlock's own line is left out. The other
    waits for locks are effects of the deadlock, and what they cost is added to it.
    """
    deadlocks: dict[int, list[Finding]] = {}
    for each in found:
        if each.kind == "deadlock":
            deadlocks.setdefault(each.process, []).append(each)
    if not deadlocks:
        return found
    effects = dict.fromkeys(deadlocks, 0.0)
    out: list[Finding] = []
    for each in found:
        stuck = deadlocks.get(each.process)
        if stuck is not None and each.kind == "waiting" and each.detail == wait_kinds.LOCK:
            if any(each.who == deadlock.who for deadlock in stuck):
                continue
            effects[each.process] += each.cost_s
        out.append(each)
    return [
        each._replace(cost_s=each.cost_s + effects[each.process]) if each.kind == "deadlock" else each for each in out
    ]


def _line(task: TaskNow) -> str:
    others = ", ".join(other.name or other.coroutine for other in task.awaits if other.in_circle)
    where = f"{short_path(task.place.file)}:{task.place.line}" if task.place.file else task.coroutine
    if task in task.awaits:
        others = "a lock that it holds itself"
    elif task.place.kind == wait_kinds.LOCK:
        others = f"a lock that {others} holds"
    return f"{task.name or task.coroutine} at {where} waits for {others}"
