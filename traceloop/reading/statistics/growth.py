"""Growth of the timer heap and of the memory heap, as the process itself found it (recording/heaps/growth_rules.py).

The process checks once a second, whether its loop runs or sleeps, and writes one event for each detection. So the
finding is in the record: a report that is made after a crash has it, and no reader has to look at the right moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ..decoding.decoded import Decoded
from ..units import size
from .parts import Sample

_KEPT: Final = 50
HEAPS: Final = ("timer", "memory")

Top = tuple[tuple[str, int], ...]


class HeapGrowth(NamedTuple):
    """One detection.

    start, end: the window in which the heap grew, monotonic s. unit: of before and after (entries, blocks, bytes).
    top: what grew most: waiting callbacks with their entries (timer), or lines with bytes (memory, where traced).
    more: code that set the timers, with entries; or callbacks with bytes (memory, where traced). cancelled: cancelled
    timers that still take a place in the heap. loop: its thread's name. cost: of the trace, by name; else empty.
    """

    heap: str
    start: float
    end: float
    before: int
    after: int
    unit: str
    top: Top
    more: Top
    cancelled: int
    loop: str
    cost: dict[str, float]

    @property
    def text(self) -> str:
        """One line without a full stop."""
        what = {"entries": "timers", "blocks": "allocated blocks"}.get(self.unit, self.unit)
        before, after = f"{self.before:,}", f"{self.after:,} {what}"
        if self.unit == "bytes":
            before, after = size(self.before), size(self.after)
        line = f"{self.heap} heap grew from {before} to {after} in {self.end - self.start:.0f} s"
        if self.top:
            line += f", most of them {self.top[0][0]}"
        if self.more:
            line += f" ({'set' if self.heap == 'timer' else 'allocated'} by {self.more[0][0]})"
        return line


def growth_of(data: dict[str, Any]) -> HeapGrowth | None:
    """The detection in an event; None where the event is of another kind, or damaged."""
    if data.get("kind") != "growth" or data.get("heap") not in HEAPS:
        return None
    try:
        heap = str(data["heap"])
        return HeapGrowth(
            heap,
            float(data["start"]),
            float(data["end"]),
            int(data["before"]),
            int(data["after"]),
            str(data.get("unit", "entries")),
            _top(data.get("top")),
            _top(data.get("created") if heap == "timer" else data.get("callbacks")),
            int(data.get("cancelled", 0)),
            str(data.get("thread", "")),
            {str(key): float(value) for key, value in (data.get("trace") or {}).items()},
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        return None


def _top(pairs: Any) -> Top:
    return tuple((str(name), int(number)) for name, number in pairs or ())[:5]


class GrowthStatistics:
    """A part of a process's statistics: counts detections, and keeps the latest. events: by heap."""

    def __init__(self) -> None:
        self.events = dict.fromkeys(HEAPS, 0)
        self.detections: deque[HeapGrowth] = deque(maxlen=_KEPT)

    def feed(self, decoded: Decoded) -> None:
        """Takes in one chunk of any ring of the process."""
        for event in decoded.events:
            growth = growth_of(event.data)
            if growth is not None:
                self.detections.append(growth)
                self.events[growth.heap] += 1

    def metrics(self) -> Iterator[Sample]:
        """Detections by heap."""
        for heap, count in self.events.items():
            yield Sample("asyncio_heap_growth_events_total", (("heap", heap),), count)
