"""The report's part on stalls: who blocked whom, the worst slow callbacks with cause and place, and congestion."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from traceloop.reading.stalls.causes import SUSPENDED, Parts
from traceloop.reading.stalls.index import StallIndex
from traceloop.reading.stalls.model import Congestion, StackTaken, StallInfo, sum_of
from traceloop.reading.stalls.parts import stalls_of
from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.record.frames import culprit_frame, is_application, waits_for_work
from traceloop.record.plumbing import readable
from traceloop.record.sites import UNKNOWN_LABEL

from .tables import Style, clean, count, counted, seconds, shorten, table

_PAIRS = 8
_FEW = 3
_WORST = 3
_LINES = 4
# Stacks of other threads, and CPU time (s) of them that is worth a word.
_THREADS = 4
_LEAST_CPU = 0.05


class _Stall(NamedTuple):
    length: float
    info: StallInfo
    ended: bool


def stalls(process: ProcessStatistics, style: Style) -> list[str]:
    """What is known of the stalls of a process slot; nothing where there were none. For the full report: the findings
    have the worst.
    """
    try:
        known = stalls_of(process)
    except LookupError:
        return []
    indexes = [*known.earlier, known.index]
    lines: list[str] = []
    for part in (_worst(indexes, style), _matrix(indexes, style), _congestion(indexes, style)):
        if part:
            lines += ["", *part] if lines else part
    return ["  " + style.bold("Stalls"), *lines] if lines else []


# -- the worst


def _worst(indexes: list[StallIndex], style: Style) -> list[str]:
    """The longest slow callbacks: cause, measured parts, who waited, the application's lines."""
    longest: list[tuple[float, StallIndex, tuple[int, float], bool]] = []
    for index in indexes:
        longest += [(index.length_of(*key), index, key, True) for key in index.slow_runs()]
        for key in index.unfinished():
            info = index.lookup(*key)
            if info is not None and info.stacks:
                longest.append((info.stacks[-1].at - info.start, index, key, False))
    # What never ended comes first: of it is only known how long it had lasted.
    longest.sort(key=lambda each: (not each[3], each[0]), reverse=True)
    found: list[_Stall] = []
    for length, index, key, ended in longest:
        info = index.lookup(*key)
        if info is None or info.parts.cause == SUSPENDED:
            continue
        found.append(_Stall(length, info, ended))
        if len(found) == _WORST:
            break
    lines: list[str] = []
    for stall in found:
        lines += _stall(stall, style)
    return [style.dim("    the longest slow callbacks"), *lines] if lines else []


def _stall(stall: _Stall, style: Style) -> Iterator[str]:
    info = stall.info
    name = info.culprit if info.culprit != UNKNOWN_LABEL else info.callback
    length = seconds(stall.length) if stall.ended else f"{seconds(stall.length)} or more, never seen to end"
    title = f"{style.bad(length)}  {style.bold(clean(name))}"
    yield "    " + title + (style.dim(f" in {clean(info.callback)}") if name != info.callback else "")
    for line in textwrap.wrap(", ".join(_facts(info)), style.width - 6):
        yield "      " + line
    stack = info.stack
    if stack is None:
        yield "      " + style.dim("no stack was taken of it")
        return
    for line in _places(stack):
        yield "      " + style.dim(shorten(clean(line), style.width - 6))


def _facts(info: StallInfo) -> Iterator[str]:
    yield from _cause(info.parts)
    if info.holder is not None:
        yield clean(f"it {info.holder}")
    if info.others:
        yield f"{seconds(info.held.get(info.culprit, 0.0))} in {clean(info.culprit)}"
        yield from (f"{seconds(s)} in {clean(name)}" for name, s in list(info.others.items())[:_FEW])
    bill = info.bill
    if bill is not None:
        if bill.handles:
            yield f"{counted(bill.handles, 'callback')} waited for it, {seconds(bill.exact)} in all"
        if bill.own_handles:
            yield f"{counted(bill.own_handles, 'callback')} of its own waited up to {seconds(bill.own_most)} in all"
    elif info.stacks and info.stacks[-1].ready:
        yield f"{counted(info.stacks[-1].ready, 'callback')} waited for it"


