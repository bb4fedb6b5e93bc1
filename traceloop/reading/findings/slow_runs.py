"""Rules on slow callbacks: what blocked the loop, computed on it, or was kept from running by something else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ...record.frames import Frame, culprit_frame, is_application, waits_for_work
from ...record.holders import GIL as GIL_HOLDER
from ...record.plumbing import calls_the_program, readable
from ...record.sites import UNKNOWN_LABEL, is_own_work
from ..stalls.causes import CPU, GC, GIL, OFF_CPU, SUSPENDED
from ..stalls.index import StallIndex
from ..stalls.model import StallInfo
from ..units import counted, seconds
from . import thresholds
from .blocking_kinds import COMPUTE, KINDS, BlockingKind, kind_of
from .model import CRITICAL, NOTE, Finding, Who, place_of
from .scope import Scope, frame_line, processor_times
from .slow import Slow, by_library, without_doubles

if TYPE_CHECKING:
    from ..statistics.loop import LoopStatistics
    from ..statistics.process import ProcessStatistics

# Of one callback and culprit, so many runs are looked at: the longest and the latest.
_EXAMPLES: Final = 12
_FRAMES: Final = 5
# Callbacks that waited for less than this (s) do not count.
_LEAST_WAIT: Final = 0.001
_OTHERS: Final = 3
# A run that begins at most so many s after the loop belongs to the program's start.
_START_UP: Final = 1.0
STARVED: Final = "starved"
# A run that was not measured, and is shorter than so many thresholds and so many s, is blamed on the machine if that is
# busy all the time.
_SHORT_RUN: Final = 10.0
_SHORT_SECONDS: Final = 1.0
# If a run waited for a processor for this share of its time, the cause of the rest cannot be determined.
_NEARLY_ALL: Final = 0.9
# If it waited for this share, a guess at the rest is not enough to call its code slow.
_MUCH: Final = 1 / 3
# Code that only computes is the cause, whatever else happened, if it had a processor for this share of its own time.
_SOME: Final = 1 / 4
# Kinds of waiting that another thread of the process may have caused.
_OTHER_THREADS: Final = ("waiting", "unknown", "lock")
# For these kinds the remedy is the same whether they compute or wait.
_CALLS: Final = ("import", "logging", "tls-context")
_VERBS: Final = {"blocking-call": "blocks the loop", "cpu-on-loop": "holds the loop"}
_KEPT_FROM_RUNNING: Final = {GC: "gc-pauses", GIL: "gil-contention", STARVED: "processor-starved"}


def slow_of(scope: Scope) -> list[Slow]:
    """The slow callbacks of a process by culprit and reason, the costliest first."""
    if scope.slow is None:
        scope.slow = _find(scope)
    return scope.slow


def _find(scope: Scope) -> list[Slow]:
    indexes = scope.indexes()
    examples = _examples(indexes, scope.process)
    busy = waits_for_processors(indexes, scope.observed_s)
    found: dict[tuple[str, str, str], Slow] = {}
    for loop in scope.loops:
        for (callback, culprit), totals in loop.callbacks.slow.items():
            if is_own_work(callback):
                continue  # loops.own_work reports it
            known = examples.get((callback, culprit))
            if known is not None and not known:
                continue  # all that is known is that the process was stopped during the run
            known = known or []
            # A run of the loop's own code or ours, not measured: that code is not the cause, and nothing else is known.
            is_code = calls_the_program(callback)
            weight = sum(length for length, _ in known)
            looked_at: list[tuple[float, StallInfo | None]] = [*known] or [(totals.longest_s, None)]
            for length, info in looked_at:
                reason, kind = _reason(info, length, loop.callbacks.threshold, busy)
                if not reason and not is_code:
                    continue
                share = length / weight if weight else 1.0
                each = _entry(found, reason, culprit, callback, kind, loop)
                each.runs += totals.runs * share
                each.seconds += totals.seconds * share
                each.blocked += totals.blocked_s * share
                each.starved += _starved_share(info, length, reason) * totals.seconds * share
                if length >= each.longest:
                    each.longest, each.example = length, info
            if known:  # the longest of all may be too long ago to be remembered
                reason, kind = _reason(known[0][1], known[0][0], loop.callbacks.threshold, busy)
                if reason or is_code:
                    first = _entry(found, reason, culprit, callback, kind, loop)
                    first.longest = max(first.longest, totals.longest_s)
    for index in indexes:
        _unfinished(index, scope, found, busy)
    return sorted(without_doubles(found.values()), key=lambda each: -each.cost_s)


def waits_for_processors(indexes: Sequence[StallIndex], observed_s: float) -> bool:
    """Whether the process has to wait for a processor again and again. It explains runs that were not measured.

    ``indexes``: of one process slot, one after the other. ``observed_s``: for how long they watched it.
    """
    late = sum(index.late.get(STARVED, 0.0) for index in indexes)
    measured = processor_times(indexes).waited
    return max(late, measured) >= max(thresholds.STARVED_SECONDS, thresholds.STARVED_SHARE * observed_s)


def _entry(
    found: dict[tuple[str, str, str], Slow],
    reason: str,
    culprit: str,
    callback: str,
    kind: BlockingKind,
    loop: LoopStatistics | None,
) -> Slow:
    name = culprit if culprit != UNKNOWN_LABEL else callback
    label = loop.label if loop is not None else ""
    each = found.get((reason, name, kind.name))
    if each is None:
        each = found[reason, name, kind.name] = Slow(reason, name, callback, kind, label)
    each.take_loop(label)
    return each


def _examples(
    indexes: list[StallIndex], process: ProcessStatistics
) -> dict[tuple[str, str], list[tuple[float, StallInfo]]]:
    """The longest runs of each callback and culprit (by the names that they are counted under), with what is known of
    them. Runs in which the process was stopped are left out: no code caused them.
    """
    by_pair: dict[tuple[str, str], list[tuple[float, StallIndex, tuple[int, float]]]] = {}
    for index in indexes:
        for key in index.slow_runs():
            callback, culprit = index.pair_of(*key)
            pair = process.labels.admit(callback), process.culprits.admit(culprit)
            by_pair.setdefault(pair, []).append((index.length_of(*key), index, key))
    out: dict[tuple[str, str], list[tuple[float, StallInfo]]] = {}
    for pair, runs in by_pair.items():
        runs.sort(key=lambda run: -run[0])
        for length, index, key in runs[:_EXAMPLES]:
            info = index.lookup(*key)
            if info is not None:
                those = out.setdefault(pair, [])
                if info.parts.cause != SUSPENDED:
                    those.append((length, info))
    return out


def _reason(info: StallInfo | None, length: float, threshold: float, busy: bool) -> tuple[str, BlockingKind]:
    """Why a run was slow (cpu, off_cpu, gc, gil, starved, or "" if it was not measured), and what it did.

    busy: the process has to wait for a processor again and again.
    """
    if info is None or not info.parts.cause:
        if busy and length < min(_SHORT_RUN * threshold, _SHORT_SECONDS):
            return STARVED, KINDS["unknown"]
        if info is None:
            return "", KINDS["unknown"]
    parts, holder = info.parts, info.holder
    if holder is not None and holder.kind != GIL_HOLDER and (parts.cause not in (CPU, GC) or parts.guess):
        # The holder of what it waits for was seen. Measurements on a busy machine may suggest something else.
        return OFF_CPU, KINDS["itself" if holder.is_loop else "lock"]
    # It was starved if it would not have been slow with a processor to itself, and waited for one for most of its time;
    # or for much of it, and the rest is a guess. Also if it waited nearly all the time: the rest is a guess then.
    waited = max(0.0, parts.processor_wait, parts.throttled)
    own = length - waited
    if own < min(threshold, length / 2) or (
        parts.guess and (waited >= _NEARLY_ALL * length or (own < threshold and waited >= _MUCH * length))
    ):
        return STARVED, KINDS["unknown"]
    taken = info.stack
    kind = kind_of(taken.frames if taken is not None else [], parts.cause)
    if parts.cause == OFF_CPU and kind.name in COMPUTE and parts.cpu >= _SOME * own:
        return CPU, kind
    if parts.cause == GIL or (parts.cause == OFF_CPU and kind.name in _OTHER_THREADS):
        # Off the processor, and no line says why. On a busy machine the threads that it waits for, such as the holder
        # of the GIL, wait for a processor too.
        off = length - waited - max(0.0, parts.cpu)
        if off < waited / 2 or (busy and waited >= length / 3):
            return STARVED, KINDS["unknown"]
    if parts.cause in (GC, GIL):
        return parts.cause, KINDS["unknown"]
    return parts.cause, kind


def _starved_share(info: StallInfo | None, length: float, reason: str) -> float:
    """The share of a slow run's ``length`` (s) in which it waited for a processor."""
    if info is None or not info.parts.cause:
        return 1.0 if reason == STARVED else 0.0
    return min(1.0, max(0.0, info.parts.processor_wait) / max(length, 1e-9))


