"""Packed spans, decoded with the published protobuf and compared with what the SDK's exporter makes of the same."""

import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as sdk_encode
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource

from traceloop.exporters.otel_sdk.spans import readable_span
from traceloop.exporters.otlp.encoder import encode_resource, encode_scope, encode_spans, request_pieces, varint
from traceloop.exporters.spans.model import Extra, Kind, Link, SpanEvent
from traceloop.exporters.spans.resource import SCOPE_NAME, own_version

RESOURCE = {"service.name": "test", "process.pid": 7, "ratio": 0.5, "flag": True, "list": ["a", "b"]}


def packed(spans, resource=RESOURCE):
    scope = encode_scope(SCOPE_NAME, own_version())
    data = b"".join(request_pieces([(encode_resource(resource), scope, [encode_spans(spans)])]))
    return ExportTraceServiceRequest.FromString(data)


def by_sdk(spans, resource=RESOURCE):
    made = Resource(resource)
    request = sdk_encode([readable_span(span, made) for span in spans])
    return ExportTraceServiceRequest.FromString(request.SerializeToString())


def assert_same(ours, theirs):
    # Attributes are a set to OpenTelemetry: their order means nothing.
    def sort(request):
        for resource in request.resource_spans:
            resource.resource.attributes.sort(key=lambda item: item.key)
            for scope in resource.scope_spans:
                for span in scope.spans:
                    span.attributes.sort(key=lambda item: item.key)
        return request

    assert str(sort(ours)) == str(sort(theirs))
    assert ours == theirs


KIND = Kind(
    "app.handler",
    {
        "asyncio.handle.kind": "task",
        "asyncio.task.name": "Task-1",
        "code.function.name": "app.handler",
        "code.file.path": "/srv/äpp.py",
        "code.line.number": 12,
        "thread.id": 4711,
        "thread.name": "MainThread",
    },
)


def span(kind=KIND, parent=b"", delay=1e-5, link=False, extra=None, start=10**18, end=10**18 + 5):
    trace, span_id = os.urandom(16), os.urandom(8)
    linked = (os.urandom(16), os.urandom(8)) if link else (b"", b"")
    return kind, trace, span_id, parent, start, end, delay, *linked, extra


SHAPES = [
    span(),
    span(parent=os.urandom(8)),
    span(link=True),
    span(parent=os.urandom(8), link=True),
    span(delay=-1.0),
    span(delay=-1.0, link=True),
    span(delay=0.0, link=True),
    span(end=10**18),
    span(
        parent=os.urandom(8),
        link=True,
        extra=Extra(
            {"asyncio.slow": True, "asyncio.blocked.callbacks": 3, "asyncio.stall.cause": "cpu", "x": 0.25},
            links=(Link(os.urandom(16), os.urandom(8)),),
            events=(SpanEvent("asyncio.stack", 10**18 + 1, {"code.stacktrace": "line\n" * 1000}),),
            trace_state="vendor=a,other=b",
            remote_parent=True,
        ),
    ),
    span(kind=Kind("asyncio.iteration", {}), delay=-1.0, extra=Extra({"asyncio.iteration.callbacks": 2})),
    span(kind=Kind("long" * 5000, {"code.file.path": "/p" * 9000}), link=True),
]


@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_each_shape_is_what_the_sdk_makes_of_it(index):
    assert_same(packed([SHAPES[index]]), by_sdk([SHAPES[index]]))


def test_all_shapes_in_one_request():
    assert_same(packed(SHAPES), by_sdk(SHAPES))


def test_spans_that_follow_each_other_in_one_trace():
    first = span(parent=os.urandom(8), link=True)
    spans = [first]
    for number in range(5):
        spans.append((first[0], first[1], bytes(8 * [number + 1]), first[3], *first[4:]))
    spans.append((first[0], first[1], bytes(8 * [99]), b"", *first[4:]))  # the same trace, without the parent
    assert_same(packed(spans), by_sdk(spans))


def test_two_processes_in_one_request():
    data = encode_spans([SHAPES[0]])
    scope = encode_scope(SCOPE_NAME, "")
    parts = [(encode_resource({"process.pid": pid}), scope, [data]) for pid in (1, 2)]
    request = ExportTraceServiceRequest.FromString(b"".join(request_pieces(parts)))
    assert [each.resource.attributes[0].value.int_value for each in request.resource_spans] == [1, 2]
    assert all(len(each.scope_spans[0].spans) == 1 for each in request.resource_spans)


VALUES = st.one_of(
    st.text(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.lists(st.text(max_size=5), max_size=3),
)
IDS = st.binary(min_size=8, max_size=8).filter(any)
TRACES = st.binary(min_size=16, max_size=16).filter(any)
ATTRIBUTES = st.dictionaries(st.text(min_size=1), VALUES, max_size=4)
TIMES = st.integers(0, 2**63 - 1)


@settings(max_examples=60)
@given(
    name=st.text(min_size=1),
    attributes=ATTRIBUTES,
    trace=TRACES,
    span_id=IDS,
    parent=st.one_of(st.just(b""), IDS),
    start=TIMES,
    end=TIMES,
    delay=st.one_of(st.just(-1.0), st.floats(0, 1e9)),
    link=st.one_of(st.none(), st.tuples(TRACES, IDS)),
    more=st.one_of(st.none(), ATTRIBUTES),
)
def test_any_field_values(name, attributes, trace, span_id, parent, start, end, delay, link, more):
    extra = None if more is None else Extra({key: value for key, value in more.items() if key not in attributes})
    made = (Kind(name, attributes), trace, span_id, parent, start, end, delay, *(link or (b"", b"")), extra)
    if any("\ud800" <= character <= "\udfff" for character in repr(made)):
        packed([made])
        return
    assert_same(packed([made]), by_sdk([made]))


def test_what_has_no_form_in_the_protocol_is_text_and_never_raises():
    odd = {"lone": "a\ud800b", "big": 2**70, "nan": math.nan, "none": None, "object": object, "map": {"a": [1, None]}}
    decoded = packed([span(kind=Kind("n\udcff", odd))]).resource_spans[0].scope_spans[0].spans[0]
    values = {item.key: item.value for item in decoded.attributes}
    assert values["lone"].string_value == "a\\ud800b"
    assert values["big"].string_value == str(2**70)
    assert math.isnan(values["nan"].double_value)
    assert values["none"].WhichOneof("value") is None
    assert values["map"].kvlist_value.values[0].key == "a"


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 16383, 16384, 2**32, 2**63, 2**64 - 1, -1])
def test_varints_decode(value):
    out, shift = 0, 0
    for byte in varint(value):
        out |= (byte & 0x7F) << shift
        shift += 7
    assert out == value & (2**64 - 1)
