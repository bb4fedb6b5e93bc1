"""Packs spans into the bytes of an OTLP ``ExportTraceServiceRequest``.

Protocol buffers (https://protobuf.dev/programming-guides/encoding/) let the fields of a message stand in any order, and
nearly everything of a span has a fixed width: ids and times. So a span is

    0x12, length | one ``struct.pack``: trace, parent, id, start, end, delay, link | the bytes of its kind, made once

where the last part (name, attributes, span kind, flags, status) is what all spans of one callback have in common.
Whatever is rare (events, more links, more attributes) takes the slow path, ``encode_extra``. The fields are those of
opentelemetry/proto/trace/v1/trace.proto of opentelemetry-proto 1.x; the tests decode with the published package and
compare, field by field, with what the SDK's exporter makes of the same spans.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from struct import Struct
from typing import Any, Final

from ..spans.model import Extra, Kind, Span

#: Fields, one behind the other.
Data = bytes | memoryview

_FLAGS_KNOWN: Final = 0x100  # SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_FLAGS_REMOTE: Final = 0x200  # SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_KIND_INTERNAL: Final = 1
_fixed64 = Struct("<Q").pack
_fixed32 = Struct("<I").pack
_double = Struct("<d").pack


def varint(value: int) -> bytes:
    """An unsigned integer; negative ones as their two's complement of 64 bits, as int64 fields have it."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_VARINTS: Final = [varint(value) for value in range(16384)]


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    length = len(data)
    return _VARINTS[number << 3 | 2] + (_VARINTS[length] if length < 16384 else varint(length)) + data


def end_of_fields(data: Data, count: int) -> int:
    """Where the first so many of the fields end that ``field`` has made, each with a number of at most 15."""
    at = 0
    for _ in range(count):
        at += 1
        length = shift = 0
        while data[at] > 0x7F:
            length |= (data[at] & 0x7F) << shift
            shift += 7
            at += 1
        at += 1 + (length | data[at] << shift)
    return at


def text_field(number: int, text: str) -> bytes:
    """A string field; lone surrogates, which UTF-8 has no form for, are escaped."""
    return field(number, text.encode("utf-8", "backslashreplace"))


def any_value(value: Any) -> bytes:
    """An ``AnyValue``. What OpenTelemetry has no type for becomes its text."""
    if isinstance(value, str):
        return text_field(1, value)
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            return text_field(1, str(value))
        return b"\x18" + (_VARINTS[value] if 0 <= value < 16384 else varint(value))
    if isinstance(value, float):
        return b"\x21" + _double(value)
    if isinstance(value, bytes):
        return field(7, value)
    if isinstance(value, Mapping):
        return field(6, b"".join(field(1, key_value(str(key), item)) for key, item in value.items()))
    if isinstance(value, Sequence):
        return field(5, b"".join(field(1, any_value(item)) for item in value))
    return b"" if value is None else text_field(1, str(value))


def key_value(key: str, value: Any) -> bytes:
    """A ``KeyValue``."""
    return text_field(1, key) + field(2, any_value(value))


# Attribute names as fields, made once: there are few of them.
_KEYS: Final[dict[str, bytes]] = {}
_MAX_KEYS: Final = 1000


def attributes_field(number: int, attributes: Mapping[str, Any]) -> bytes:
    """Repeated ``KeyValue`` fields; ``number`` of the field, at most 15."""
    tag = bytes((number << 3 | 2,))
    out: list[bytes] = []
    for name, value in attributes.items():
        key = _KEYS.get(name)
        if key is None:
            key = text_field(1, name)
            if len(_KEYS) < _MAX_KEYS:
                _KEYS[name] = key
        is_float = type(value) is float  # asked first: most are durations
        pair = key + (b"\x12\x09\x21" + _double(value) if is_float else field(2, any_value(value)))
        length = len(pair)
        out.append(tag + (_VARINTS[length] if length < 16384 else varint(length)) + pair)
    return b"".join(out)


# Attributes of kinds as whole fields: the kinds of one callback's tasks differ in the task's name alone.
_PAIRS: Final[dict[tuple[str, Any], bytes]] = {}
_MAX_PAIRS: Final = 20_000


def common_fields(kind: Kind) -> bytes:
    out = [text_field(5, kind.name), _KIND_AND_STATUS]
    for name, value in kind.attributes.items():
        if name == "asyncio.task.name" or type(value) is bool or not isinstance(value, str | int):
            out.append(attributes_field(9, {name: value}))
            continue
        pair = _PAIRS.get((name, value))
        if pair is None:
            if len(_PAIRS) >= _MAX_PAIRS:
                _PAIRS.clear()
            pair = _PAIRS[name, value] = attributes_field(9, {name: value})
        out.append(pair)
    if kind.dropped_attributes:
        out.append(b"\x50" + varint(kind.dropped_attributes))
    return b"".join(out)


_DELAY_KEY: Final = text_field(1, "asyncio.schedule.delay")
# A KeyValue of the delay up to its double: 9 bytes follow the key's and the value's headers.
DELAY: Final = bytes((9 << 3 | 2, len(_DELAY_KEY) + 11)) + _DELAY_KEY + bytes((2 << 3 | 2, 9, 0x21))
TRACE: Final = b"\x0a\x10"
PARENT: Final = b"\x22\x08"
SPAN_ID: Final = b"\x12\x08"
_START: Final = 7 << 3 | 1
_END: Final = 8 << 3 | 1
_LINK_FLAGS: Final = b"\x35" + _fixed32(_FLAGS_KNOWN)  # field 6, fixed32
LINK: Final = bytes((13 << 3 | 2, 28 + len(_LINK_FLAGS))) + _LINK_FLAGS + TRACE
FLAGS: Final = bytes((0x85, 0x01)) + _fixed32(_FLAGS_KNOWN)  # field 16, fixed32
FLAGS_OF_REMOTE: Final = bytes((0x85, 0x01)) + _fixed32(_FLAGS_KNOWN | _FLAGS_REMOTE)

