"""Packs metrics into the bytes of an OTLP ``ExportMetricsServiceRequest``, and sends them.

The fields are those of opentelemetry/proto/metrics/v1/metrics.proto of opentelemetry-proto 1.x; the tests decode with
the published package. Once in a while and a few thousand points: nothing here is made to be fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from struct import Struct
from typing import Any, Final

from ..metrics.points import SCALE, Distribution, Family, Point
from ..spans.resource import SCOPE_NAME, own_version
from .connection import OtlpConnection, Waiting
from .encoder import attributes_field, encode_resource, encode_scope, field, text_field, varint
from .settings import OtlpSettings

_fixed64: Final = Struct("<Q").pack
_signed64: Final = Struct("<q").pack
_double: Final = Struct("<d").pack
_DELTA: Final = b"\x10\x01"
_CUMULATIVE: Final = b"\x10\x02"
_FIELD_OF: Final = {"gauge": 5, "sum": 7, "histogram": 9, "exponential": 10}


def encode_metrics(families: Iterable[Family], resource: Mapping[str, Any], *, exponential: bool = False) -> bytes:
    """The whole request. ``exponential``: histograms as exponential ones."""
    scope = field(1, encode_scope(SCOPE_NAME, own_version()))
    metrics = b"".join(field(2, _metric(family, exponential)) for family in families if family.points)
    return field(1, field(1, encode_resource(resource)) + field(2, scope + metrics))


def _metric(family: Family, exponential: bool) -> bytes:
    kind = "exponential" if exponential and family.kind == "histogram" else family.kind
    point = {"histogram": _histogram_point, "exponential": _exponential_point}.get(kind, _number_point)
    data = b"".join(field(1, point(each)) for each in family.points)
    if kind != "gauge":
        data += _DELTA if family.delta else _CUMULATIVE
    if kind == "sum":
        data += b"\x18\x01"  # monotonic
    head = text_field(1, family.name) + text_field(2, family.description) + text_field(3, family.unit)
    return head + field(_FIELD_OF[kind], data)


def _times(point: Point) -> bytes:
    start = b"\x11" + _fixed64(point.start_ns) if point.start_ns else b""
    return start + b"\x19" + _fixed64(point.time_ns)


def _number_point(point: Point) -> bytes:
    value = point.value
    assert not isinstance(value, Distribution)
    packed = b"\x31" + _signed64(value) if isinstance(value, int) else b"\x21" + _double(value)
    return attributes_field(7, point.attributes) + _times(point) + packed


def _histogram_point(point: Point) -> bytes:
    value = point.value
    assert isinstance(value, Distribution)
    return (
        attributes_field(9, point.attributes)
        + _times(point)
        + _count_and_sum(value)
        + field(6, b"".join(map(_fixed64, value.explicit())))
        + field(7, b"".join(map(_double, value.bounds.published)))
        + _exemplars(8, value)
        + (b"\x61" + _double(value.maximum) if value.maximum > 0.0 else b"")
    )


def _exponential_point(point: Point) -> bytes:
    value = point.value
    assert isinstance(value, Distribution)
    zero_count, zero_threshold, offset, counts = value.exponential()
    buckets = b"\x08" + varint(_zigzag(offset)) + field(2, b"".join(map(varint, counts)))
    return (
        attributes_field(1, point.attributes)
        + _times(point)
        + _count_and_sum(value)
        + b"\x30"
        + varint(_zigzag(SCALE))
        + b"\x39"
        + _fixed64(zero_count)
        + (field(8, buckets) if counts else b"")
        + _exemplars(11, value)
        + (b"\x69" + _double(value.maximum) if value.maximum > 0.0 else b"")
        + b"\x71"
        + _double(zero_threshold)
    )


def _count_and_sum(value: Distribution) -> bytes:
    return b"\x21" + _fixed64(value.total) + b"\x29" + _double(value.sum)


def _exemplars(number: int, value: Distribution) -> bytes:
    return b"".join(
        field(
            number,
            b"\x11" + _fixed64(int(each.when * 1e9)) + b"\x19" + _double(each.value)
            + field(4, bytes.fromhex(each.span_id)) + field(5, bytes.fromhex(each.trace_id)),
        )
        for each in value.exemplars.values()
    )  # fmt: skip


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


class OtlpMetrics:
    """Sends metrics to an OTLP/HTTP receiver. For one thread."""

    def __init__(self, settings: OtlpSettings, exponential: bool, notice: Callable[[str], None]) -> None:
        """Raises ImportError where ``requests`` is not installed."""
        self._connection = OtlpConnection(settings, "metrics", notice)
        self._exponential = exponential

    def export(self, families: list[Family], resource: Mapping[str, Any], waiting: Waiting) -> bool:
        """Whether they have arrived."""
        data = encode_metrics(families, resource, exponential=self._exponential)
        return not self._connection.send([data], waiting).reason

    def shutdown(self, timeout: float) -> None:
        """Closes the connection."""
        self._connection.close()
