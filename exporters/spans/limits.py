"""OpenTelemetry's limits on a span, where the environment sets any.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#attribute-limits: counts of
attributes, events and links, and the length of texts. By default the counts are 128 and the length has no limit. No
span of ours reaches that, so spans are not checked where no variable is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from .model import Attributes, Extra, Kind, Span, SpanEvent

_MAX_KINDS: Final = 20_000
_NO_LIMIT: Final = 1 << 30


class _CutKind(Kind):
    __slots__ = ("dropped_attributes",)


class _CutExtra(Extra):
    __slots__ = ("dropped_events", "dropped_links")


class SpanLimits:
    """What one span may have; ``apply`` cuts spans down to it. For one thread."""

    def __init__(
        self,
        *,
        attributes: int = _NO_LIMIT,
        length: int = _NO_LIMIT,
        events: int = _NO_LIMIT,
        links: int = _NO_LIMIT,
        event_attributes: int = _NO_LIMIT,
        event_length: int = _NO_LIMIT,
    ) -> None:
        self.attributes = attributes
        self.length = length
        self.events = events
        self.links = links
        self.event_attributes = event_attributes
        self.event_length = event_length
        self._kinds: dict[tuple[Kind, int, int], Kind] = {}

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], notice: Callable[[str], None]) -> SpanLimits | None:
        """The limits that the variables set, None where they set none. ``notice`` gets values that are no count."""
        limited = False

        def variable(*names: str) -> int:
            nonlocal limited
            for name in names:
                text = environ.get(name, "").strip()
                if not text:
                    continue
                if text.isascii() and text.isdigit() and len(text) < 10:
                    limited = True
                    return int(text)
                notice(f"{name}: expected a number from 0, got {text!r}; there is no limit")
            return _NO_LIMIT

        length = "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"
        count = "OTEL_ATTRIBUTE_COUNT_LIMIT"
        limits = cls(
            attributes=variable("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", count),
            length=variable("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", length),
            events=variable("OTEL_SPAN_EVENT_COUNT_LIMIT"),
            links=variable("OTEL_SPAN_LINK_COUNT_LIMIT"),
            event_attributes=variable("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", count),
            event_length=variable(length),
        )
        return limits if limited else None

    def apply(self, spans: Sequence[Span]) -> list[Span]:
        """The spans, cut down where they have more."""
        return [self._cut(span) for span in spans]

    def _cut(self, span: Span) -> Span:
        kind, trace_id, span_id, parent, start, end, delay, link_trace, link_id, extra = span
        room = self.attributes
        dropped = 0
        # What is the run's own is worth more than what all runs of its callback have.
        if delay >= 0.0:
            if room > 0:
                room -= 1
            else:
                delay, dropped = -1.0, 1
        links = self.links
        dropped_links = 0
        if link_trace:
            if links > 0:
                links -= 1
            else:
                link_trace = link_id = b""
                dropped_links = 1
        if extra is not None or dropped_links:
            extra, more = self._cut_extra(extra or Extra(), room, links, dropped_links)
            room -= len(extra.attributes)
            dropped += more
        return (
            self._cut_kind(kind, room, dropped),
            trace_id,
            span_id,
            parent,
            start,
            end,
            delay,
            link_trace,
            link_id,
            extra,
        )

    def _cut_extra(self, extra: Extra, room: int, links: int, dropped_links: int) -> tuple[Extra, int]:
        events = tuple(
            SpanEvent(
                event.name, event.time_ns, _cut_mapping(event.attributes, self.event_attributes, self.event_length)
            )
            for event in extra.events[: self.events]
        )
        out = _CutExtra(
            _cut_mapping(extra.attributes, room, self.length),
            links=extra.links[:links],
            events=events,
            trace_state=extra.trace_state,
            remote_parent=extra.remote_parent,
        )
        out.dropped_events = len(extra.events) - len(events)
        out.dropped_links = dropped_links + len(extra.links) - len(out.links)
        return out, len(extra.attributes) - len(out.attributes)

    def _cut_kind(self, kind: Kind, room: int, dropped: int) -> Kind:
        key = kind, min(room, len(kind.attributes)), dropped
        made = self._kinds.get(key)
        if made is None:
            if len(self._kinds) >= _MAX_KINDS:
                self._kinds.clear()
            attributes = _cut_mapping(kind.attributes, room, self.length)
            if not dropped and attributes == kind.attributes:
                made = kind
            else:
                made = cut = _CutKind(kind.name, attributes)
                cut.dropped_attributes = dropped + len(kind.attributes) - len(attributes)
            self._kinds[key] = made
        return made


def _cut_mapping(attributes: Attributes, count: int, length: int) -> dict[str, Any]:
    names = list(attributes)[: max(0, count)]
    return {name: _cut_value(attributes[name], length) for name in names}


def _cut_value(value: Any, length: int) -> Any:
    if isinstance(value, str):
        return value[:length]
    if isinstance(value, list | tuple):
        return [_cut_value(item, length) for item in value]
    return value
