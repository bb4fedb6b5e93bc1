"""The span of a heap that grew: from the first sample of the growth to its detection."""

from __future__ import annotations

from typing import Any, Final

from traceloop.reading.decoded import Event

from .span_ids import SpanIds
from .spans import Extra, Kind, Span

_GROWTH: Final = Kind("asyncio.heap_growth", {})
_MAX_ITEMS: Final = 20


def growth_span(event: Event, clock_offset_ns: int) -> Span | None:
    """None for events of another kind, and for what makes no sense."""
    data = event.data
    if data.get("kind") != "growth":
        return None
    try:
        start, end = float(data["start"]), float(data["end"])
        attributes: dict[str, Any] = {
            "asyncio.heap": str(data["heap"]),
            "asyncio.heap.before": int(data["before"]),
            "asyncio.heap.after": int(data["after"]),
        }
        start_ns, end_ns = int(start * 1e9) + clock_offset_ns, int(max(start, end) * 1e9) + clock_offset_ns
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if not 0 <= start_ns <= end_ns < 1 << 63:
        return None
    for name, key in (("callbacks", "top"), ("created_by", "created")):
        items = data.get(key)
        if isinstance(items, list) and items:
            attributes[f"asyncio.heap.{name}"] = [_text(item) for item in items[:_MAX_ITEMS]]
    if isinstance(data.get("thread"), str):
        attributes["thread.name"] = data["thread"]
    ids = SpanIds()  # rare enough for random ones
    return _GROWTH, ids.trace(1), ids.other(1), b"", start_ns, end_ns, -1.0, b"", b"", Extra(attributes)


def _text(item: Any) -> str:
    return " ".join(map(str, item)) if isinstance(item, list) else str(item)