def _unfinished(index: StallIndex, scope: Scope, found: dict[tuple[str, str, str], Slow], busy: bool) -> None:
    """Stalls without an end: they still go on, or the process was killed during them."""
    for key in index.unfinished():
        info = index.lookup(*key)
        if info is None or not info.stacks:
            continue
        last = info.stacks[-1].at
        loop = next((each for each in scope.loops if each.reader is not None and each.reader.number == info.ring), None)
        if loop is None and len(scope.loops) == 1:
            loop = scope.loops[0]  # the loops of a process that has ended have given their rings back
        goes_on = False
        if loop is not None and loop.running_seconds(scope.now) > 0.0:
            last = max(last, scope.now)
            goes_on = scope.process.attached  # the word of a loop whose process was killed says for ever that it runs
        length = last - info.start
        limit = loop.callbacks.threshold if loop is not None else 0.0
        if length < limit:
            continue
        reason, kind = _reason(info, length, limit, busy)
        each = _entry(found, reason, info.culprit, info.callback, kind, loop)
        each.runs += 1
        each.seconds += length
        each.starved += _starved_share(info, length, reason) * length
        if length > each.unended:
            each.unended, each.goes_on = length, goes_on
        if length > each.longest:
            each.longest, each.example = length, info


# -- the rules


