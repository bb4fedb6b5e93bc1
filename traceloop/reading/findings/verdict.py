"""Applies all rules to a run: what is wrong, the worst first; or that nothing is, and the basis of that."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from ..statistics.histograms import Histogram
from ..units import count, counted, seconds
from . import executors, gil, loops, peers, process, slow_runs, swallowed, tasks, thresholds, waiting
from .model import CRITICAL, NOTE, SEVERITIES, Finding, Verdict
from .scope import Scope

if TYPE_CHECKING:
    from ..statistics.run import Statistics

Rule = Callable[[Scope], Iterator[Finding]]

RULES: Final[tuple[Rule, ...]] = (
    slow_runs.blocking_calls,
    slow_runs.computing,
    loops.saturated,
    loops.congested,
    loops.own_work,
    loops.spinning,
    loops.poll_late,
    peers.slow,
    loops.storms,
    executors.full,
    tasks.leaked,
    tasks.lost,
    swallowed.swallowed,
    waiting.contended,
    waiting.deadlocked,
    process.heaps,
    process.cancelled_timers,
    process.garbage,
    process.starved,
    gil.contended,
    process.dropped,
    process.debug_mode,
)
#: The kinds of all findings. Each has a page of that name in docs/findings/.
KINDS: Final = (
    "blocking-call",
    "cancelled-timers",
    "congested",
    "connection-storm",
    "connections-refused",
    "container-throttled",
    "cpu-on-loop",
    "data-dropped",
    "deadlock",
    "debug-mode",
    "errors-swallowed",
    "executor-full",
    "gc-pauses",
    "gil-contention",
    "lost-tasks",
    "loop-saturated",
    "memory-leak",
    "poll-late",
    "pool-waits-for-itself",
    "processor-starved",
    "slow-peer",
    "spin",
    "task-leak",
    "timer-leak",
    "waiting",
)


_MAX_BUSY: Final = 4
_NOTHING: Final = "no callback was recorded"
_EXPLAINS_LATE_POLLS: Final = ("container-throttled", "gil-contention", "processor-starved")
#: Findings that say where the time of a loop goes.
_OF_A_LOOP: Final = (
    "blocking-call",
    "congested",
    "connection-storm",
    "cpu-on-loop",
    "gc-pauses",
    "gil-contention",
    "loop-saturated",
    "poll-late",
    "spin",
)
_LEAKS: Final = ("memory-leak", "task-leak", "timer-leak")


def verdict(statistics: Statistics, now: float | None = None) -> Verdict:
    """Applies every rule. Call it under the statistics' lock. ``now``: monotonic s, for what is in progress."""
    now = time.monotonic() if now is None else now
    found: list[Finding] = []
    for _, each in sorted(statistics.processes.items()):
        scope = Scope(each, now)
        for rule in RULES:
            try:
                found += rule(scope)
            except Exception as error:  # a damaged record: the report leaves this rule out, and says so
                found.append(_rule_failed(each.slot, rule, error))
    found += _spans_dropped(statistics)
    # Findings about the GIL or the processor explain late polls.
    explained = {each.process for each in found if each.kind in _EXPLAINS_LATE_POLLS and each.severity != NOTE}
    found = [each for each in found if each.kind != "poll-late" or each.process not in explained]
    found = _ranked(waiting.without_deadlocked_waits(found))
    busy = _busy(statistics, now, found)
    is_blank = not any(loop.iterations or loop.callbacks.runs for loop in statistics.loops())
    return Verdict(tuple(found), _NOTHING if is_blank else _basis(statistics, now), busy, is_blank)


def _ranked(found: list[Finding]) -> list[Finding]:
    """The costliest first, notes last. A busy machine comes after critical findings and leaks: those can be mended in
    the program, and what a busy machine costs changes from hour to hour.
    """
    first = [each.cost_s for each in found if not each.is_the_machines and _is_urgent(each)]
    least = min(first, default=math.inf)

    def key(each: Finding) -> tuple[bool, float, bool, int]:
        cost = min(each.cost_s, least) if each.is_the_machines else each.cost_s
        return each.severity == NOTE, -cost, each.is_the_machines, SEVERITIES.index(each.severity)

    return sorted(found, key=key)


def _is_urgent(finding: Finding) -> bool:
    return finding.severity == CRITICAL or finding.kind in _LEAKS


def _busy(statistics: Statistics, now: float, found: list[Finding]) -> tuple[str, ...]:
    """Sentences about busy loops: where their time goes, in processes without a finding that says so."""
    troubled = {each.process for each in found if each.severity != NOTE and each.kind in _OF_A_LOOP}
    out: list[str] = []
    for slot, each in sorted(statistics.processes.items()):
        if slot not in troubled:
            try:
                out += loops.busy(Scope(each, now))
            except Exception as error:
                found.append(_rule_failed(slot, loops.busy, error))
    return tuple(out[:_MAX_BUSY])


def _rule_failed(slot: int, rule: Callable[[Scope], object], error: Exception) -> Finding:
    return Finding(
        "data-dropped",
        "rule",
        NOTE,
        f"The rule {rule.__module__.rpartition('.')[2]}.{rule.__name__} could not be applied",
        f"{type(error).__name__}: {error}"[:200],
        0.0,
        slot,
        "",
        None,
        (),
        "The record is damaged, or this is a fault of traceloop's.",
    )


def _basis(statistics: Statistics, now: float) -> str:
    delays = Histogram()
    observed = 0.0
    for loop in statistics.loops():
        delays.merge(loop.callbacks.delays.values())
        observed = max(observed, sum(loop.times(now)))
    if not delays.count:
        return "no callback ran"
    late = seconds(delays.quantile(0.99))
    return f"{counted(delays.count, 'callback')} in {seconds(observed)}, 99% waited {late} or less"


def _spans_dropped(statistics: Statistics) -> Iterator[Finding]:
    exported = lost = 0.0
    reasons: dict[str, float] = {}
    for more in statistics.extra:
        for name, labels, value in more():
            if name == "traceloop_spans_exported_total" and isinstance(value, int | float):
                exported += value
            elif name == "traceloop_spans_dropped_total" and isinstance(value, int | float) and value:
                lost += value
                reasons[dict(labels).get("reason", "")] = value
    if not lost or lost < thresholds.DROPPED_SHARE * (exported + lost):
        return
    yield Finding(
        "data-dropped",
        "spans",
        NOTE,
        "Spans could not be exported",
        f"{count(lost)} of {counted(exported + lost, 'span')}",
        0.0,
        min(statistics.processes, default=0),
        "",
        None,
        tuple(f"{reason}: {count(number)}" for reason, number in sorted(reasons.items(), key=lambda item: -item[1])),
        "Look at the receiver; send fewer (`--spans slow`, or a ratio).",
    )
