"""OpenTelemetry's variables from the environment of a real program to a real receiver."""

import os
from pathlib import Path

import pytest

from tests.helpers import paths
from tests.helpers.collected_run import STEPS, Run, until
from tests.helpers.otlp_receiver import Receiver, attributes_of

CERTIFICATE = str(paths.CERTIFICATE)
PROGRAM = STEPS + "    end()\n"


@pytest.fixture
def start(tmp_path):
    runs = []

    def make(environ, receiver, program=PROGRAM, **choices):
        folder = tmp_path / f"run{len(runs)}"
        folder.mkdir(mode=0o700)
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **environ}
        run = Run(folder, environ, **choices)
        runs.append(run)
        run.drained(run.start(program))
        return run

    yield make
    for each in runs:
        each.close()


@pytest.fixture
def receiver():
    made = []

    def make(**choices):
        made.append(Receiver(**choices))
        return made[-1]

    yield make
    for each in made:
        each.close()


def steps(spans):
    return [span for span in spans if span.name == "__main__.steps"]


def test_tls_gzip_headers_and_resource(start, receiver):
    to = receiver(certificate=CERTIFICATE)
    start(
        {
            "OTEL_EXPORTER_OTLP_CERTIFICATE": CERTIFICATE,
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "gzip",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Basic%20abc,x-tenant=one",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-tenant=two",
            "OTEL_SERVICE_NAME": "shop",
            "OTEL_RESOURCE_ATTRIBUTES": "service.version=1.2,service.name=other",
            "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "os",
            "OTEL_PROPAGATORS": "nobodys,b3",  # nothing of ours goes along with requests: it is not even looked at
        },
        to,
    )
    assert len(steps(to.wait_for(lambda spans: len(steps(spans)) >= 1001))) == 1001
    headers = to.headers[0]
    assert (headers["authorization"], headers["x-tenant"]) == ("Basic abc", "two")
    assert headers["Content-Encoding"] == "gzip"
    resource = attributes_of(to.resource_spans()[0].resource)
    assert (resource["service.name"], resource["service.version"]) == ("shop", "1.2")
    assert resource["os.type"] == "linux"


def test_a_clients_certificate(start, receiver):
    to = receiver(certificate=CERTIFICATE, clients=CERTIFICATE)
    # The library's own variable is for those who say nothing of OpenTelemetry's.
    environ = {"OTEL_EXPORTER_OTLP_CERTIFICATE": CERTIFICATE, "REQUESTS_CA_BUNDLE": os.devnull}
    start({**environ, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": CERTIFICATE}, to)
    assert len(steps(to.wait_for(lambda spans: len(steps(spans)) >= 1001))) == 1001


def test_a_receiver_that_cannot_be_trusted_gets_nothing(start, receiver):
    to = receiver(certificate=CERTIFICATE)
    run = start({}, to)
    run.handle.stop()
    assert to.spans() == []


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"OTEL_TRACES_SAMPLER": "always_off"}, (0, 0)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, (0, 0)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, (350, 650)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, (1001, 1001)),
        ({"OTEL_SDK_DISABLED": "TRUE"}, (0, 0)),
    ],
)
def test_samplers(start, receiver, environ, wanted):
    to = receiver()
    run = start({"OTEL_BSP_SCHEDULE_DELAY": "60000", **environ}, to)
    run.handle.stop()
    until(lambda: not Path(f"/proc/{run.handle.pid}").exists())
    least, most = wanted
    assert least <= len(steps(to.spans())) <= most


PARENTS = """
    from opentelemetry import trace
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
    def work():
        pass
    async def sampled():
        await asyncio.to_thread(work)
    async def unsampled():
        await asyncio.to_thread(work)
    async def alone():
        await asyncio.to_thread(work)
    async def main():
        await asyncio.create_task(alone())
        for step, flags in ((sampled, 1), (unsampled, 0)):
            # Another service's decision, in a trace that no ratio keeps.
            with trace.use_span(NonRecordingSpan(SpanContext(2**128 - 1, 7, True, TraceFlags(flags)))):
                task = asyncio.create_task(step())
            await task
    run(main())
    end()
"""


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, {"sampled", "alone"}),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, {"sampled"}),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, {"sampled"}),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, set()),
    ],
)
def test_samplers_that_ask_the_parent(start, receiver, environ, wanted):
    to = receiver()
    # A slow run keeps its span whatever the sampler says, and on a busy machine any run may be slow.
    patient = {"OTEL_PYTHON_TRACELOOP_SLOW_THRESHOLD": "600"}
    run = start({"OTEL_BSP_SCHEDULE_DELAY": "60000", **patient, **environ}, to, PARENTS)
    run.handle.stop()
    until(lambda: not Path(f"/proc/{run.handle.pid}").exists())
    spans = to.spans()
    assert {span.name.removeprefix("__main__.") for span in spans} & {"sampled", "unsampled", "alone"} == wanted
    offloads = [span for span in spans if span.name == "__main__.work"]
    assert len(offloads) == len(wanted)
    assert sum(span.trace_id == b"\xff" * 16 for span in offloads) == ("sampled" in wanted)


def test_batches(start, receiver):
    to = receiver()
    start({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100", "OTEL_BSP_SCHEDULE_DELAY": "50"}, to)
    spans = to.wait_for(lambda spans: len(steps(spans)) >= 1001)
    assert len(to.requests) >= len(spans) / 100
    assert max(len(each.scope_spans[0].spans) for each in to.resource_spans()) <= 100


def test_a_queue_that_is_too_small_drops_and_counts(start, receiver):
    to = receiver()
    run = start({"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_SCHEDULE_DELAY": "60000"}, to)
    until(lambda: (run.value("traceloop_spans_dropped_total", reason="queue_full") or 0) >= 900)


def test_a_queue_that_is_smaller_than_what_one_look_finds_is_filled(start, receiver):
    to = receiver()
    start({"OTEL_BSP_MAX_QUEUE_SIZE": "200", "OTEL_BSP_SCHEDULE_DELAY": "50"}, to)
    assert len(to.wait_for(lambda spans: len(spans) >= 200)) >= 200


def test_limits(start, receiver):
    to = receiver()
    start({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "2", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "4"}, to)
    spans = steps(to.wait_for(lambda spans: len(steps(spans)) >= 1001))
    assert all(len(span.attributes) == 2 and span.dropped_attributes_count for span in spans)
    values = [value for span in spans for value in attributes_of(span).values() if isinstance(value, str)]
    assert values and max(map(len, values)) == 4
