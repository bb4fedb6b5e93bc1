"""Our own form of a span, from which each exporter makes its own.

A span is a plain tuple (``Span``): at 50,000 a second, making an object for each would be most of the cost. Everything
rare is in its last item. Two modules read spans: otlp/encoder.py packs them, otel_sdk/spans.py makes objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from traceloop.record.sites import Site

Attributes = Mapping[str, Any]

#: A flag of an application's span: its parent is in another process.
REMOTE: Final = 0x200


#: The place in the code for a number.
SiteOf = Callable[[int], Site]


def id_bytes(text: str, size: int) -> bytes:
    """The bytes of a hexadecimal id, empty where it is none of this size."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        return b""
    return value if len(value) == size else b""


class Kind:
    """What all spans of one callback have in common. ``packed``: the encoder's bytes for it, made once."""

    __slots__ = ("attributes", "name", "packed")
    dropped_attributes: int = 0  # see limits.py

    def __init__(self, name: str, attributes: Attributes) -> None:
        self.name = name
        self.attributes = attributes
        self.packed: Any = None


class Link(NamedTuple):
    """A span that another one refers to."""

    trace_id: bytes
    span_id: bytes


class SpanEvent(NamedTuple):
    """Something that happened at a moment (ns since the epoch) within a span."""

    name: str
    time_ns: int
    attributes: Attributes


def finding_event(time_ns: int, kind: str, detail: str, title: str, remedy: str) -> SpanEvent:
    """The ``asyncio.finding`` event of a span: what the report would say of it. Empty strings are left out."""
    attributes: dict[str, Any] = {"asyncio.finding.kind": kind, "asyncio.finding.title": title}
    if detail:
        attributes["asyncio.finding.detail"] = detail
    if remedy:
        attributes["asyncio.finding.remedy"] = remedy
    return SpanEvent("asyncio.finding", time_ns, attributes)


class Extra:
    """What few spans have."""

    __slots__ = ("attributes", "events", "links", "remote_parent", "trace_state")
    dropped_events: int = 0  # see limits.py
    dropped_links: int = 0

    def __init__(
        self,
        attributes: Attributes | None = None,
        *,
        links: tuple[Link, ...] = (),
        events: tuple[SpanEvent, ...] = (),
        trace_state: str = "",
        remote_parent: bool = False,
    ) -> None:
        self.attributes: Attributes = attributes or {}
        self.links = links
        self.events = events
        self.trace_state = trace_state
        self.remote_parent = remote_parent


#: kind, trace id (16 bytes), span id, parent's span id (b"" none), start and end in ns since the epoch, schedule delay
#: in s (-1: none to tell), trace id of the run that scheduled it (b"" none) and its span id, the rest (None: nothing).
Span = tuple[Kind, bytes, bytes, bytes, int, int, float, bytes, bytes, Extra | None]


#: What all spans of iterations have in common.
ITERATION: Final = Kind("asyncio.iteration", {})
