"""A loop's own work where it took long: it moved many timers, or handled many results of a poll.

No handle runs meanwhile, so the time belongs to no callback. From the slow-callback threshold on it counts as a slow
callback, whose callback and culprit are the loop's own work (``record.sites.OWN_WORK``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ...record.sites import is_own_work
from ..decoding.decoded import LATEST, Decoded
from ..site_names import SiteNames
from .callbacks import CallbackStatistics
from .context import SitesOf
from .parts import Sample


class OwnWork(NamedTuple):
    """One occurrence: which work, from when until when (monotonic s). size: the number of timers or descriptors."""

    label: str
    start: float
    end: float
    size: int
    ident: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


def own_work_of(data: dict[str, Any], sites: SiteNames) -> OwnWork | None:
    """The loop's own work in an event; None where the event is of another kind, or damaged."""
    if data.get("kind") != "own_work":
        return None
    try:
        ident, start, end, size = float(data["ident"]), float(data["start"]), float(data["end"]), int(data["count"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    label = sites.label_of(ident)
    if not is_own_work(label) or not 0.0 <= start <= end < LATEST or not 0 <= size < 1 << 53:
        return None
    return OwnWork(label, start, end, size, ident)


class OwnWorkStatistics:
    """A part of a loop's statistics (``parts.Part``). longest: the longest slow one, by label."""

    def __init__(self, callbacks: CallbackStatistics, sites_of: SitesOf) -> None:
        self._callbacks = callbacks
        self._sites_of = sites_of
        self.longest: dict[str, OwnWork] = {}

    def feed(self, decoded: Decoded) -> None:
        """Takes in one chunk of the loop's record."""
        for event in decoded.events:
            work = own_work_of(event.data, self._sites_of())
            if work is None:
                continue
            run = (0, work.start, work.end, work.ident, "soon", -1.0, 0, 0, 0, 0)
            if self._callbacks.count_own_work(work.label, run):
                known = self.longest.get(work.label)
                if known is None or work.seconds > known.seconds:
                    self.longest[work.label] = work

    def metrics(self) -> Iterator[Sample]:
        """No series of its own: it counts among the slow callbacks."""
        return iter(())
