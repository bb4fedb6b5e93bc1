"""Stalls and slow runs as values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

from ...record.frames import Frame, stretches
from ...record.holders import Holder
from ...record.sites import UNKNOWN_LABEL
from ..decoding.decoded import SpanContext
from .causes import Parts
from .who_waited import Bill

#: Reports do not name a part of a slow run that is shorter than this (s).
LEAST_PART_SECONDS: Final = 0.005


class ProcessorTime(NamedTuple):
    """Seconds in which a loop's thread ran on a processor, waited for one, and in which other threads ran."""

    ran: float = 0.0
    waited: float = 0.0
    others: float = 0.0


class OtherThreads(NamedTuple):
    """Threads that stood at the same place while the loop was blocked.

    names: of the first of them. number: how many there were. cpu_s: CPU time (s) that they used since the look before.
    frames: outermost first.
    """

    names: list[str]
    number: int
    cpu_s: float
    frames: list[Frame]

    @property
    def title(self) -> str:
        """Whose stack it is: ``worker_0, worker_1 and 3 more``."""
        more = self.number - len(self.names)
        return ", ".join(self.names) + (f" and {more} more" if more > 0 else "")


class StackTaken(NamedTuple):
    """One stack of a run, taken at ``at``. Times are monotonic s.

    frames: outermost first, each (file, line, module, qualname). awaiting: the frames of the coroutines that await the
    task, nearest first. ready: how many handles waited. descriptors: callbacks of descriptors that the kernel had
    ready, with how many of each (an estimate). source: "watchdog", or "dump" for a stack requested from outside.
    since: when the time began for which the stack stands. That is earlier than ``at`` where the watchdog came late,
    because the run held the GIL in a C call. culprit: the label of the code that it stands in, "" where there is none.
    threads: the other threads of the process, except those that waited for work. holder: who had what the run waited
    for; None where that is not known.
    """

    at: float
    frames: list[Frame]
    awaiting: list[Frame]
    ready: int
    descriptors: dict[str, int]
    source: str
    since: float
    culprit: str
    threads: list[OtherThreads] = []
    holder: Holder | None = None

    @property
    def text(self) -> str:
        """The stack as Python writes a traceback, without source lines."""
        awaiting = [
            f'  File "{file}", line {line}, in {_dotted(*rest)} (awaits)' for file, line, *rest in self.awaiting
        ]
        frames = [f'  File "{file}", line {line}, in {_dotted(*rest)}' for file, line, *rest in self.frames]
        return "\n".join(["Stack (most recent call last):", *reversed(awaiting), *frames])

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes of an ``asyncio.stack`` event: this stack, and those of the other threads."""
        out = {"code.stacktrace": self.text}
        if self.threads:
            out["asyncio.stack.threads"] = "\n".join(
                line
                for each in self.threads
                for line in (
                    f"Thread {each.title} (most recent call last):",
                    *(f'  File "{file}", line {number}, in {_dotted(*rest)}' for file, number, *rest in each.frames),
                )
            )
        return out


def _dotted(module: str, qualname: str) -> str:
    return f"{module}.{qualname}" if module else qualname


class StallInfo(NamedTuple):
    """What is known of one slow run.

    end: monotonic s; infinite where no end was read. callback: its label. culprit: the label of the code that held the
    loop longest, or, while the run lasts, of the code that holds it now; ``unknown`` where no stack was taken. held:
    seconds by culprit, longest first. stacks: in order. parts: the cause and the measured parts. span: the
    application's span that was active when the first stack was taken, without a number; or None. suppressed: how many
    stacks were left out so far in this process. complete: whether nothing more will come. bill: what the run cost
    others; None where its end was not read yet.
    """

    ring: int
    start: float
    end: float
    ident: float
    callback: str
    culprit: str
    held: dict[str, float]
    stacks: list[StackTaken]
    parts: Parts
    span: SpanContext | None
    suppressed: int
    complete: bool
    bill: Bill | None

    @property
    def stack(self) -> StackTaken | None:
        """The stack that shows the culprit; None where no stack has frames.

        For an ended run that is the stack that stands for most time, else the latest one.
        """
        shown = [each for each in self.stacks if each.frames]
        own = [each for each in shown if each.culprit == self.culprit] or shown
        if not own or math.isinf(self.end):
            return own[-1] if own else None
        lengths = stretches([each.since for each in self.stacks], self.start, self.end)
        by_stack = {id(each): length for each, length in zip(self.stacks, lengths, strict=True)}
        return max(own, key=lambda each: by_stack[id(each)])

    @property
    def holder(self) -> Holder | None:
        """Who had what the culprit waited for: by the stack that shows the culprit, else by its latest that knows."""
        shown = self.stack
        if shown is not None and shown.holder is not None:
            return shown.holder
        own = [each.holder for each in self.stacks if each.holder is not None and each.culprit == self.culprit]
        return own[-1] if own else None

    @property
    def others(self) -> dict[str, float]:
        """Seconds for which other code held the loop in this run, by its label; only parts that are long enough."""
        return {name: s for name, s in self.held.items() if name != self.culprit and s >= LEAST_PART_SECONDS}


class StallStack(NamedTuple):
    """A stack that came in, with what is known of its run at that moment. The fields are those of ``StallInfo``."""

    ring: int
    start: float
    ident: float
    callback: str
    culprit: str
    taken: StackTaken
    span: SpanContext | None


class GilHeld:
    """How the watchdog found the GIL while other threads of the process computed.

    held_s: for how long it was held (s, an estimate). others_s: for how long the others computed (s), which is the most
    that held_s can be. waits, waited_s: how often the watchdog waited for the GIL, and for how long in all (s). by: CPU
    time (s) of the threads that were seen then, by their names and the application's frame at which they stood.
    returns: how many returns from polls there can have been meanwhile; infinity if that is not known.
    """

    __slots__ = ("by", "held_s", "others_s", "returns", "waited_s", "waits")

    def __init__(self) -> None:
        self.returns = 0.0
        self.held_s = self.others_s = self.waited_s = 0.0
        self.waits = 0
        self.by: dict[tuple[str, Frame], float] = {}


class Congestion:
    """Iterations that were long because they had many handles, none of which was slow."""

    __slots__ = ("callbacks", "iterations", "longest", "seconds")

    def __init__(self) -> None:
        self.iterations = 0
        self.seconds = 0.0
        self.longest = 0.0
        self.callbacks = 0  # in the longest


class Blocked:
    """One entry of the matrix of blockers and victims: the handles that waited, and their seconds.

    They are exact, except for handles that the blocker itself queued: of those, only the most that it can be is known.
    """

    __slots__ = ("at_most", "exact", "handles", "own_handles")

    def __init__(self) -> None:
        self.handles = 0
        self.exact = 0.0
        self.own_handles = 0
        self.at_most = 0.0


#: Blockers and victims, by (callback, culprit, victim).
Matrix = dict[tuple[str, str, str], Blocked]


def sum_of(matrices: Iterable[Matrix]) -> Matrix:
    """The sum of all ``matrices``: entries with the same key are added up."""
    out: Matrix = {}
    for matrix in matrices:
        for key, entry in matrix.items():
            total = out.setdefault(key, Blocked())
            total.handles += entry.handles
            total.exact += entry.exact
            total.own_handles += entry.own_handles
            total.at_most += entry.at_most
    return out


def outermost_of(frames: list[Frame]) -> str:
    """The callback of a run, by its stack: the function of the outermost frame, or what it calls if it is a wrapper."""
    return _dotted(frames[0][2], frames[0][3]) if frames else UNKNOWN_LABEL
