"""Spans as the SDK's objects.

25 to 45 us a span, against less than 1 us for otlp/encoder.py.
"""

from __future__ import annotations

from typing import Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from ..spans.model import Span
from ..spans.resource import SCOPE_NAME, own_version

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope(SCOPE_NAME, own_version())
_UNSET: Final = Status(StatusCode.UNSET)


def readable_span(span: Span, resource: Resource) -> ReadableSpan:
    """The SDK's object for a span."""
    kind, trace_id, span_id, parent, start, end, delay, link_trace, link_id, extra = span
    state = TraceState()
    if extra is not None and extra.trace_state:
        state = TraceState.from_header([extra.trace_state])
    trace = int.from_bytes(trace_id, "big")
    links = []
    attributes = dict(kind.attributes)
    if delay >= 0.0:
        attributes["asyncio.schedule.delay"] = delay
    if link_trace:
        links.append(_link(link_trace, link_id))
    events: list[Event] = []
    if extra is not None:
        attributes.update(extra.attributes)
        links += [_link(link.trace_id, link.span_id) for link in extra.links]
        events = [Event(event.name, event.attributes, event.time_ns) for event in extra.events]
    parent_context = None
    if parent:
        remote = extra is not None and extra.remote_parent
        parent_context = SpanContext(trace, int.from_bytes(parent, "big"), remote, _SAMPLED, state)
    return ReadableSpan(
        name=kind.name,
        context=SpanContext(trace, int.from_bytes(span_id, "big"), False, _SAMPLED, state),
        parent=parent_context,
        resource=resource,
        attributes=_bounded_attributes(attributes, kind.dropped_attributes),
        events=_bounded(events, extra.dropped_events) if extra is not None else events,
        links=_bounded(links, extra.dropped_links) if extra is not None else links,
        kind=SpanKind.INTERNAL,
        instrumentation_scope=_SCOPE,
        status=_UNSET,
        start_time=start,
        end_time=end,
    )


def _bounded(items: list[Any], dropped: int) -> Any:
    """The list with the SDK's note of how many are missing from it."""
    if not dropped:
        return items
    made = BoundedList.from_seq(len(items), items)
    made.dropped = dropped
    return made


def _bounded_attributes(attributes: dict[str, Any], dropped: int) -> Any:
    if not dropped:
        return attributes
    made = BoundedAttributes(len(attributes), attributes)
    made.dropped = dropped
    return made


def _link(trace_id: bytes, span_id: bytes) -> Link:
    return Link(SpanContext(int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big"), False, _SAMPLED))
