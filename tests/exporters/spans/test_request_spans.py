"""The span of a request: where its time went, under the server span that the application made."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cores import CORES
from tests.helpers.otlp_receiver import Receiver, attributes_of
from tests.helpers.paths import ROOT
from tests.reading.requests.test_server_spans import AIOHTTP, ASGI, DETAILS, HEAD, PATHS, TAIL
from traceloop.exporters.spans.builder import SpanBuilder
from traceloop.exporters.spans.requests import request_span
from traceloop.exporters.spans.sampling import Sampling
from traceloop.reading.decoding.decoded import SpanContext
from traceloop.reading.requests.totals import Request
from traceloop.record.sites import UNKNOWN_SITE


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("server", ["asgi", "aiohttp"])
def test_every_request_has_a_span_under_its_server_span(server: str, core: str, tmp_path: Path) -> None:
    pytest.importorskip("starlette" if server == "asgi" else "aiohttp")
    pytest.importorskip("opentelemetry.instrumentation.asgi")
    program = HEAD + PATHS + DETAILS + {"asgi": ASGI, "aiohttp": AIOHTTP}[server] + TAIL
    (tmp_path / "app.py").write_text(program.replace('spans="off", record=sys.argv[1]', 'spans="all"'))
    receiver = Receiver()
    try:
        environment = {
            "PYTHONPATH": str(ROOT),
            "PATH": os.environ["PATH"],
            "OTEL_PYTHON_TRACELOOP_CORE": core,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        }
        subprocess.run([sys.executable, "app.py"], cwd=tmp_path, env=environment, check=True, timeout=120)
        receiver.wait_for(lambda spans: sum(span.name == "asyncio.request" for span in spans) >= 9)
        spans = receiver.spans()
    finally:
        receiver.close()
    requests = [span for span in spans if span.name == "asyncio.request"]
    names = sorted(attributes_of(span)["asyncio.request.name"] for span in requests)
    assert names == ["GET /quick/{name}"] * 3 + ["GET /slow/{name}"] * 3 + ["__main__.plain"] * 3
    assert len({(span.trace_id, span.parent_span_id) for span in requests}) == 9  # each has a server span of its own
    runs = {(span.trace_id, span.parent_span_id) for span in spans if "asyncio.handle.kind" in attributes_of(span)}
    for span in requests:
        found = attributes_of(span)
        parts = {key: value for key, value in found.items() if key.startswith("asyncio.request.time.")}
        seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
        assert sum(parts.values()) == pytest.approx(seconds, abs=2e-6)
        assert sum(found["asyncio.request.parts.durations"]) == pytest.approx(seconds, abs=2e-6)
        if found["asyncio.request.name"] == "GET /slow/{name}":
            if parts.get("asyncio.request.time.running", 0.0) + parts.get("asyncio.request.time.ready", 0.0) >= 0.01:
                continue  # the machine is so busy that its timer of 10 ms was due before the loop could wait for it
            assert "asyncio.request.time.wait_timer" in parts
            moments = [attributes_of(event) for event in span.events if event.name == "asyncio.request.part"]
            assert "wait_timer" in [each["asyncio.request.part"] for each in moments]
            assert sum(each["asyncio.request.part.duration"] for each in moments) == pytest.approx(seconds, abs=2e-6)
            assert span.events[0].time_unix_nano == pytest.approx(span.start_time_unix_nano, abs=2000)
            assert server == "aiohttp" or (span.trace_id, span.parent_span_id) in runs


@pytest.mark.parametrize(
    ("spans", "flags", "seconds", "made"),
    [
        ("all", 1, 0.01, True),
        ("all", 0, 9.0, False),
        ("slow", 1, 0.01, False),
        ("slow", 1, 0.5, True),
        (0.0, 1, 0.01, False),
        (0.0, 1, 0.5, True),
    ],
)
def test_slow_ones_are_kept_where_the_application_sampled_them(
    spans: str | float, flags: int, seconds: float, made: bool
) -> None:
    builder = SpanBuilder(lambda number: UNKNOWN_SITE, Sampling(spans), 0)
    builder._add_context(SpanContext(5, "1" * 32, "2" * 16, flags, ""))
    request = Request("app.f", 10.0, seconds, {("wait_timer", "app.f:3 asyncio.sleep"): seconds})
    assert (request_span(request, 5, builder, 0.1) is not None) == made
    assert request_span(request, 6, builder, 0.1) is None


def test_the_parts_are_events_at_their_moments() -> None:
    builder = SpanBuilder(lambda number: UNKNOWN_SITE, Sampling("all"), 1_000_000_000)
    builder._add_context(SpanContext(5, "1" * 32, "2" * 16, 1, ""))
    moments = (
        (10.0, 10.25, "running", ""),
        (10.25, 11.0, "wait_timer", "app.f:3 asyncio.sleep"),
        (11.0, 11.5, "ready", "behind app.g"),
    )
    span = request_span(Request("app.f", 10.0, 1.5, {("running", ""): 1.5}, 1.0, moments), 5, builder, 0.1)
    assert span is not None and span[-1] is not None
    assert [(event.name, event.time_ns, event.attributes) for event in span[-1].events] == [
        (
            "asyncio.request.part",
            11_000_000_000,
            {"asyncio.request.part": "running", "asyncio.request.part.duration": 0.25},
        ),
        (
            "asyncio.request.part",
            11_250_000_000,
            {
                "asyncio.request.part": "wait_timer",
                "asyncio.request.part.duration": 0.75,
                "asyncio.request.part.detail": "app.f:3 asyncio.sleep",
            },
        ),
        (
            "asyncio.request.part",
            12_000_000_000,
            {
                "asyncio.request.part": "ready",
                "asyncio.request.part.duration": 0.5,
                "asyncio.request.part.detail": "behind app.g",
            },
        ),
    ]


def test_of_many_parts_the_longest_are_events() -> None:
    builder = SpanBuilder(lambda number: UNKNOWN_SITE, Sampling("all"), 0)
    builder._add_context(SpanContext(5, "1" * 32, "2" * 16, 1, ""))
    ends = [10.0]
    for number in range(100):
        ends.append(ends[-1] + (0.5 if number % 5 == 2 else 0.001))
    moments = tuple((*pair, "running", "") for pair in itertools.pairwise(ends))
    span = request_span(Request("app.f", 10.0, ends[-1] - 10.0, {}, 1.0, moments), 5, builder, 0.1)
    assert span is not None and span[-1] is not None
    events = span[-1].events
    assert len(events) == 32 and sorted(events, key=lambda event: event.time_ns) == list(events)
    assert sum(event.attributes["asyncio.request.part.duration"] > 0.4 for event in events) == 20