# Trace, parent and flags come as one piece, since runs that follow each other mostly share it.
_pack_delay_link = Struct(f"<2s8sBQBQ{len(DELAY)}sd{len(LINK)}s16s2s8s").pack
_pack_delay = Struct(f"<2s8sBQBQ{len(DELAY)}sd").pack
_pack_plain = Struct("<2s8sBQBQ").pack
_KIND_AND_STATUS: Final = bytes((6 << 3, _KIND_INTERNAL)) + b"\x7a\x00"  # internal; unset
_PLAIN_SIZE: Final = 10 + 18
_DELAY_SIZE: Final = _PLAIN_SIZE + len(DELAY) + 8
_LINK_SIZE: Final = _DELAY_SIZE + len(LINK) + 16 + 10


# What a span of a kind begins with: tag and length, by the shape of what follows.
_PARENT_SIZE: Final = 10
_HEAD_SIZE: Final = len(TRACE) + 16 + len(FLAGS)


def _pack_kind(kind: Kind) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """The common part, then the beginnings of spans without parent or link, with parent, with link, with both."""
    common = common_fields(kind)
    begins = []
    for shape in (_DELAY_SIZE, _LINK_SIZE):
        for parent in (0, _PARENT_SIZE):
            begins.append(b"\x12" + varint(_HEAD_SIZE + parent + shape + len(common)))
    plain, with_parent, with_link, with_both = begins
    kind.packed = common, plain, with_parent, with_link, with_both
    return kind.packed  # type: ignore[no-any-return]


def encode_spans(spans: Iterable[Span]) -> bytes:
    """The spans as repeated field 2 of ``ScopeSpans``."""
    pieces: list[bytes] = []
    extend = pieces.extend
    last_trace = last_parent = b""
    head = b""
    pack_delay, pack_link = _pack_delay, _pack_delay_link
    id_tag, start_tag, end_tag, delay_prefix, link_prefix = SPAN_ID, _START, _END, DELAY, LINK
    for kind, trace, span_id, parent, start, end, delay, link_trace, link_id, extra in spans:
        common, plain, with_parent, with_link, with_both = kind.packed or _pack_kind(kind)
        if trace is not last_trace or parent is not last_parent:
            last_trace, last_parent = trace, parent
            head = TRACE + trace + FLAGS
            if parent:
                head += PARENT + parent
        if extra is None and delay >= 0.0:
            if link_trace:
                extend((
                    with_both if parent else with_link,
                    head,
                    pack_link(
                        id_tag, span_id, start_tag, start, end_tag, end, delay_prefix, delay,
                        link_prefix, link_trace, id_tag, link_id,
                    ),
                    common,
                ))  # fmt: skip
            else:
                extend((
                    with_parent if parent else plain,
                    head,
                    pack_delay(id_tag, span_id, start_tag, start, end_tag, end, delay_prefix, delay),
                    common,
                ))  # fmt: skip
            continue
        packed = _pack_plain(id_tag, span_id, start_tag, start, end_tag, end)
        if delay >= 0.0:
            packed += delay_prefix + _double(delay)
        if link_trace:
            packed += link_prefix + link_trace + id_tag + link_id
        own_head = head
        if extra is not None:
            packed += encode_extra(extra)
            if extra.remote_parent:
                own_head = TRACE + trace + FLAGS_OF_REMOTE + (PARENT + parent if parent else b"")
        pieces.append(field(2, own_head + packed + common))
    return b"".join(pieces)


def encode_extra(extra: Extra) -> bytes:
    """The fields of what few spans have."""
    out = attributes_field(9, extra.attributes)
    if extra.trace_state:
        out += text_field(3, extra.trace_state)
    for event in extra.events:
        out += field(
            11,
            b"\x09" + _fixed64(event.time_ns) + text_field(2, event.name) + attributes_field(3, event.attributes),
        )
    for link in extra.links:
        out += LINK + link.trace_id + SPAN_ID + link.span_id
    if extra.dropped_events:
        out += b"\x60" + varint(extra.dropped_events)
    if extra.dropped_links:
        out += b"\x70" + varint(extra.dropped_links)
    return out


def encode_resource(attributes: Mapping[str, Any]) -> bytes:
    """A ``Resource``."""
    return attributes_field(1, attributes)


def encode_scope(name: str, version: str) -> bytes:
    """An ``InstrumentationScope``."""
    return text_field(1, name) + (text_field(2, version) if version else b"")


def request_pieces(parts: Iterable[tuple[bytes, bytes, Sequence[Data]]]) -> list[Data]:
    """The whole request, in pieces; spans are handed on without a copy. Each part: resource, scope, and what
    ``encode_spans`` returned for them.
    """
    out: list[Data] = []
    for resource, scope, spans in parts:
        scope_field = field(1, scope)
        size = len(scope_field) + sum(map(len, spans))
        inner = varint(size)
        resource_field = field(1, resource)
        out.append(b"\x0a" + varint(len(resource_field) + 1 + len(inner) + size))
        out.append(resource_field + b"\x12" + inner + scope_field)
        out += spans
    return out
