"""Spans by gRPC, through the official exporter, to a real gRPC server."""

import threading
from concurrent import futures

import pytest

from tests.helpers.collected_run import STEPS, Run, until
from tests.helpers.otlp_receiver import attributes_of

grpc = pytest.importorskip("grpc")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc  # noqa: E402


class Servicer(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self):
        self.requests = []
        self.metadata = []
        self.refusals = 0
        self.arrived = threading.Condition()

    def Export(self, request, context):
        with self.arrived:
            if self.refusals:
                self.refusals -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "later")
            self.requests.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            self.arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self):
        with self.arrived:
            requests = list(self.requests)
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def servicer():
    made = Servicer()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)
    made.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield made
    server.stop(None).wait(10)


@pytest.fixture
def run(tmp_path, servicer):
    runs = []

    def make(environ, **choices):
        folder = tmp_path / "run"
        folder.mkdir(mode=0o700)
        environ = {"GRPC_ENABLE_FORK_SUPPORT": "0", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", **environ}
        runs.append(Run(folder, environ, **choices))
        return runs[-1]

    yield make
    for each in runs:
        each.close()


def steps(servicer):
    return [span for span in servicer.spans() if span.name == "__main__.steps"]


@pytest.mark.parametrize("by_option", [False, True])
def test_every_span_arrives_once_with_headers_and_resource(run, servicer, by_option):
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=a%20b", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
    environ["OTEL_SERVICE_NAME"] = "shop"
    if by_option:
        made = run(environ, otlp_endpoint=servicer.url)
    else:
        made = run({**environ, "OTEL_EXPORTER_OTLP_ENDPOINT": servicer.url})
    made.drained(made.start(STEPS + "    end()\n"))
    until(lambda: len(steps(servicer)) >= 1001)
    spans = servicer.spans()
    assert len({span.span_id for span in spans}) == len(spans) and len(steps(servicer)) == 1001
    until(lambda: made.value("traceloop_spans_exported_total") == len(spans))
    assert servicer.metadata[0]["x-tenant"] == "a b"
    assert attributes_of(servicer.requests[0].resource_spans[0].resource)["service.name"] == "shop"


def test_a_receiver_that_is_unavailable_for_a_while(run, servicer):
    servicer.refusals = 1
    made = run({"OTEL_EXPORTER_OTLP_ENDPOINT": servicer.url})
    made.drained(made.start(STEPS + "    end()\n"))
    until(lambda: len(steps(servicer)) >= 1001)
    until(lambda: made.value("traceloop_spans_exported_total") == len(servicer.spans()))
    assert made.value("traceloop_spans_dropped_total") == 0
