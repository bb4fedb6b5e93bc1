"""The time of one task as stretches that follow each other without a gap."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from math import inf
from typing import Final, NamedTuple

# What a stretch was spent on; docs/telemetry.md has the meaning of each.
RUNNING: Final = "running"
READY: Final = "ready"
QUEUED: Final = "executor_queue"
OFFLOADED: Final = "executor_run"
RETURNING: Final = "executor_return"
TIMER: Final = "wait_timer"
NETWORK: Final = "wait_network"
TASK: Final = "wait_task"
THREAD: Final = "wait_thread"
OTHER: Final = "wait_other"
UNKNOWN: Final = "unknown"
PARTS: Final = (RUNNING, READY, QUEUED, OFFLOADED, RETURNING, TIMER, NETWORK, TASK, THREAD, OTHER, UNKNOWN)

#: What a stretch was spent on, and the detail: the place where the task waited, who ran while it was ready.
Part = tuple[str, str]
#: When a stretch began and ended (monotonic s), its part and detail.
Moment = tuple[float, float, str, str]


class Turn(NamedTuple):
    """The part of a stretch in which a task was ready and others ran.

    runs: the long runs of the others, latest first: (number, start, end, ident), in monotonic s. Their names are looked
    up only when the stretches are summed up, since most never are.
    """

    kind: str
    detail: str
    runs: list[tuple[int, float, float, float]]


#: The end of a stretch (monotonic s), and its part. It begins where the one before it ends.
Stretch = tuple[float, Part | Turn]

_NOT_KNOWN: Final = (UNKNOWN, "")
# Of a task with more stretches, the oldest are merged: into one for each part, or one for each kind of too many parts.
_MOST: Final = 1024
_MOST_PARTS: Final = 256


class Stretches:
    """The time of one task from ``begin`` on (monotonic s; minus infinity where its beginning is not known)."""

    __slots__ = ("_ends", "_name_of_run", "_parts", "_summed_until", "begin")

    def __init__(self, begin: float, name_of_run: Callable[[int, float], str]) -> None:
        """``name_of_run``: the name of a run, by its number and ident."""
        self.begin = begin
        self._name_of_run = name_of_run
        self._ends: list[float] = []
        # Stretches that end by this moment were merged: their length is known, but not when they were.
        self._summed_until = 0.0
        self._parts: list[Part | Turn] = []

    @property
    def end(self) -> float:
        """Up to when the time is known."""
        return self._ends[-1] if self._ends else self.begin

    def add(self, until: float, part: Part | Turn) -> None:
        """Adds the next stretch. It is left out where it has no length: it ends no later than the one before it."""
        ends = self._ends
        if until <= (ends[-1] if ends else self.begin):
            return
        if ends and self._parts[-1] == part:
            ends[-1] = until
            return
        ends.append(until)
        self._parts.append(part)
        if len(ends) > _MOST:
            self._put_together(_MOST // 2)

    def _put_together(self, count: int) -> None:
        """Merges the oldest ``count`` into one for each part. Their lengths are kept; when they were is lost."""
        if self.begin == -inf:  # the length of the first one is not known
            self.begin = self._ends.pop(0)
            del self._parts[0]
            count -= 1
        sums: dict[Part, float] = {}
        self._add_sums(sums, count)
        if len(sums) > _MOST_PARTS:
            of_kinds: dict[Part, float] = {}
            for (kind, _), seconds in sums.items():
                of_kinds[kind, ""] = of_kinds.get((kind, ""), 0.0) + seconds
            sums = of_kinds
        ends, end, last = [], self.begin, self._ends[count - 1]
        for seconds in sums.values():
            end = min(end + seconds, last)
            ends.append(end)
        ends[-1] = self._summed_until = last
        self._ends[:count] = ends
        self._parts[:count] = sums

    def forget_before(self, when: float) -> None:
        """Drops the stretches that ended before ``when`` (monotonic s), which are no longer needed."""
        count = bisect_right(self._ends, when)
        if count:
            self.begin = self._ends[count - 1]
            del self._ends[:count]
            del self._parts[:count]

    def cut(self, begin: float, end: float) -> list[Stretch]:
        """The stretches from ``begin`` to ``end`` (monotonic s). Time about which nothing is known is one of them."""
        out: list[Stretch] = []
        if begin < self.begin:
            out.append((min(self.begin, end), _NOT_KNOWN))
        for index in range(bisect_right(self._ends, begin), len(self._ends)):
            until = self._ends[index]
            out.append((min(until, end), self._parts[index]))
            if until >= end:
                return out
        if not out or out[-1][0] < end:
            out.append((end, _NOT_KNOWN))
        return out

    def moments(self) -> tuple[Moment, ...]:
        """The stretches of which the times are known. One in which others ran is named by the longest of their runs."""
        out: list[Moment] = []
        begin = self.begin
        for end, part in zip(self._ends, self._parts, strict=True):
            if end > self._summed_until:
                kind, detail = (part.kind, self._longest(begin, end, part)) if isinstance(part, Turn) else part
                out.append((begin, end, kind, detail))
            begin = end
        return tuple(out)

    def _longest(self, begin: float, end: float, turn: Turn) -> str:
        most, detail = 0.0, turn.detail
        for number, begun, ended, ident in turn.runs:
            seconds = min(ended, end) - max(begun, begin)
            if seconds > most:
                most, detail = seconds, f"behind {self._name_of_run(number, ident)}"
        return detail

    def sums(self) -> dict[Part, float]:
        """Seconds by part, of all stretches."""
        out: dict[Part, float] = {}
        self._add_sums(out, len(self._ends))
        return out

    def _add_sums(self, out: dict[Part, float], count: int) -> None:
        begin = self.begin
        for end, part in zip(self._ends[:count], self._parts, strict=False):  # a third less time than strict
            seconds = end - begin
            if isinstance(part, Turn):
                seconds = self._add_turn(out, begin, end, part)
                part = (part.kind, part.detail)
            if seconds:
                out[part] = out.get(part, 0.0) + seconds
            begin = end

    def _add_turn(self, out: dict[Part, float], begin: float, end: float, turn: Turn) -> float:
        """Adds the time that long runs of others had in a stretch. Returns the seconds that are left."""
        left = end - begin
        for number, begun, ended, ident in turn.runs:
            seconds = min(ended, end) - max(begun, begin)
            if seconds > 0.0:
                part = (turn.kind, f"behind {self._name_of_run(number, ident)}")
                out[part] = out.get(part, 0.0) + seconds
                left -= seconds
        return max(0.0, left)
