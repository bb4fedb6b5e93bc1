"""Rules on a whole process: heaps that grow, garbage collection, the processor, and the record itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ...record import layout
from ..stalls.causes import GC
from ..stalls.model import ProcessorTime
from ..statistics.growth import HeapGrowth
from ..statistics.histograms import Histogram
from ..units import about, count, counted, percent, seconds, size
from . import loops, thresholds
from .model import NOTE, WARNING, Finding, Who
from .scope import Scope
from .slow_runs import STARVED, kept, kept_from_running

# Time of collections that held no loop is told from this share of the time of the others on.
_WORTH_TELLING: Final = 0.1
# A loop waits for a processor only while all are in use: other threads must have run for longer than it waited.
_OWN_THREADS: Final = 2.0
_OWN: Final = "its other threads compute"
_FOREIGN: Final = "the machine is busy with something else"


def heaps(scope: Scope) -> Iterator[Finding]:
    """The timer heap or the memory heap has grown."""
    for heap, rule in (("timer", "timer-leak"), ("memory", "memory-leak")):
        detections = [each for each in scope.process.growth.detections if each.heap == heap]
        if detections:
            yield (_timers if heap == "timer" else _memory)(scope, rule, detections)


def _timers(scope: Scope, rule: str, detections: list[HeapGrowth]) -> Finding:
    first, last = detections[0], detections[-1]
    who = _placed(scope, last.more[0][0]) if last.more else scope.who(last.top[0][0]) if last.top else None
    grown = last.after - first.before
    span = max(last.end - first.start, 1e-9)
    evidence = [each.text for each in detections[-2:]]
    waits = f" for {last.top[0][0]}" if last.top else ""
    return Finding(
        rule,
        "",
        WARNING,
        (f"{who.place} sets more and more timers{waits}" if last.more and who is not None else
         f"Timers{waits} become more and more"),
        f"{count(grown)} more in {seconds(span)}, {count(last.after)} in all; "
        f"about {about(grown / span * 3600)} an hour",
        scope.leak_cost(),
        scope.process.slot,
        last.loop,
        who,
        tuple(evidence),
        "Cancel what `call_later` returns when it is needed no more; use `asyncio.timeout()`, which does so by itself.",
    )  # fmt: skip


def cancelled_timers(scope: Scope) -> Iterator[Finding]:
    """Timers are set and cancelled so fast that the loop sweeps its heap again and again."""
    for loop in scope.loops:
        sweeps = loop.counter(layout.W_COMPACTIONS)
        observed = sum(loop.times(scope.now))
        if sweeps < thresholds.SWEEPS or sweeps < thresholds.SWEEP_RATE * observed:
            continue
        yield Finding(
            "cancelled-timers",
            "",
            NOTE,
            f"Loop {loop.label} sets timers and cancels them over and over",
            f"its heap was swept of cancelled timers {counted(sweeps, 'time')} in {seconds(observed)}",
            0.0,
            scope.process.slot,
            loop.label,
            None,
            (),
            "Long timeouts that are set and cancelled for each message do this. One timer for a whole connection, set "
            "anew when it fires, is cheaper.",
        )


def _placed(scope: Scope, label: str) -> Who:
    """The code of a label that ends in a line, ``module.qualname:LINE``."""
    name, _, line = label.rpartition(":")
    if not name or not line.isdecimal():
        return scope.who(label)
    return scope.who(name)._replace(line=int(line))


def _amount(number: float, unit: str) -> str:
    return size(number) if unit == "bytes" else f"{count(number)} {unit}"


def _memory(scope: Scope, rule: str, detections: list[HeapGrowth]) -> Finding:
    first, last = detections[0], detections[-1]
    traced = next((each for each in reversed(detections) if each.cost and each.top), None)
    who = None
    if traced is not None:
        file, _, line = traced.top[0][0].rpartition(":")
        who = Who(traced.more[0][0] if traced.more else "", file, int(line) if line.isdecimal() else 0)
    grown = sum(max(0, each.after - each.before) for each in detections)
    unit = "allocated blocks" if last.unit == "blocks" else last.unit
    span = max(last.end - first.start, 1e-9)
    title = "Memory grows and does not come down"
    if traced is not None:
        title = f"Memory grows: most of it is allocated at {traced.top[0][0]}"
    remedy = "Look for a cache, list or dict that is only added to; bound it (`functools.lru_cache(maxsize=...)`)."
    if traced is None:
        remedy += " `traceloop run --memory-trace` names the line that allocates."
    return Finding(
        rule,
        "",
        WARNING,
        title,
        f"{_amount(grown, unit)} more in {seconds(span)}, {_amount(last.after, unit)} in all",
        scope.leak_cost(),
        scope.process.slot,
        "",
        who,
        tuple(each.text for each in detections[-2:]),
        remedy,
    )


def garbage(scope: Scope) -> Iterator[Finding]:
    """Garbage collection takes much of the loop's time, or interrupts it for long."""
    collections = scope.process.collections
    pauses = Histogram().merge(collections.pauses.values())
    _, blocked, worst = kept_from_running(scope, GC)
    # Collections before a loop ran, between two loops, or in another thread while the loop slept held none.
    held = collections.held
    # A collection computes all the time: on a busy machine a part of its time was waiting for a processor.
    computing = 1.0 - scope.waiting_share()
    active = sum(loop.times(scope.now)[0] for loop in scope.loops)
    total, longest = computing * held.sum, computing * held.maximum
    if computing < 1.0 and held.number_from(thresholds.GC_LONGEST) < 2:
        total, longest = total - longest, 0.0  # one that is long may have waited for a processor all the time
    often = total >= thresholds.GC_SHARE * active or longest >= thresholds.GC_LONGEST
    much = (total >= thresholds.GC_TOTAL and often) or blocked >= thresholds.NOTE_SECONDS
    if worst is None and not much:
        return
    rest = pauses.sum - held.sum
    found = sum(collections.collected.values())
    interrupted = max(collections.interrupted.items(), key=lambda item: item[1].seconds, default=None)
    label = worst.culprit if worst is not None else interrupted[0] if interrupted is not None else ""
    who = scope.who(label) if label else None
    nothing = found < 1000 * pauses.count
    evidence = [
        f"generation {generation}: {counted(each.count, 'collection')}, {seconds(each.sum)}, "
        f"freed {count(collections.collected.get(generation, 0))} objects"
        for generation, each in sorted(collections.pauses.items(), key=lambda item: -item[1].sum)
    ]
    if interrupted is not None:
        evidence.append(f"most often within {interrupted[0]}, {seconds(interrupted[1].seconds)}")
    yield Finding(
        "gc-pauses",
        "frees-nothing" if nothing else "",
        scope.severity(total + blocked) if much else NOTE,
        "Garbage collection holds the loop" + (", and frees next to nothing" if nothing else ""),
        f"{seconds(held.sum)} in {counted(held.count, 'collection')}, {seconds(held.maximum)} at most"
        + (f"; {seconds(rest)} more of collections held no loop" if rest >= _WORTH_TELLING * held.sum else ""),
        total + blocked,
        scope.process.slot,
        "",
        who,
        tuple(evidence),
        _less_collecting(held.sum, collections.held_by_calls, nothing=nothing),
    )


