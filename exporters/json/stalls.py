"""Slow runs and stalls in the JSON report: each with its stack and cause, and who waited for whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from traceloop.reading.stalls.model import StallInfo, sum_of
from traceloop.reading.stalls.parts import loop_stalls_of, stalls_of
from traceloop.reading.statistics.loop import LoopStatistics
from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.reading.units import counted
from traceloop.record.frames import culprit_frame
from traceloop.record.holders import Holder
from traceloop.record.plumbing import readable

from .values import ROWS

_STALLS: Final = 100
_FRAMES: Final = 40


def stalls(process: ProcessStatistics, wall: Callable[[float], float | None]) -> list[dict[str, Any]]:
    """The latest slow runs, in order."""
    try:
        known = stalls_of(process)
    except LookupError:
        return []
    out = []
    for index in [*known.earlier, known.index]:
        for key in index.slow_runs()[-_STALLS:]:
            info = index.lookup(*key)
            if info is not None:
                out.append(
                    {
                        "start": wall(info.start),
                        "seconds": index.length_of(*key),
                        "callback": info.callback,
                        "culprit": info.culprit,
                        "held_by": [{"culprit": name, "seconds": held} for name, held in info.held.items()],
                        "cause": info.parts.cause or None,
                        "throttled_seconds": info.parts.throttled,
                        "holder": _holder(info.holder),
                        "threads": _threads(info),
                        "blocked_seconds": info.bill.exact if info.bill is not None else None,
                        "stack": stack_lines(info),
                    }
                )
    return out[-_STALLS:]


def blocked(process: ProcessStatistics) -> list[dict[str, Any]]:
    """Who waited for whom, most first."""
    try:
        known = stalls_of(process)
    except LookupError:
        return []
    pairs = sum_of(index.matrix for index in [*known.earlier, known.index])
    return [
        {
            "callback": callback,
            "culprit": culprit,
            "victim": victim,
            "victim_name": readable(victim),
            "times": entry.handles,
            "seconds": entry.exact,
            "own_times": entry.own_handles,
            "own_seconds_at_most": entry.at_most,
        }
        for (callback, culprit, victim), entry in sorted(pairs.items(), key=lambda item: -item[1].exact)[:ROWS]
    ]


def stall_in_progress(loop: LoopStatistics, now: float) -> dict[str, Any] | None:
    """The stall that the loop is in."""
    try:
        info = loop_stalls_of(loop).in_progress()
    except LookupError:
        return None
    if info is None:
        return None
    return {
        "callback": info.callback,
        "culprit": info.culprit,
        "seconds": max(0.0, now - info.start),
        "stack": stack_lines(info),
    }


def stack_lines(info: StallInfo) -> list[str]:
    stack = info.stack
    if stack is None:
        return []
    frames = stack.frames[::-1]
    lines = [f"{file}:{line} in {module}.{name}" if file else name for file, line, module, name in frames]
    own = culprit_frame(stack.frames)
    blamed = frames.index(own) if own is not None else 0
    if blamed < _FRAMES:
        return lines[:_FRAMES] + _more(len(lines) - _FRAMES)
    # An import, say: what is blamed stands far above the code of the import system.
    inner = _FRAMES - 1
    return lines[:inner] + _more(blamed - inner) + [lines[blamed]] + _more(len(lines) - blamed - 1)


def _more(frames: int) -> list[str]:
    return [f"and {counted(frames, 'more frame')}"] if frames > 0 else []


def _holder(holder: Holder | None) -> dict[str, Any] | None:
    if holder is None:
        return None
    return {
        "kind": holder.kind,
        "name": holder.name,
        "place": holder.place,
        "guess": holder.guess,
        "text": str(holder),
    }


def _threads(info: StallInfo) -> list[dict[str, Any]]:
    """The other threads at the stack that shows the culprit."""
    return [
        {
            "names": each.names,
            "count": each.number,
            "cpu_seconds": each.cpu_s,
            "stack": [f"{file}:{line} in {module}.{name}" for file, line, module, name in reversed(each.frames)],
        }
        for each in (info.stack.threads if info.stack is not None else ())
    ]
