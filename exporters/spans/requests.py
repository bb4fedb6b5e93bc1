"""The span of a request: where its time went, under the server span that the application made for it."""

from __future__ import annotations

import heapq
import os
from typing import Any, Final

from traceloop.reading.requests.totals import Request

from .builder import SpanBuilder
from .model import Extra, Kind, Span, SpanEvent

_KIND: Final = Kind("asyncio.request", {})
#: How many parts are shown with their details, the longest first.
_MOST_PARTS: Final = 16
#: Stretches that are events, the longest ones.
_MOST_EVENTS: Final = 32


def request_span(request: Request, number: int, builder: SpanBuilder, threshold: float) -> Span | None:
    """None where the application's span, of this ``number``, is not known or not sampled, or where sampling leaves its
    trace out and the request took less than ``threshold`` (s).
    """
    context = builder.context(number)
    if context is None or not context.sampled or not (context.kept or request.seconds >= threshold):
        return None
    start = int(request.begin * 1e9) + builder.clock_offset_ns
    end = int((request.begin + request.seconds) * 1e9) + builder.clock_offset_ns
    if not 0 <= start <= end < 1 << 63:
        return None
    state = context.extra.trace_state if context.extra is not None else ""
    extra = Extra(_attributes(request), events=_events(request, start), trace_state=state)
    return _KIND, context.trace_id, os.urandom(8), context.span_id, start, end, -1.0, b"", b"", extra


def _events(request: Request, start: int) -> tuple[SpanEvent, ...]:
    """The longest stretches, in order, each at its beginning. ``start``: of the request, ns since the epoch."""
    longest = heapq.nlargest(_MOST_EVENTS, request.moments, key=lambda each: each[1] - each[0])
    out: list[SpanEvent] = []
    for begin, end, part, detail in sorted(longest):
        attributes: dict[str, Any] = {"asyncio.request.part": part, "asyncio.request.part.duration": end - begin}
        if detail:
            attributes["asyncio.request.part.detail"] = detail
        out.append(SpanEvent("asyncio.request.part", start + int((begin - request.begin) * 1e9), attributes))
    return tuple(out)


def _attributes(request: Request) -> dict[str, Any]:
    attributes: dict[str, Any] = {"asyncio.request.name": request.name}
    for (part, _), seconds in request.parts.items():
        key = f"asyncio.request.time.{part}"
        attributes[key] = attributes.get(key, 0.0) + seconds
    ranked = sorted(request.parts.items(), key=lambda item: -item[1])[:_MOST_PARTS]
    attributes["asyncio.request.parts.names"] = [f"{part} {detail}".rstrip() for (part, detail), _ in ranked]
    attributes["asyncio.request.parts.durations"] = [seconds for _, seconds in ranked]
    return attributes
