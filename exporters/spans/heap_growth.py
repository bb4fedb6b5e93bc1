"""The span of a heap that grew: from the first sample of the growth to its detection."""

from __future__ import annotations

from typing import Any, Final

from traceloop.reading.decoding.decoded import Event
from traceloop.reading.statistics.growth import growth_of

from .ids import SpanIds
from .model import Extra, Kind, Span, finding_event

_GROWTH: Final = Kind("asyncio.heap_growth", {})
_HEAPS: Final = ("timer", "memory")


def growth_span(event: Event, clock_offset_ns: int) -> Span | None:
    """None for events of another kind, and for what makes no sense."""
    growth = growth_of(event.data)
    if growth is None:
        return None
    try:
        start = int(growth.start * 1e9) + clock_offset_ns
        end = int(max(growth.start, growth.end) * 1e9) + clock_offset_ns
    except (ValueError, OverflowError):  # NaN, infinity
        return None
    if not 0 <= start <= end < 1 << 63:
        return None
    attributes: dict[str, Any] = {
        "asyncio.heap": growth.heap,
        "asyncio.heap.unit": growth.unit,
        "asyncio.heap.before": growth.before,
        "asyncio.heap.after": growth.after,
    }
    # Of the timer heap: the callbacks that wait there, and the code that set them. Of the memory: lines and callbacks.
    timer = growth.heap == "timer"
    for name, top in (
        ("callbacks", growth.top if timer else growth.more),
        ("created_by" if timer else "lines", growth.more if timer else growth.top),
    ):
        if top:
            attributes[f"asyncio.heap.{name}"] = [f"{label} ({number})" for label, number in top]
    if timer:
        attributes["asyncio.heap.cancelled"] = growth.cancelled
    if growth.loop:
        attributes["thread.name"] = growth.loop
    ids = SpanIds()  # rare enough for random ones
    found = finding_event(end, f"{growth.heap}-leak", "", growth.text, "") if growth.heap in _HEAPS else None
    extra = Extra(attributes, events=(found,) if found is not None else ())
    return _GROWTH, ids.trace(1), ids.other(1), b"", start, end, -1.0, b"", b"", extra