def _less_collecting(held: float, by_calls: float, *, nothing: bool) -> str:
    """What to do about collections that held a loop for so long (s), of it ``by_calls`` in ``gc.collect()``."""
    if by_calls >= held / 2 > 0.0:
        return (
            f"{seconds(by_calls)} of that went into calls of `gc.collect()`: leave them out, or call it before the "
            f"loop runs.{' After `gc.freeze()` they are short.' if nothing else ''}"
        )
    if nothing:
        return (
            "The pauses free next to nothing: many objects live. Call `gc.freeze()` when the program has started, and "
            "make full collections rarer: `gc.set_threshold(gc.get_threshold()[0], 10, 1000)`."
        )
    return "Many cycles are made: break them (weakref, `close()`), or call `gc.collect()` at a quiet moment."


def starved(scope: Scope) -> Iterator[Finding]:
    """The machine, or the container's limit, does not give the process the processor.

    Every shared machine makes a process wait a little. So the waiting of a loop's thread is weighted with its share of
    the time observed: waiting for a tenth of the time costs a hundredth of it.
    """
    throttling = scope.process.throttling
    lost, blocked, worst = kept_from_running(scope, STARVED)
    # The loop was as late as the watchdog, while it had something to do.
    active = max((loop.utilization(scope.now) for loop in scope.loops), default=0.0)
    late = scope.late("starved")
    polls = loops.late_polls(scope)
    # Slow runs of several loops may overlap: no loop waits for longer than it was observed.
    waited = min(max(lost, active * late, min(polls, late)), scope.observed_s)
    _, measured, others = scope.processor()
    # What is measured includes the time between two loops of the thread.
    measured = min(measured, scope.observed_s)
    cost = max(waited, measured * measured / max(scope.observed_s, 1e-9))
    waited = max(waited, measured)
    woken_late = any(loops.is_poll_late(loop) for loop in scope.loops) and measured >= polls / 2
    if woken_late:
        cost = max(cost, min(polls, measured))
    if (
        throttling.seconds >= thresholds.THROTTLED_SECONDS
        and throttling.seconds >= thresholds.THROTTLED_SHARE * scope.observed_s
    ):
        cost = throttling.seconds + blocked
        yield Finding(
            "container-throttled",
            "",
            scope.severity(cost),
            "The container's CPU limit stops the process again and again",
            f"{counted(throttling.periods, 'period')} in which it was stopped, {seconds(throttling.seconds)} in all",
            cost,
            scope.process.slot,
            "",
            None,
            tuple(kept(worst, "that waited for a processor")),
            "Raise the CPU limit (`resources.limits.cpu`), or leave it out and set the request; fewer threads use it "
            "up more slowly.",
        )
        return
    share = 0.0 if woken_late else thresholds.STARVED_SHARE * scope.observed_s
    much = waited >= max(thresholds.STARVED_SECONDS, share)
    if worst is None and not much:
        return
    own = _are_to_blame(others, measured)
    yield Finding(
        "processor-starved",
        "threads" if own else "",
        scope.severity(cost + blocked) if much else NOTE,
        f"The process waits for a processor: {_OWN if own else _FOREIGN}",
        f"{seconds(waited)} of {seconds(scope.observed_s)}"
        + (f"; others waited {seconds(blocked)}" if blocked else ""),
        cost + blocked,
        scope.process.slot,
        "",
        None,
        (
            *kept(worst, "that waited for a processor"),
            *_had(scope.processor()),
        ),
        "Run fewer processes and threads that compute on this machine, or give it more processors.",
    )


