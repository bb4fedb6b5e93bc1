"""A record as OTLP JSON lines: the file format of OpenTelemetry's collector (``otlpjsonfile`` reads it).

Each line is an ``ExportTraceServiceRequest`` in OTLP's JSON (https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/):
ids in hexadecimal, 64-bit integers as strings, keys in lowerCamelCase. The spans are those that ``traceloop run`` sends
(docs/telemetry.md).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, Final

from traceloop.reading.follower import Chunk, ProcessFollower
from traceloop.settings import Settings

from ..span_pipeline import SpanPipeline
from ..spans.model import Extra, Kind, Span
from ..spans.resource import SCOPE_NAME, own_version
from ..spans.sinks import Exported, SentHook
from .model import Source

_encode: Final[Callable[[Any], str]] = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_SPANS_OF_A_LINE: Final = 2000
_INTERNAL: Final = 1
# The beginning of the delay's attribute. Its value is written as an integer with an exponent: a third of the time that
# a float's shortest digits take.
_DELAY: Final = '{"key":"asyncio.schedule.delay","value":{"doubleValue":'
# The exporters' variables that describe the service that the spans belong to.
_HEEDED: Final = ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES")


def make(out: BinaryIO, source: Source) -> OtlpLines:
    """The writer of this format."""
    return OtlpLines(out)


class OtlpLines:
    """Writes the lines."""

    def __init__(self, out: BinaryIO) -> None:
        environ = {name: os.environ[name] for name in _HEEDED if name in os.environ}
        self._problems: list[str] = []
        self._pipeline = SpanPipeline(Settings(spans="all"), environ, self._problems.append, [_File(out)])
        self._moment = 0.0

    @property
    def notices(self) -> Sequence[str]:
        """What the pipeline had to say."""
        return self._problems

    def take(self, chunks: Sequence[Chunk]) -> None:
        """Writes what was read."""
        # What waits for more to be known waits by the record's time, not by the clock.
        self._moment = max([self._moment, *(chunk.decoded.runs[-1][2] for chunk in chunks if chunk.decoded.runs)])
        self._pipeline.take(chunks, self._moment)

    def end_process(self, process: ProcessFollower) -> None:
        """Writes what was held back."""
        self._pipeline.end_process(process)

    def finish(self) -> None:
        """Writes what was held back of processes that have not ended."""
        for process in self._pipeline.followers():
            self._pipeline.end_process(process)


class _File:
    """A sink of spans that writes them at once."""

    def __init__(self, out: BinaryIO) -> None:
        self.exported = Exported()
        self._out = out
        self._resources: dict[object, str] = {}
        self._scope = _encode({"name": SCOPE_NAME, "version": own_version()})

    def put(
        self, process: object, resource: Mapping[str, Any], spans: Sequence[Span], on_sent: SentHook | None = None
    ) -> None:
        """Writes the spans of one process."""
        known = self._resources.get(process)
        if known is None:
            known = self._resources[process] = _encode({"attributes": _attributes(resource)})
        for first in range(0, len(spans), _SPANS_OF_A_LINE):
            text = _spans(spans[first : first + _SPANS_OF_A_LINE])
            of_scope = f'{{"scope":{self._scope},"spans":[{text}]}}'
            line = f'{{"resourceSpans":[{{"resource":{known},"scopeSpans":[{of_scope}]}}]}}\n'
            self._out.write(line.encode("ascii"))
        self.exported.count_sent(len(spans))

    def forget(self, process: object) -> None:
        """The process is over."""
        self._resources.pop(process, None)

    def flush(self, timeout: float) -> bool:
        """Nothing waits."""
        return True

    def shutdown(self, timeout: float) -> None:
        """Nothing waits."""


def _spans(spans: Sequence[Span]) -> str:
    """The spans, with commas between. Those that have nothing but what their kind has, a delay and a link are most:
    they are formatted in one go.
    """
    texts: list[str] = []
    last_trace, trace_hex = b"", ""
    for kind, trace, span_id, parent, start, end, delay, link_trace, link_id, extra in spans:
        if trace is not last_trace:
            last_trace, trace_hex = trace, trace.hex()
        head, comma = kind.packed or _packed(kind)
        if extra is None and link_trace and 0.0 <= delay < math.inf:
            texts.append(
                f'{{"traceId":"{trace_hex}","spanId":"{span_id.hex()}","parentSpanId":"{parent.hex()}",'
                f'"startTimeUnixNano":"{start}","endTimeUnixNano":"{end}","kind":{_INTERNAL},'
                f"{head}{comma}{_DELAY}{int(delay * 1e9)}e-9}}}}],"
                f'"links":[{{"traceId":"{link_trace.hex()}","spanId":"{link_id.hex()}"}}],"status":{{}}}}'
            )
            continue
        attributes = [f"{_DELAY}{int(delay * 1e9)}e-9}}}}"] if 0.0 <= delay < math.inf else []
        links = [f'{{"traceId":"{link_trace.hex()}","spanId":"{link_id.hex()}"}}'] if link_trace else []
        rest = ""
        if extra is not None:
            rest, more, more_links = _extra(extra)
            attributes += more
            links += more_links
        texts.append(
            f'{{"traceId":"{trace_hex}","spanId":"{span_id.hex()}","parentSpanId":"{parent.hex()}",'
            f'"startTimeUnixNano":"{start}","endTimeUnixNano":"{end}","kind":{_INTERNAL},'
            f"{head}{comma if attributes else ''}{','.join(attributes)}],"
            f'"links":[{",".join(links)}]{rest},"status":{{}}}}'
        )
    return ",".join(texts)


def _packed(kind: Kind) -> tuple[str, str]:
    """The name, with the list of attributes begun by those that all spans of a kind have; what goes before another."""
    attributes = ",".join(_encode(each) for each in _attributes(kind.attributes))
    packed = (f'"name":{_encode(kind.name)},"attributes":[{attributes}', "," if attributes else "")
    kind.packed = packed
    return packed


def _extra(extra: Extra) -> tuple[str, list[str], list[str]]:
    """Further fields, attributes and links."""
    rest = ""
    if extra.trace_state:
        rest += f',"traceState":{_encode(extra.trace_state)}'
    if extra.events:
        events = [
            {"timeUnixNano": str(each.time_ns), "name": each.name, "attributes": _attributes(each.attributes)}
            for each in extra.events
        ]
        rest += f',"events":{_encode(events)}'
    links = [f'{{"traceId":"{link.trace_id.hex()}","spanId":"{link.span_id.hex()}"}}' for link in extra.links]
    return rest, [_encode(each) for each in _attributes(extra.attributes)], links


def _attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items() if value is not None]


def _value(value: Any) -> dict[str, Any]:
    """An ``AnyValue``. In OTLP's JSON, 64-bit integers and numbers that JSON does not have (NaN) are strings."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value if math.isfinite(value) else {math.inf: "Infinity"}.get(value, "NaN")}
    if isinstance(value, list | tuple):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    return {"stringValue": str(value)}
