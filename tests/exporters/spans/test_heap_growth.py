"""The span of a heap that grew: its window, what grew it, and the finding that the report would have."""

from __future__ import annotations

import pytest

from traceloop.exporters.spans.heap_growth import growth_span
from traceloop.reading.decoding.decoded import Event

GREW = {
    "kind": "growth", "heap": "timer", "unit": "entries", "loop": "MainThread", "start": 10.0, "end": 30.0,
    "before": 5, "after": 2505, "top": [["app.forget", 2500]], "created": [["app.handle:12", 2500]],
}  # fmt: skip


@pytest.mark.parametrize("heap", ["timer", "memory"])
def test_growth_of_a_heap_is_a_span_with_its_finding(heap):
    span = growth_span(Event(30.0, 1, {**GREW, "heap": heap}), 1000)
    assert span is not None
    _, _, _, _, start, end, *_, extra = span
    assert (start, end) == (10 * 10**9 + 1000, 30 * 10**9 + 1000)
    assert extra.attributes["asyncio.heap"] == heap and extra.attributes["asyncio.heap.after"] == 2505
    (event,) = extra.events
    assert event.name == "asyncio.finding" and event.time_ns == end
    assert event.attributes["asyncio.finding.kind"] == f"{heap}-leak"
    assert "to 2,505" in event.attributes["asyncio.finding.title"]


def test_other_events_make_none():
    assert growth_span(Event(1.0, 1, {"kind": "stack"}), 0) is None
