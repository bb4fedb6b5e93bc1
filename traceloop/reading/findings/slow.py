"""Slow runs of one culprit, put together."""

from __future__ import annotations

from collections.abc import Iterable

from ...record.frames import culprit_frame, is_application
from ..stalls.model import StallInfo
from .blocking_kinds import BlockingKind


class Slow:
    """Slow runs of one culprit, for one reason.

    runs, seconds, longest, blocked: as ``SlowTotals``, in parts where the runs of one callback had several reasons.
    starved: of these seconds, those of waiting for a processor. example: the longest run that was looked at, if any.
    unended: how long the longest of those had run of which no end is known, 0 if there is none. goes_on: it runs now.
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
        #: Where this stands for several culprits of one library: the others, the costliest first.
        self.others: list[Slow] = []

    @property
    def loop(self) -> str:
        """The loop in which all of it ran, "" if there were several, or it is not known."""
        return next(iter(self.loops)) if len(self.loops) == 1 else ""

    def take_loop(self, label: str) -> None:
        """Some of it ran in this loop too, "" if it is not known in which."""
        if label:
            self.loops.discard("")
            self.loops.add(label)

    @property
    def cost_s(self) -> float:
        """The loop's time and the others', without what it waited for a processor: that is the machine's doing."""
        own = max(0.0, 1.0 - self.starved / self.seconds) if self.seconds else 1.0
        return (self.seconds + self.blocked) * own

    @property
    def library(self) -> str:
        """The package that was seen to run, where no frame is the application's own: ``textual``; else ""."""
        taken = self.example.stack if self.example is not None else None
        if taken is None or any(is_application(frame[0], frame[2]) for frame in [*taken.frames, *taken.awaiting]):
            return ""
        own = culprit_frame(taken.frames, taken.awaiting)
        return own[2].partition(".")[0] if own is not None else ""


def by_library(every: Iterable[Slow]) -> list[Slow]:
    """Those in which only one library was seen to run, put together: in which of its functions a stack happens to find
    it says little, and its user can do the same about all. Imports are put together whatever they import.
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
        for label in each.loops:
            whole.take_loop(label)
        whole.runs += each.runs
        whole.seconds += each.seconds
        whole.blocked += each.blocked
        whole.starved += each.starved
    return whole
