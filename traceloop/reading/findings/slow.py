"""Slow runs of one culprit, added up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ...record.frames import culprit_frame, is_application
from ..stalls.causes import CPU, OFF_CPU
from ..stalls.model import StallInfo
from .blocking_kinds import COMPUTE, KINDS, BlockingKind

# A culprit with this share of its callback's known slow runs is taken for the culprit of the others, too.
_NEARLY_ALL: Final = 0.8
_COMPUTING: Final = COMPUTE | {"cpu"}


class Slow:
    """Slow runs of one culprit, for one reason.

    runs, seconds, longest, blocked: as in ``SlowTotals``, shared out if the runs of one callback had several reasons.
    starved: the part of these seconds that was spent waiting for a processor. example: the longest run that was looked
    at, if any. unended: of runs whose end is not known, how long the longest had run; 0 if there are none. goes_on: it
    runs now.
    """

    def __init__(self, reason: str, culprit: str, callback: str, kind: BlockingKind, loop: str) -> None:
        self.reason = reason
        self.culprit = culprit
        self.callback = callback
        self.kind = kind
        #: Labels of the loops in which it ran.
        self.loops = {loop}
        self.runs = 0.0
        self.seconds = self.longest = self.blocked = self.starved = 0.0
        self.example: StallInfo | None = None
        self.unended = 0.0
        self.goes_on = False
        #: If this is the sum of several culprits in one library: the others, the costliest first.
        self.others: list[Slow] = []
        #: So many of these runs had no stack. They are of the same callback, and so counted for the same culprit.
        self.unseen = 0.0

    @property
    def loop(self) -> str:
        """The loop in which all of these ran; "" if there were several, or it is not known."""
        return next(iter(self.loops)) if len(self.loops) == 1 else ""

    def take_loop(self, label: str) -> None:
        """Notes that some of these ran in the loop ``label``; "" if it is not known in which."""
        if label:
            self.loops.discard("")
            self.loops.add(label)

    @property
    def cost_s(self) -> float:
        """The time of the loop and of those that waited, without the loop's waiting for a processor."""
        own = max(0.0, 1.0 - self.starved / self.seconds) if self.seconds else 1.0
        return (self.seconds + self.blocked) * own

    @property
    def is_seen(self) -> bool:
        """Whether a stack names the culprit."""
        return self.example is not None and self.example.stack is not None

    @property
    def line(self) -> tuple[str, int]:
        """The culprit's file and line at which the longest run stood; ("", 0) if no stack was taken."""
        taken = self.example.stack if self.example is not None else None
        own = culprit_frame(taken.frames, taken.awaiting) if taken is not None else None
        return own[:2] if own is not None else ("", 0)

    def take(self, other: Slow) -> None:
        """Adds the runs of another."""
        self.runs += other.runs
        self.seconds += other.seconds
        self.blocked += other.blocked
        self.starved += other.starved
        self.unseen += other.unseen
        if other.unended > self.unended:
            self.unended, self.goes_on = other.unended, other.goes_on
        if other.longest > self.longest:
            self.longest = other.longest
            self.example = other.example if other.is_seen else self.example
        for label in other.loops:
            self.take_loop(label)

    @property
    def library(self) -> str:
        """The library that ran, if no frame is the application's own: ``textual``; else ""."""
        taken = self.example.stack if self.example is not None else None
        if taken is None or any(is_application(frame[0], frame[2]) for frame in [*taken.frames, *taken.awaiting]):
            return ""
        own = culprit_frame(taken.frames, taken.awaiting)
        return own[2].partition(".")[0] if own is not None else ""


def without_doubles(every: Iterable[Slow]) -> list[Slow]:
    """Adds up what is one trouble:

    * runs of one line that computes, whichever functions the stacks found below it, and even if it was off the
      processor at times;
    * runs without a stack, with those of their callback's culprit, if that has nearly all of the others.
    """
    lines: dict[tuple[str, int], list[Slow]] = {}
    for each in every:
        computes = each.reason == CPU or (each.reason == OFF_CPU and each.kind.name in COMPUTE)
        # By line and not by function: a lambda in the line is the same trouble.
        key = each.line if computes and each.is_seen and each.kind.name in _COMPUTING else ("", id(each))
        lines.setdefault(key, []).append(each)
    found = [_one_line(those) for those in lines.values()]
    by_callback: dict[str, list[Slow]] = {}
    for each in found:
        if each.is_seen:
            by_callback.setdefault(each.callback, []).append(each)
    for each in [each for each in found if not each.is_seen and each.culprit == each.callback]:
        known = [one for one in by_callback.get(each.callback, []) if each.reason in ("", one.reason)]
        most = max(known, key=lambda one: one.seconds, default=None)
        if most is not None and most.seconds >= _NEARLY_ALL * sum(one.seconds for one in known):
            each.unseen = each.runs
            most.take(each)
            found.remove(each)
    return found


def _one_line(those: list[Slow]) -> Slow:
    """The slow runs of one line as one, of the kind that took nearly all of the time, or else of ``cpu``."""
    whole = max(those, key=lambda each: (each.reason == CPU, each.seconds))
    kinds: dict[str, float] = {}
    for each in those:
        kinds[each.kind.name] = kinds.get(each.kind.name, 0.0) + each.seconds
    most = max(kinds, key=lambda name: kinds[name])
    if len(those) > 1:
        whole.kind = KINDS[most if kinds[most] >= _NEARLY_ALL * sum(kinds.values()) else "cpu"]
        for each in those:
            if each is not whole:
                whole.take(each)
    return whole


def by_library(every: Iterable[Slow]) -> list[Slow]:
    """Adds up runs in which only code of one library was seen: the function that a stack happens to show says little,
    and the remedy is the same for all. Imports are added up whatever they import.
    """
    groups: dict[tuple[object, ...], list[Slow]] = {}
    for each in every:
        library = each.library
        imported = "" if each.kind.name == "import" else library
        groups.setdefault((each.kind.name, imported) if library else (id(each),), []).append(each)
    return [_together(those) for those in groups.values()]


def _together(those: list[Slow]) -> Slow:
    if len(those) == 1:
        return those[0]
    longest = max(those, key=lambda each: each.longest)
    whole = Slow(longest.reason, longest.culprit, longest.callback, longest.kind, longest.loop)
    whole.example, whole.longest = longest.example, longest.longest
    unended = max(those, key=lambda each: each.unended)
    whole.unended, whole.goes_on = unended.unended, unended.goes_on
    whole.others = [each for each in those if each is not longest]
    for each in those:
        whole.take(each)
    return whole