def blocking_calls(scope: Scope) -> Iterator[Finding]:
    """A callback waits in a call that blocks the loop: sleep, file, network, lock, ..."""
    those = [each for each in slow_of(scope) if _rule_of(each.reason, each.kind) == "blocking-call"]
    # Except for imports, the calls that wait differ, even within one library.
    imports = by_library(each for each in those if each.kind.name == "import")
    for each in [*imports, *(each for each in those if each.kind.name != "import")]:
        yield _finding(scope, "blocking-call", each)


def computing(scope: Scope) -> Iterator[Finding]:
    """A callback computes on the loop for longer than the threshold."""
    for each in by_library(each for each in slow_of(scope) if _rule_of(each.reason, each.kind) == "cpu-on-loop"):
        yield _finding(scope, "cpu-on-loop", each)


def _rule_of(reason: str, kind: BlockingKind) -> str:
    """The finding that slow runs of this reason and kind belong to."""
    if reason == CPU and kind.name not in _CALLS:
        return "cpu-on-loop"
    return _KEPT_FROM_RUNNING.get(reason, "blocking-call")


class FindingOfRun(NamedTuple):
    """What is wrong with one slow run: kind, detail, title and remedy of the ``Finding`` that it belongs to."""

    kind: str
    detail: str
    title: str
    remedy: str


def finding_of(index: StallIndex, info: StallInfo, length: float, threshold: float) -> FindingOfRun:
    """The finding that the report would make of one slow run of ``length`` s if the run ended now."""
    busy = waits_for_processors((index,), info.start + length - index.began)
    reason, kind = _reason(info, length, threshold, busy)
    rule = _rule_of(reason, kind)
    if reason in _KEPT_FROM_RUNNING:
        return FindingOfRun(rule, "", f"{info.callback} was kept from running: {_SHORT_CAUSES[reason]}", "")
    frame = culprit_frame(info.stack.frames, info.stack.awaiting) if info.stack is not None else None
    culprit = info.culprit if info.culprit != UNKNOWN_LABEL else info.callback
    place = place_of(culprit, *frame[:2]) if frame is not None else culprit
    return FindingOfRun(rule, kind.name, f"{place} {_VERBS[rule]}: {kind.does}", kind.remedy)


