"""Services that OpenTelemetry's own instrumentation watches too: one trace for a request, nothing twice, no orphans."""

from collections import Counter

import pytest

from tests.helpers.collected_run import Run, until
from tests.helpers.otlp_receiver import Receiver, attributes_of

pytest.importorskip("opentelemetry.instrumentation.asgi")
pytest.importorskip("opentelemetry.instrumentation.asyncio")
pytest.importorskip("uvicorn")

REQUESTS = 5
PROGRAM = """
import http.client, socket
import uvicorn
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.asyncio import AsyncioInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
AsyncioInstrumentor().instrument()

def look_up():
    time.sleep(0.01)

async def helper():
    await asyncio.sleep(0.01)

async def app(scope, receive, send):
    await asyncio.sleep(0.01)
    await asyncio.gather(helper(), helper())
    await asyncio.to_thread(look_up)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})

listener = socket.create_server(("127.0.0.1", 0))
server = uvicorn.Server(uvicorn.Config(OpenTelemetryMiddleware(app), loop="none", lifespan="off", log_level="error"))

def ask():
    for number in range(REQUESTS):
        connection = http.client.HTTPConnection(*listener.getsockname(), timeout=120)
        headers = {"traceparent": f"00-{number + 1:032x}-{7:016x}-01"} if number % 2 else {}
        connection.request("GET", f"/{number}", headers=headers)
        assert connection.getresponse().read() == b"ok"
        connection.close()
    server.should_exit = True

async def main():
    asking = asyncio.create_task(asyncio.to_thread(ask))
    await server.serve([listener])
    await asking

run(main())
provider.shutdown()
end()
"""


@pytest.fixture(scope="module")
def spans(tmp_path_factory):
    receiver = Receiver()
    folder = tmp_path_factory.mktemp("services") / "run"
    folder.mkdir(mode=0o700)
    run = Run(
        folder, {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_PYTHON_ASYNCIO_COROUTINE_NAMES_TO_TRACE": "helper"}
    )
    try:
        program = run.start(PROGRAM.replace("REQUESTS", str(REQUESTS)))
        run.drained(program)
        assert program.wait(120) == 0
        count = until(lambda: run.value("traceloop_records_total"))
        assert count

        def all_in(spans):
            return len(offloads(spans)) >= REQUESTS and len(servers(spans)) >= REQUESTS

        receiver.wait_for(all_in)
        until(lambda: (run.value("traceloop_spans_exported_total") or 0) >= len(ours(receiver)))
        run.handle.stop()
        yield receiver
    finally:
        run.close()
        receiver.close()


def ours(receiver):
    return [
        span
        for resource in receiver.resource_spans()
        for scope in resource.scope_spans
        if scope.scope.name == "traceloop"
        for span in scope.spans
    ]


def offloads(spans):
    return [span for span in spans if span.name == "__main__.look_up"]


def servers(spans):
    return [span for span in spans if span.name.startswith("GET /") and not span.name.endswith(("send", "receive"))]


def test_a_request_is_one_trace_with_handles_and_offload(spans):
    received = spans.spans()
    requests = servers(received)
    assert len(requests) == REQUESTS
    for request in requests:
        below = [span for span in received if span.parent_span_id == request.span_id]
        assert all(span.trace_id == request.trace_id for span in below)
        assert len(offloads(below)) == 1
        runs = [span for span in below if "asyncio.handle.kind" in attributes_of(span)]
        # Two sleeps, two helpers, the offload: at least a step after each.
        assert len(runs) >= 5
        assert all(request.start_time_unix_nano <= span.end_time_unix_nano for span in runs)
    # Those of callers keep the callers' traces.
    assert {span.trace_id.hex() for span in requests} >= {f"{number + 1:032x}" for number in range(1, REQUESTS, 2)}


def test_nothing_is_there_twice(spans):
    received = spans.spans()
    assert len({(span.trace_id, span.span_id) for span in received}) == len(received)
    names = Counter(span.name for span in received)
    assert names["asyncio coro-helper"] == 2 * REQUESTS  # the instrumentation's own, and no more of them
    assert names["__main__.look_up"] == REQUESTS


def test_what_the_instrumentation_wraps_bears_its_own_name(spans):
    ours_ = Counter(span.name for span in ours(spans))
    assert ours_["__main__.helper"] == 4 * REQUESTS  # two of two steps each
    assert not [name for name in ours_ if "AsyncioInstrumentor" in name]


def test_no_span_names_a_parent_or_a_link_that_is_not_there(spans):
    received = spans.spans()
    ids = {(span.trace_id, span.span_id) for span in received}
    callers = [span for span in received if span.parent_span_id == (7).to_bytes(8, "big")]
    assert set(map(id, callers)) <= set(map(id, servers(received)))
    for span in received:
        if span.parent_span_id and span.parent_span_id != (7).to_bytes(8, "big"):
            assert (span.trace_id, span.parent_span_id) in ids, span.name
        assert all((link.trace_id, link.span_id) in ids for link in span.links)


def test_exporting_makes_no_spans(spans):
    assert not [span for span in spans.spans() if "v1/traces" in str(span) or span.name == "POST"]
