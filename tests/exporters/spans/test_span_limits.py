"""OpenTelemetry's span limits: what is cut, what is counted, in our bytes and through the SDK's objects alike."""

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as sdk_encode
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
from opentelemetry.sdk.resources import Resource

from tests.helpers.otlp_receiver import attributes_of
from traceloop.exporters.otel_sdk.spans import readable_span
from traceloop.exporters.otlp.encoder import encode_spans
from traceloop.exporters.spans.limits import SpanLimits
from traceloop.exporters.spans.model import ITERATION, Extra, Kind, Link, SpanEvent

KIND = Kind("app.handler", {"asyncio.handle.kind": "task", "code.function.name": "app.handler", "thread.id": 7})
TRACE, ID = bytes(15) + b"\1", bytes(7) + b"\1"


def slow(stacks=3):
    return Extra(
        {"asyncio.slow": True, "asyncio.stall.cause": "off_cpu"},
        links=(Link(TRACE, bytes(7) + b"\7"),),
        events=tuple(SpanEvent("asyncio.stack", at, {"code.stacktrace": "x" * 50}) for at in range(12, 12 + stacks)),
    )


def span(extra=None, delay=0.5):
    return (KIND, TRACE, ID, b"", 10, 20, delay, TRACE, bytes(7) + b"\2", extra)


def decoded(environ, spans):
    """The spans as they arrive by our encoder, which must be how they arrive by the SDK's."""
    limits = SpanLimits.from_environ(environ, pytest.fail)
    cut = limits.apply(spans)
    ours = list(ScopeSpans.FromString(encode_spans(cut)).spans)
    by_sdk = sdk_encode([readable_span(each, Resource({})) for each in cut])
    theirs = [each for scope in by_sdk.resource_spans[0].scope_spans for each in scope.spans]
    for message in (*ours, *theirs):
        message.attributes.sort(key=lambda item: item.key)
    assert ours == theirs
    return ours


def test_none_are_set_and_nothing_is_done():
    assert SpanLimits.from_environ({}, pytest.fail) is None
    assert SpanLimits.from_environ({"OTEL_SPAN_LINK_COUNT_LIMIT": " "}, pytest.fail) is None


@pytest.mark.parametrize("name", ["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"])
@pytest.mark.parametrize("limit", range(8))
def test_attributes(name, limit):
    plain, special = decoded({name: str(limit)}, [span(), span(slow())])
    assert (len(plain.attributes), plain.dropped_attributes_count) == (min(limit, 4), max(0, 4 - limit))
    assert (len(special.attributes), special.dropped_attributes_count) == (min(limit, 6), max(0, 6 - limit))
    if limit >= 2:  # what is the run's own comes first
        assert {"asyncio.schedule.delay", "asyncio.slow"} <= set(attributes_of(special))


def test_the_spans_own_limit_overrules_the_general_one():
    environ = {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "3", "OTEL_ATTRIBUTE_COUNT_LIMIT": "0"}
    (got,) = decoded(environ, [span(slow(1))])
    assert len(got.attributes) == 3
    assert (len(got.events[0].attributes), got.events[0].dropped_attributes_count) == (0, 0)


def test_events_and_links():
    environ = {"OTEL_SPAN_EVENT_COUNT_LIMIT": "2", "OTEL_SPAN_LINK_COUNT_LIMIT": "1"}
    plain, special = decoded(environ, [span(), span(slow())])
    assert (len(plain.links), plain.dropped_links_count) == (1, 0)
    assert [event.time_unix_nano for event in special.events] == [12, 13]
    assert (special.dropped_events_count, len(special.links), special.dropped_links_count) == (1, 1, 1)
    (none,) = decoded({"OTEL_SPAN_LINK_COUNT_LIMIT": "0"}, [span()])
    assert (len(none.links), none.dropped_links_count) == (0, 1)


def test_lengths():
    environ = {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "5"}
    (got,) = decoded(environ, [span(slow())])
    assert attributes_of(got)["code.function.name"] == "app.h" and attributes_of(got)["asyncio.stall.cause"] == "off_c"
    assert attributes_of(got.events[0]) == {"code.stacktrace": "xxxxx"}
    assert (got.name, got.dropped_attributes_count) == ("app.handler", 0)
    # That of spans alone leaves events as they are.
    (got,) = decoded({"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "5"}, [span(slow())])
    assert attributes_of(got.events[0]) == {"code.stacktrace": "x" * 50}


def test_kinds_are_cut_once_and_left_alone_where_they_fit():
    limits = SpanLimits(attributes=5)
    first, second, iteration = limits.apply(
        [span(), span(), (ITERATION, TRACE, ID, b"", 1, 2, -1.0, b"", b"", Extra({"asyncio.iteration.callbacks": 2}))]
    )
    assert first[0] is second[0] is KIND and iteration[0] is ITERATION
    limits = SpanLimits(attributes=3)
    first, second = limits.apply([span(), span()])
    assert first[0] is second[0] is not KIND


@pytest.mark.parametrize("text", ["-1", "many", "1.5", "9" * 30])
def test_nonsense_is_told_and_no_limit(text):
    told = []
    assert SpanLimits.from_environ({"OTEL_SPAN_EVENT_COUNT_LIMIT": text}, told.append) is None
    assert len(told) == 1 and "OTEL_SPAN_EVENT_COUNT_LIMIT" in told[0]