def _finding(scope: Scope, rule: str, each: Slow) -> Finding:
    who, stack = _who(scope, each)
    harm = _harm(each)
    if each.blocked >= _LEAST_WAIT:
        harm += f"; others waited {seconds(each.blocked)} for it"
    severity = scope.severity(each.cost_s)
    imports = each.kind.name == "import"
    if each.blocked < _LEAST_WAIT and (imports or _is_start_up(scope, each)):
        severity = NOTE  # servers import their protocols and prepare themselves after their loop has begun
    elif imports and (_is_start_up(scope, each) or _lasts(each) < thresholds.NOTE_SECONDS):
        severity = NOTE  # a module is imported once; many libraries import parts of theirs at their first use
    elif each.longest >= thresholds.BLOCKED_SECONDS:
        severity = CRITICAL
    return Finding(
        rule,
        each.kind.name,
        severity,
        f"{who.place} {_VERBS[rule]}: {each.kind.does}",
        harm,
        each.cost_s,
        scope.process.slot,
        each.loop,
        who,
        tuple(_evidence(each)),
        each.kind.remedy,
        stack,
    )


def _lasts(each: Slow) -> float:
    """What an import costs, s. A library's own import, which its user cannot move, counts without those that waited."""
    return each.seconds if each.library else each.cost_s


def _is_start_up(scope: Scope, each: Slow) -> bool:
    """Whether a library was slow once, just after the loop had begun."""
    info = each.example
    if info is None or round(each.runs) > 1 or not each.library:
        return False
    return any(0.0 <= info.start - index.began <= _START_UP for index in scope.indexes())


def _harm(each: Slow) -> str:
    runs = max(1, round(each.runs))
    open_end = f"{seconds(each.unended)} so far" if each.goes_on else f"{seconds(each.unended)} or more"
    if runs == 1:
        if each.unended:
            return f"{open_end}, and goes on" if each.goes_on else f"{open_end}, never seen to end"
        return f"{seconds(each.longest)} once"
    harm = f"{seconds(each.seconds)} in {counted(runs, 'run')}, {seconds(each.longest)} at most"
    if each.unended:
        harm += f"; one goes on, for {open_end}" if each.goes_on else f"; one was never seen to end, after {open_end}"
    return harm


def _who(scope: Scope, each: Slow) -> tuple[Who, tuple[str, ...]]:
    """The culprit with the line at which it stood, and the application's frames."""
    info = each.example
    callback = each.callback if each.callback != each.culprit else ""
    if info is None:
        return scope.who(each.culprit, callback), ()
    taken = info.stack
    if taken is None:
        return scope.who(each.culprit, callback), ()
    frames = [*reversed(taken.frames), *taken.awaiting]
    stack = _folded(frame for frame in frames if is_application(frame[0], frame[2]))
    own = culprit_frame(taken.frames, taken.awaiting)
    if own is None:
        return scope.who(each.culprit, callback), stack
    name = taken.culprit
    return Who(name, own[0], own[1], each.callback if each.callback != name else ""), stack


def _folded(frames: Iterable[Frame]) -> tuple[str, ...]:
    """The first frame and its callers. A recursion is one line, so that the caller that began it is among them."""
    lines: dict[tuple[str, str], str] = {}
    times: dict[tuple[str, str], int] = {}
    first = ""
    for frame in frames:
        if not first:
            first = frame_line(frame)
            continue
        function = (frame[0], frame[3])
        lines.setdefault(function, frame_line(frame))
        times[function] = times.get(function, 0) + 1
    callers = (f"{line} ({times[key]} times)" if times[key] > 1 else line for key, line in lines.items())
    return (first, *callers)[:_FRAMES] if first else ()


_CAUSES: Final = {
    CPU: "the loop's thread computed",
    OFF_CPU: "the loop's thread waited, off the processor",
    GC: "the garbage collector ran",
    GIL: "the loop's thread waited for the GIL",
}


