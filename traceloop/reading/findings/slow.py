"""Slow runs of one culprit, put together."""

from __future__ import annotations

from ..stalls.model import StallInfo
from .blocking_kinds import BlockingKind


class Slow:
    """Slow runs of one culprit, for one reason.

    runs, seconds, longest, blocked: as ``SlowTotals``, in parts where the runs of one callback had several reasons.
    starved: of these seconds, those of waiting for a processor. example: the longest run that was looked at, if any.
    """

    def __init__(self, reason: str, culprit: str, callback: str, kind: BlockingKind, loop: str) -> None:
        self.reason = reason
        self.culprit = culprit
        self.callback = callback
        self.kind = kind
        self.loop = loop
        self.runs = 0.0
        self.seconds = self.longest = self.blocked = self.starved = 0.0
        self.example: StallInfo | None = None
        self.ended = True

    @property
    def cost_s(self) -> float:
        """The loop's time and the others', without what it waited for a processor: that is the machine's doing."""
        own = max(0.0, 1.0 - self.starved / self.seconds) if self.seconds else 1.0
        return (self.seconds + self.blocked) * own