_CAUSES = {
    "cpu": "computing",
    "gc": "garbage collection",
    "gil": "waiting for the GIL",
    "off_cpu": "waiting or sleeping, off the processor",
}


def _cause(parts: Parts) -> Iterator[str]:
    if parts.cause:
        yield f"{parts.cause}: {_CAUSES.get(parts.cause, parts.cause)}" + (" (a guess)" if parts.guess else "")
    else:
        yield "cause not measured"
    if parts.cpu >= 0.0:
        yield f"{seconds(parts.cpu)} of CPU time"
    if parts.gc > 0.0:
        yield f"{seconds(parts.gc)} of garbage collection"
    if parts.processor_wait >= 0.001:
        busy = parts.processor_wait > 4 * (max(parts.cpu, 0.0) + parts.gc)
        yield f"{seconds(parts.processor_wait)} of waiting for a processor" + (" (a busy machine)" if busy else "")
    if parts.throttled >= 0.001:
        yield f"{seconds(parts.throttled)} of being held by the container's CPU limit"
    if parts.suspended > 0.0:
        yield f"{seconds(parts.suspended)} of a process that stood still"


def _places(stack: StackTaken) -> Iterator[str]:
    """The innermost line, if it is a library's, and the application's innermost ones."""
    frames = list(reversed(stack.frames))
    own = [_place(frame) for frame in frames if is_application(frame[0], frame[2])]
    # Who awaits it is often the one to ask: a task of its own shows nothing of the handler that made it.
    own += [_place(frame) + ", which awaits it" for frame in stack.awaiting if is_application(frame[0], frame[2])]
    if _place(frames[0]) not in own[:1]:
        yield _place(frames[0])
    yield from list(dict.fromkeys(own))[:_LINES]  # the lines of a recursion once
    for each in stack.threads[:_THREADS]:
        if each.cpu_s < _LEAST_CPU and waits_for_work(each.frames):
            continue
        at = culprit_frame(each.frames) or each.frames[-1]
        computed = f", {seconds(each.cpu_s)} of CPU time" if each.cpu_s >= _LEAST_CPU else ""
        yield f"meanwhile thread {each.title}{computed}: {_place(at)}"


def _place(frame: tuple[str, int, str, str]) -> str:
    file, line, module, qualname = frame
    return f"{file}:{line} in {module}.{qualname}" if module else f"{file}:{line} in {qualname}"


# -- who paid


def _matrix(indexes: list[StallIndex], style: Style) -> list[str]:
    """Blockers and victims, by what the victims waited."""
    pairs = sum_of(index.matrix for index in indexes)
    ordered = sorted(pairs.items(), key=lambda each: (each[1].exact, each[1].at_most), reverse=True)
    rows = [
        [
            culprit if culprit != UNKNOWN_LABEL else readable(callback),
            readable(victim),
            count(entry.handles),
            seconds(entry.exact),
            # What the blocker itself had put in waited somewhere between nothing and this.
            f"{count(entry.own_handles)}, up to {seconds(entry.at_most)}" if entry.own_handles else "",
        ]
        for (callback, culprit, victim), entry in ordered[:_PAIRS]
        if entry.exact > 0.0 or entry.own_handles
    ]
    lines = table(style, ["who blocked", "who waited", "times", "waited", "put in by itself"], rows, names=2)
    if len(ordered) > _PAIRS:
        lines.append(style.dim(f"    and {counted(len(ordered) - _PAIRS, 'more pair')}"))
    return lines


# -- many short ones


def _congestion(indexes: list[StallIndex], style: Style) -> list[str]:
    """Iterations that were long because they had many callbacks, none of them slow."""
    total = Congestion()
    for index in indexes:
        for each in index.congestion.values():
            total.iterations += each.iterations
            total.seconds += each.seconds
            if each.longest > total.longest:
                total.longest, total.callbacks = each.longest, each.callbacks
    if not total.iterations:
        return []
    text = (
        f"congested: {counted(total.iterations, 'iteration')} took {seconds(total.seconds)} with many short callbacks "
        f"and no slow one; the longest {seconds(total.longest)} with {count(total.callbacks)}"
    )
    return ["    " + style.warn(text)]