def _evidence(each: Slow) -> Iterator[str]:
    if 1 < len(each.loops) <= round(each.runs):  # for a few runs the loop is not known
        yield f"in {counted(len(each.loops), 'loop')}: {_list(each.loops)}"
    info = each.example
    if info is None:
        yield "no stack was taken"
        return
    parts = info.parts
    if parts.cause:
        guess = " (a guess)" if parts.guess else ""
        measured = f": {seconds(parts.cpu)} of CPU time" if parts.cpu >= 0.0 else ""
        yield f"of the longest run of {seconds(each.longest)}: {_CAUSES.get(parts.cause, parts.cause)}{guess}{measured}"
    if each.kind.name != "sleep" or info.holder is not None:  # a sleep waits for no thread
        yield from held(info)
    if parts.processor_wait >= 0.01:
        yield f"{seconds(parts.processor_wait)} of it waited for a processor"
    if parts.throttled >= 0.01:
        yield f"{seconds(parts.throttled)} of it the container's CPU limit held the process"
    if info.others:
        parts_of_others = ", ".join(
            f"{seconds(s)} in {readable(name)}" for name, s in list(info.others.items())[:_OTHERS]
        )
        yield f"{seconds(info.held[info.culprit])} of it in {readable(info.culprit)}; {parts_of_others}"
    # Those that it put in itself are not counted: when it did so is not known, and most do so as they end.
    if info.bill is not None and info.bill.handles:
        yield f"{counted(info.bill.handles, 'callback')} stood ready behind it"
    if info.callback not in (each.culprit, UNKNOWN_LABEL):
        yield f"within {readable(info.callback)}"
    if not info.stacks:
        yield "no stack was taken"
    if round(each.unseen):
        where = f"{counted(round(each.unseen), 'run')} of {readable(each.callback)}"
        yield f"no stack was taken of {where}: they count here as its others do"
    if each.others:
        some = ", ".join(f"{readable(other.culprit)} ({seconds(other.seconds)})" for other in each.others[:_OTHERS])
        more = f" and {len(each.others) - _OTHERS} more" if len(each.others) > _OTHERS else ""
        yield f"likewise: {some}{more}"


def _list(loops: Iterable[str]) -> str:
    names = sorted(loops)
    return ", ".join(names[:_OTHERS]) + (f" and {len(names) - _OTHERS} more" if len(names) > _OTHERS else "")


def held(info: StallInfo) -> Iterator[str]:
    """The holder of what a slow run waited for, and where the other threads stood that computed most."""
    if info.holder is not None:
        yield f"it {info.holder}"
    elif info.parts.cause in (OFF_CPU, GIL) and info.stack is not None:
        working = [each for each in info.stack.threads if not waits_for_work(each.frames)]
        for each in working[:_OTHERS]:
            own = culprit_frame(each.frames) or each.frames[-1]
            yield f"meanwhile thread {each.title} stood at {frame_line(own)}"


_SHORT_CAUSES: Final = {
    CPU: "computes",
    OFF_CPU: "waits",
    GC: "garbage collection",
    GIL: "waits for the GIL",
    STARVED: "waits for a processor",
    "": "not measured",
}


def causes_of(scope: Scope) -> dict[str, str]:
    """A word or two about why most slow runs of a culprit (or of a callback whose culprit is not known) were slow."""
    out: dict[str, str] = {}
    for each in sorted(slow_of(scope), key=lambda each: each.seconds):  # the last one wins
        detail = f" ({each.kind.name})" if each.kind.name not in ("cpu", "waiting", "unknown") else ""
        out[each.culprit] = _SHORT_CAUSES.get(each.reason, each.reason) + detail
    return out


def kept(worst: Slow | None, what: str) -> Iterator[str]:
    """A line about the slow runs that were kept from running: the costliest. ``what`` continues "slow callbacks"."""
    if worst is not None:
        if worst.reason == GIL and worst.example is not None:
            yield from held(worst.example)
        runs = f"{counted(round(worst.runs), 'run')} of {readable(worst.culprit)}"
        yield f"slow callbacks {what}: {runs}, {seconds(worst.seconds)}"


def kept_from_running(scope: Scope, reason: str) -> tuple[float, float, Slow | None]:
    """Slow runs for this reason (GC, GIL, STARVED): their seconds, what others waited for them, the costliest.

    If there is one there is a finding, whatever the thresholds, so that every slow run has a finding. STARVED also
    counts the time for which slow runs of another reason waited for a processor; such runs make no finding of their own
    here.
    """
    every = slow_of(scope)
    those = [each for each in every if each.reason == reason]
    lost = sum(max(0.0, each.seconds - each.starved) for each in those)
    if reason == STARVED:
        lost = sum(each.starved for each in every)
    return lost, sum(each.blocked for each in those), those[0] if those else None
