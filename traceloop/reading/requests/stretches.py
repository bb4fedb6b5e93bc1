"""The time of one task, cut into stretches that follow each other without a gap."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

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
#: The end of a stretch (monotonic s), and its part. It begins where the one before it ends.
Stretch = tuple[float, Part]

_NOT_KNOWN: Final = (UNKNOWN, "")
# A task of more has its oldest ones summed up; what falls into them is no longer kept apart.
_MOST: Final = 1024


class Stretches:
    """The time of one task from ``begin`` on (monotonic s; minus infinity where its beginning is not known)."""

    __slots__ = ("_ends", "_parts", "_summed", "begin")

    def __init__(self, begin: float) -> None:
        self.begin = begin
        self._ends: list[float] = []
        self._parts: list[Part] = []
        self._summed: dict[Part, float] = {}

    @property
    def end(self) -> float:
        """Up to when the time is known."""
        return self._ends[-1] if self._ends else self.begin

    def add(self, until: float, part: Part) -> None:
        """The next stretch. One that ends no later than what is there has no length, and is left out."""
        ends = self._ends
        if until <= (ends[-1] if ends else self.begin):
            return
        if ends and self._parts[-1] == part:
            ends[-1] = until
            return
        ends.append(until)
        self._parts.append(part)
        if len(ends) > _MOST:
            self._sum_up(_MOST // 2)

    def _sum_up(self, count: int) -> None:
        begin = self.begin
        for end, part in zip(self._ends[:count], self._parts[:count], strict=True):
            self._summed[part] = self._summed.get(part, 0.0) + end - begin
            begin = end
        self.begin = begin
        del self._ends[:count]
        del self._parts[:count]

    def cut(self, begin: float, end: float) -> list[Stretch]:
        """The stretches from ``begin`` to ``end``, of which what is not known is a stretch of its own."""
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

    def sums(self) -> dict[Part, float]:
        """Seconds by part, of all stretches."""
        out = dict(self._summed)
        begin = self.begin
        for end, part in zip(self._ends, self._parts, strict=False):  # a third less time than strict
            out[part] = out.get(part, 0.0) + end - begin
            begin = end
        return out
