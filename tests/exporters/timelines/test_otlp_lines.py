"""`traceloop export --format otlp`: each line is a request, read by the published protobuf's JSON parser."""

from __future__ import annotations

import base64
import json
from collections import Counter

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.helpers.exported import traceloop


def from_hex(value):
    """OTLP's JSON has ids in hexadecimal, where protobuf's own has base64.

    Its reader takes both alphabets, and decodes them as the one for URLs, which Python 3.15 warns about.
    """
    if isinstance(value, dict):
        return {
            key: base64.urlsafe_b64encode(bytes.fromhex(each)).decode()
            if key.endswith(("raceId", "panId"))
            else from_hex(each)
            for key, each in value.items()
        }
    return [from_hex(each) for each in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def spans(kept):
    done = traceloop("export", kept, "--format", "otlp", "-o", "-")
    assert (done.returncode, done.stderr) == (0, "")
    found = []
    for line in done.stdout.splitlines():
        request = json_format.ParseDict(from_hex(json.loads(line)), ExportTraceServiceRequest())
        (resource_spans,) = request.resource_spans
        names = {each.key for each in resource_spans.resource.attributes}
        assert {"service.name", "process.pid", "telemetry.distro.name"} <= names
        (scope_spans,) = resource_spans.scope_spans
        assert scope_spans.scope.name == "traceloop"
        found += scope_spans.spans
    return found


def attributes(span):
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_the_spans_that_a_run_sends(spans, kept):
    runs = [
        line
        for line in map(json.loads, traceloop("export", kept, "--format", "jsonl", "-o", "-").stdout.splitlines())
        if line["type"] == "run"
    ]
    counts = Counter(span.name for span in spans if "asyncio.handle.kind" in attributes(span))
    assert counts == Counter(run["callback"] for run in runs)
    assert all(0 <= span.end_time_unix_nano - span.start_time_unix_nano < 60 * 10**9 for span in spans)
    assert len({span.span_id for span in spans}) == len(spans)
    known = {(span.trace_id, span.span_id) for span in spans}
    links = [(link.trace_id, link.span_id) for span in spans for link in span.links]
    assert links and set(links) <= known
    assert all(len(span.trace_id) == 16 and len(span.span_id) == 8 for span in spans)


def test_offloads_and_stacks(spans):
    offloads = [span for span in spans if "asyncio.executor.name" in attributes(span)]
    assert len(offloads) == 4 and all(len(span.links) == 1 for span in offloads)
    slow = [span for span in spans if attributes(span).get("asyncio.slow") and span.name == "__main__.slow_one"]
    assert len(slow) == 1
    assert attributes(slow[0])["asyncio.stall.culprit"] == "__main__.spin"
    assert "in __main__.spin" in slow[0].events[0].attributes[0].value.string_value
