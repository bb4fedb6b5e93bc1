"""Other threads of the process hold the GIL while the loop has something to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ...record.frames import Frame
from ...record.holders import GIL as GIL_HOLDER
from ..stalls.causes import GIL
from ..stalls.model import GilHeld
from ..units import seconds
from . import loops, thresholds
from .model import NOTE, Finding, Who
from .scope import Scope, frame_line
from .slow import Slow
from .slow_runs import kept, kept_from_running

# A thread that computed less than this part of what all did is not named as the holder.
_MOST: Final = 0.5
# If the watchdog found the GIL held for this part of the time by which polls were late, the GIL is the reason. (Its
# turns may keep step with the holder's, so that it finds the GIL held more rarely than it is.)
_EXPLAINED: Final = 0.25
# A thread that computed for less than this part of what the first did is not worth a line.
_LEAST: Final = 0.05
_THREADS: Final = 3


def contended(scope: Scope) -> Iterator[Finding]:
    """Slow callbacks, polls that return late, and each return from a poll wait for the GIL that other threads hold."""
    lost, blocked, worst = kept_from_running(scope, GIL)
    found = _found(scope)
    # A poll that returns late while the watchdog waited for the GIL as well did so for the same reason. (The watchdog
    # alone says nothing: it also waits for a loop that computes.)
    polls = loops.late_polls(scope)
    held = max(scope.late("gil"), found.held_s)
    explained = held >= _EXPLAINED * polls
    returns = _returns(scope, found)
    # Several loops wait beside each other: none waits for longer than it was observed.
    waited = min(lost + max(min(polls, max(held, found.others_s) if explained else held), returns), scope.observed_s)
    woken_late = explained and any(loops.is_poll_late(loop) for loop in scope.loops)
    much = woken_late or waited >= max(thresholds.GIL_SECONDS, thresholds.GIL_SHARE * scope.observed_s)
    if worst is None and not much:
        return
    cost = waited + blocked
    name, frame = _holder(found, worst)
    who = Who(f"{frame[2]}.{frame[3]}", frame[0], frame[1]) if frame is not None else None
    yield Finding(
        "gil-contention",
        "",
        scope.severity(cost) if much else NOTE,
        f"{who.place} holds the GIL in thread {name} while the loop has work to do"
        if who is not None
        else "Other threads hold the GIL while the loop has work to do",
        f"the loop's thread waited {seconds(waited)} of {seconds(scope.observed_s)}"
        + (f"; callbacks waited {seconds(blocked)} behind it" if blocked else ""),
        cost,
        scope.process.slot,
        "",
        who,
        (*_evidence(scope, found, polls), *kept(worst, "that waited for the GIL")),
        "Move the thread's computing to a process (`ProcessPoolExecutor`); C code that holds the GIL for long must be "
        "called in smaller pieces or in another process.",
    )


def _found(scope: Scope) -> GilHeld:
    """Of all processes that had the slot, one after the other."""
    whole = GilHeld()
    for index in scope.indexes():
        whole.held_s += index.gil.held_s
        whole.others_s += index.gil.others_s
        whole.waits += index.gil.waits
        whole.returns += index.gil.returns
        whole.waited_s += index.gil.waited_s
        for key, cpu in index.gil.by.items():
            whole.by[key] = whole.by.get(key, 0.0) + cpu
    return whole


def _returns(scope: Scope, found: GilHeld) -> float:
    """Estimated seconds that the loops waited for the GIL when they returned from their polls: each time as often and
    as long as the watchdog did. 0 if it is little: a thread that computes costs a loop with little to do 5 ms now and
    then.
    """
    if not found.waits or not scope.observed_s:
        return 0.0
    polled = sum(loop.iterations for loop in scope.loops)
    share = min(1.0, found.held_s / scope.observed_s)
    waited = min(found.held_s, min(polled * share, found.returns) * found.waited_s / found.waits)
    return waited if waited >= thresholds.GIL_RETURNS_SHARE * scope.observed_s else 0.0


def _holder(found: GilHeld, worst: Slow | None) -> tuple[str, Frame | None]:
    """The thread that held the GIL most, as far as that is known, and where it stood."""
    by_function: dict[tuple[str, str], float] = {}
    for (_, frame), cpu in found.by.items():
        key = frame[0], frame[3]
        by_function[key] = by_function.get(key, 0.0) + cpu
    most = max(by_function, key=lambda key: by_function[key], default=None)
    if most is not None and by_function[most] >= _MOST * sum(by_function.values()) > 0.0:
        those = {key: cpu for key, cpu in found.by.items() if (key[1][0], key[1][3]) == most}
        names = {name for name, _ in those}
        name, frame = max(those, key=lambda key: those[key])
        return f"{name} and others" if len(names) > 1 else name, frame
    holder = worst.example.holder if worst is not None and worst.example is not None else None
    if holder is not None and holder.kind == GIL_HOLDER and holder.frame[0]:
        return holder.name, holder.frame
    return "", None


def _evidence(scope: Scope, found: GilHeld, polls: float) -> Iterator[str]:
    if found.held_s:
        yield (
            f"the GIL was held by other threads for at least {seconds(found.held_s)} of {seconds(scope.observed_s)}, "
            f"{seconds(found.waited_s / found.waits)} at a time when it was wanted"
        )
    if polls >= thresholds.POLL_LATE_P99:
        yield f"polls returned late by {seconds(polls)} in all"
    most = max(found.by.values(), default=0.0)
    for (name, frame), cpu in sorted(found.by.items(), key=lambda item: -item[1])[:_THREADS]:
        if cpu >= _LEAST * most > 0.0:
            yield f"thread {name} computed for at least {seconds(cpu)} meanwhile, at {frame_line(frame)}"