def _are_to_blame(others: float, waited: float) -> bool:
    """Whether the process's own other threads, which ran for so long (s), explain the waiting of its loop."""
    return others >= _OWN_THREADS * waited > 0.0


def _had(times: ProcessorTime) -> Iterator[str]:
    if times.waited:
        yield (
            f"the loop's thread ran for {seconds(times.ran)} and waited {seconds(times.waited)} for a processor; the "
            f"process's other threads ran for {seconds(times.others)}"
        )


def is_mostly_lost(records: int, dropped: int) -> bool:
    """Whether so many records could not be read that the rest does not justify an all-clear."""
    return 0 < dropped >= thresholds.UNREADABLE_SHARE * records


def dropped(scope: Scope) -> Iterator[Finding]:
    """Records were overwritten before they were read, or found no room. All findings are about the rest."""
    process = scope.process
    if process.overwritten >= thresholds.DROPPED_SHARE * max(1, process.records):
        yield from _overwritten(scope)
    lost, records = process.lost, process.records - process.overwritten
    if not lost or lost < thresholds.DROPPED_SHARE * max(1, records):
        return
    harm = f"{count(lost)} of {counted(records, 'record')} ({percent(lost / max(1, records))})"
    if is_mostly_lost(records, lost):
        yield Finding(
            "data-dropped",
            "unreadable",
            WARNING,
            "Most of the record could not be read, so that nothing can be said of the program",
            harm,
            scope.observed_s,
            process.slot,
            "",
            None,
            ("they were overwritten before they were read, found no room, or the record's files are damaged",),
            "Record it again. If the program writes more than the collector reads, make the ring larger "
            "(`--ring-size 32M`), or give the collector more of a processor.",
        )
        return
    yield Finding(
        "data-dropped",
        "records",
        NOTE,
        "Part of the record is missing",
        harm,
        0.0,
        process.slot,
        "",
        None,
        ("they were overwritten before they were read, or found no room where they wait to be written",),
        "If the program writes more than the collector reads, make the ring larger (`--ring-size 32M`), or give the "
        "collector more of a processor.",
    )


def _overwritten(scope: Scope) -> Iterator[Finding]:
    """The record was kept, or is read while the program runs: a ring has the latest records."""
    process = scope.process
    left = process.records - process.overwritten
    yield Finding(
        "data-dropped",
        "overwritten",
        NOTE,
        "The record has only the end of the program, and this report is about that",
        # Of several loops it may be another part of each.
        (f"the last {seconds(scope.observed_s)}, with " if len(scope.loops) == 1 else "")
        + f"{count(left)} of {counted(process.records, 'record')} ({percent(left / max(1, process.records))})",
        0.0,
        process.slot,
        "",
        None,
        (),
        "A larger ring keeps more (`--ring-size 32M`). What the run itself printed at its end, and its metrics, are of "
        "all records.",
    )


def debug_mode(scope: Scope) -> Iterator[Finding]:
    """asyncio's debug mode is on, which makes every callback several times as expensive."""
    by_code = any(loop.debugged for loop in scope.loops)
    if not scope.process.description.get("debug") and not by_code:
        return
    yield Finding(
        "debug-mode",
        "",
        NOTE,
        "asyncio's debug mode is on: every callback costs several times as much",
        "what is measured here is not what production sees",
        0.0,
        scope.process.slot,
        "",
        None,
        (),
        "Outside of development, unset PYTHONASYNCIODEBUG and leave out `-X dev`, `asyncio.run(debug=True)` and "
        "`loop.set_debug(True)`.",
    )
