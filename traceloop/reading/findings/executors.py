"""Rules on executors: full, or waiting for themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ..units import counted, percent, seconds
from . import thresholds
from .model import CRITICAL, Finding, Who
from .scope import Scope

if TYPE_CHECKING:
    from ..statistics.executors import ExecutorTotals
    from ..statistics.saturation import Saturation

# Callbacks by which another thread asks a loop for a coroutine's result, and waits.
_ASKERS: Final = ("run_coroutine_threadsafe", "run_async_from_thread", "run_sync_from_thread", "async_to_sync")

# Of the time that calls waited for: from here on one function alone is named.
_NEARLY_ALL: Final = 0.995
# Labels of what is no pool of the program's own; where there are several, with a number.
_MADE_BY_OTHERS: Final = re.compile(r"(anyio|anyio-limiter|default)(-\d+)?$")
# The record has the name of the class only, as the label of what the program made itself.
_PROCESSES: Final = "ProcessPool"
_REMEDY_OF_PROCESSES: Final = (
    "Its workers are processes, and mostly compute. Where the machine has more processors than it has workers, give it "
    "a larger `max_workers`; else give them less to do, or the slow calls a pool of their own."
)
_REMEDIES: Final = {
    "anyio": "This is AnyIO's limit of threads, in which FastAPI and Starlette run synchronous endpoints. Where they "
    "wait for something outside, raise it when the application starts (in its lifespan): "
    "`anyio.to_thread.current_default_thread_limiter().total_tokens = 100`; or give the slow calls a limiter of their "
    "own (`anyio.to_thread.run_sync(f, limiter=...)`).",
    "anyio-limiter": "This is a limiter of AnyIO's that the program makes. Where its threads wait for something "
    "outside, give it more tokens (`anyio.CapacityLimiter(40)`); one that is made for each call or request limits "
    "nothing beyond it.",
    "default": "Give the function that fills it an executor of its own (`run_in_executor(pool, ...)`); or use more "
    "workers, where they wait for something outside: `loop.set_default_executor(ThreadPoolExecutor(64))`.",
    "": "Where its workers wait for something outside, give it a larger `max_workers` where it is made; or give the "
    "slow calls a pool of their own.",
}


def full(scope: Scope) -> Iterator[Finding]:
    """Calls wait for a worker, because other calls occupy all of them."""
    for label, totals in scope.process.executors.executors.items():
        saturation = totals.saturation
        waited = sum(filler.seconds for filler in saturation.fillers.values())
        stuck = _stuck(scope, label, totals)
        if stuck is not None:
            yield stuck
        elif (
            saturation.fillers
            and waited >= thresholds.FULL_WAITED
            and saturation.longest >= thresholds.FULL_LONGEST
            and saturation.seconds >= thresholds.FULL_SHARE * scope.observed_s
        ):
            yield _full(scope, label, totals, saturation, waited)


def _full(scope: Scope, label: str, totals: ExecutorTotals, saturation: Saturation, waited: float) -> Finding:
    ranked = sorted(saturation.fillers.items(), key=lambda item: -item[1].seconds)
    function, filler = ranked[0]
    who = scope.who(function)
    evidence = _stood(totals)
    for name, each in ranked[:3]:
        waiters = sorted(each.waiters.items(), key=lambda item: -item[1])[:2]
        those = ", ".join(f"{waiter} {seconds(spent)}" for waiter, spent in waiters)
        evidence.append(f"calls waited {seconds(each.seconds)} for workers that {name} had: {those}")
    askers = _askers(scope)
    itself = bool(askers) and len(filler.waiters) > 0 and any(name != function for name in filler.waiters)
    harm = f"{counted(saturation.waits, 'call')} waited {seconds(waited)} for a worker"
    harm += f", {seconds(saturation.longest)} at most" if saturation.waits > 1 else ""
    if itself:
        return Finding(
            "pool-waits-for-itself",
            "",
            CRITICAL,
            f"Executor {label} seems to wait for itself: {who.place} has its workers and asks the loop for more work",
            harm,
            waited,
            scope.process.slot,
            "",
            who,
            (
                *(f"threads ask the loop and wait: {counted(made, 'task')} made by {name}" for name, made in askers),
                f"full for {seconds(saturation.seconds)}; the longest wait {seconds(saturation.longest)}",
                *evidence,
            ),
            "Never wait in a worker (`run_coroutine_threadsafe(...).result()`) for what needs a worker of the same "
            "pool: give the inner calls an executor of their own, or make the outer function a coroutine.",
        )
    return Finding(
        "executor-full",
        "",
        scope.severity(waited),
        f"Executor {label} is full: {_busy(who, totals, saturation, filler.seconds / waited if waited else 1.0)}",
        harm,
        waited,
        scope.process.slot,
        "",
        who,
        tuple(evidence),
        _remedy(label),
    )


def _busy(who: Who, totals: ExecutorTotals, saturation: Saturation, share: float) -> str:
    """How many workers were busy and with what, for how long, and how many calls waited."""
    # An executor that is gone has no workers.
    limit = totals.max_workers or saturation.max_workers
    workers = f"all {limit} workers were" if limit else "its workers were"
    workers = {1: "its one worker was", 2: "both workers were"}.get(limit, workers)
    busy = f"for {seconds(saturation.seconds)} while {counted(saturation.waits, 'call')} waited"
    if share >= _NEARLY_ALL:
        return f"{workers} busy with {who.place} {busy}"
    return f"{workers} busy {busy}, {percent(share)} of it with {who.place}"


def _remedy(label: str) -> str:
    """How to get more workers, by who made the executor: the loop, anyio or the program."""
    if _PROCESSES in label:
        return _REMEDY_OF_PROCESSES
    known = _MADE_BY_OTHERS.match(label)
    return f"{_REMEDIES[known[1] if known else '']} And put a time limit on what the workers wait for."


def _stuck(scope: Scope, label: str, totals: ExecutorTotals) -> Finding | None:
    """A full executor in which no call has ended for a long time, while calls wait."""
    executors = scope.process.executors
    waiting = [(name, scope.now - submit) for each, name, submit in executors.unstarted() if each == label]
    if not waiting or not totals.max_workers or totals.active < totals.max_workers:
        return None
    running = [(name, age) for each, name, age in executors.running(scope.now) if each == label]
    longest = max(age for _, age in waiting)
    if not running or longest < thresholds.STUCK_SECONDS or min(age for _, age in running) < thresholds.STUCK_SECONDS:
        return None
    names: dict[str, int] = {}
    for name, _ in running:
        names[name] = names.get(name, 0) + 1
    function = max(names, key=lambda name: names[name])
    who = scope.who(function)
    itself = bool(_askers(scope))
    cost = sum(age for _, age in waiting)
    return Finding(
        "pool-waits-for-itself" if itself else "executor-full",
        "stuck",
        CRITICAL,
        f"Executor {label} is full and no call ends: {who.place} has {names[function]} of {totals.max_workers} workers",
        f"{counted(len(waiting), 'call')} wait for a worker, the first for {seconds(longest)}",
        cost,
        scope.process.slot,
        "",
        who,
        (*(f"{counted(number, 'worker')} in {name}" for name, number in names.items()), *_stood(totals)),
        "Find what these workers wait for, and put a time limit on it. Where they wait for the loop "
        "(`run_coroutine_threadsafe(...).result()`) and the loop for a worker, use two executors.",
    )


def _stood(totals: ExecutorTotals) -> list[str]:
    """Where the executor's workers stood when it had been full for long."""
    seen = totals.workers_at
    if seen is None:
        return []
    out = []
    for number, own, stands in seen.places[:2]:
        below = f", in {stands[2]}.{stands[3]}" if stands != own else ""
        out.append(f"{number} of {seen.workers} workers stood at {own[0]}:{own[1]} in {own[3]}{below}")
    return out


def _askers(scope: Scope) -> list[tuple[str, int]]:
    """Callbacks by which other threads start tasks on the loop, with their number."""
    found: dict[str, int] = {}
    for loop in scope.loops:
        for totals in loop.tasks.coroutines.values():
            for name, number in loop.tasks.creators_of(totals, 64):
                if any(asker in name for asker in _ASKERS):
                    found[name] = found.get(name, 0) + number
    return sorted(found.items(), key=lambda item: -item[1])
