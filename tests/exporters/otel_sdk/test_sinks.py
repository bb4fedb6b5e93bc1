"""Spans through the SDK's exporter interface: any exporter, and the application's own provider."""

import threading
import time

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.helpers.waiting import PATIENCE
from traceloop.exporters.otel_sdk.sinks import ProviderSink, SdkSink, load_exporter
from traceloop.exporters.span_exporters import make_sinks, sampling_of, wanted_exporters
from traceloop.exporters.spans.model import Extra, Kind, Link, SpanEvent
from traceloop.settings import Settings

import pytest  # isort: skip

KIND = Kind("app.handler", {"asyncio.handle.kind": "soon", "code.line.number": 3})


def make_spans(count):
    return [
        (KIND, bytes(15) + b"\1", number.to_bytes(8, "big"), b"", 10, 20, 0.5, b"", b"", None)
        for number in range(1, count + 1)
    ]


def make_sink(exporter, environ=None):
    notices = []
    sink = SdkSink("test", "", Settings(), environ or {"OTEL_BSP_SCHEDULE_DELAY": "20"}, notices.append, exporter)
    sink.notices = notices
    return sink


def test_an_exporter_gets_the_spans_with_every_field():
    exporter = InMemorySpanExporter()
    sink = make_sink(exporter)
    extra = Extra(
        {"asyncio.slow": True},
        links=(Link(bytes(15) + b"\5", bytes(7) + b"\6"),),
        events=(SpanEvent("asyncio.stack", 15, {"code.stacktrace": "x"}),),
        trace_state="a=b",
        remote_parent=True,
    )
    span = (KIND, bytes(15) + b"\1", bytes(7) + b"\2", bytes(7) + b"\3", 10, 20, 0.5, bytes(15) + b"\4",
            bytes(7) + b"\4", extra)  # fmt: skip
    sink.put("p", {"service.name": "test"}, [span])
    assert sink.flush(PATIENCE)
    (got,) = exporter.get_finished_spans()
    assert (got.name, got.start_time, got.end_time) == ("app.handler", 10, 20)
    assert (got.context.trace_id, got.context.span_id) == (1, 2)
    assert (got.parent.trace_id, got.parent.span_id, got.parent.is_remote) == (1, 3, True)
    assert got.context.trace_flags.sampled and dict(got.context.trace_state) == {"a": "b"}
    assert got.attributes == {**KIND.attributes, "asyncio.schedule.delay": 0.5, "asyncio.slow": True}
    assert [link.context.span_id for link in got.links] == [4, 6]
    assert [(event.name, event.timestamp) for event in got.events] == [("asyncio.stack", 15)]
    assert dict(got.resource.attributes) == {"service.name": "test"}
    assert got.instrumentation_scope.name == "traceloop"
    sink.shutdown(5)
    assert sink.exported.sent == 1


def test_batches_and_a_full_queue():
    gate = threading.Event()
    sizes = []

    class Slow(SpanExporter):
        def export(self, spans):
            sizes.append(len(spans))
            gate.wait(120)
            return SpanExportResult.SUCCESS

    variables = {
        "OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "20", "OTEL_BSP_SCHEDULE_DELAY": "10"
    }  # fmt: skip
    sink = make_sink(Slow(), variables)
    for _ in range(20):
        sink.put("p", {}, make_spans(20))
    assert sink.exported.dropped["queue_full"] >= 280
    gate.set()
    assert sink.flush(PATIENCE)
    assert sink.exported.sent + sink.exported.dropped["queue_full"] == 400
    assert max(sizes) == 20
    sink.shutdown(5)


def test_more_than_the_queue_takes_fills_it():
    exporter = InMemorySpanExporter()
    sink = make_sink(exporter, {"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_SCHEDULE_DELAY": "10"})
    sink.put("p", {}, make_spans(25))
    assert sink.flush(PATIENCE)
    sink.shutdown(5)
    assert sink.exported.sent >= 10
    assert sink.exported.sent + sink.exported.dropped["queue_full"] == 25
    assert len(exporter.get_finished_spans()) == sink.exported.sent


def test_exporters_that_fail_and_raise_are_counted_and_told_once():
    answers = iter([SpanExportResult.FAILURE, None, SpanExportResult.SUCCESS])

    class Failing(SpanExporter):
        def export(self, spans):
            answer = next(answers)
            if answer is None:
                raise OSError("gone")
            return answer

    sink = make_sink(Failing())
    for _ in range(3):
        sink.put("p", {}, make_spans(2))
        assert sink.flush(PATIENCE)
    assert (sink.exported.sent, sink.exported.dropped["rejected"]) == (2, 4)
    assert len(sink.notices) == 1
    sink.shutdown(5)


@pytest.mark.timing
def test_a_shutdown_is_bounded():
    gate = threading.Event()

    class Hanging(SpanExporter):
        def export(self, spans):
            gate.wait(120)
            return SpanExportResult.SUCCESS

        def shutdown(self):
            gate.wait(120)

    sink = make_sink(Hanging())
    sink.put("p", {}, make_spans(3))
    start = time.monotonic()
    sink.shutdown(0.3)
    assert time.monotonic() - start < 5
    gate.set()


def test_the_applications_own_provider():
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "app"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    sink = ProviderSink(provider)
    sink.put("p", {"service.name": "ours"}, make_spans(3))
    got = exporter.get_finished_spans()
    assert len(got) == 3 and got[0].resource.attributes["service.name"] == "app"
    provider.shutdown()
    with pytest.raises(TypeError):
        ProviderSink(object())


@pytest.mark.parametrize(
    ("choices", "environ", "wanted"),
    [
        ({}, {}, []),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, ["otlp"]),
        ({}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a"}, ["otlp"]),
        ({"otlp_endpoint": "http://a"}, {}, ["otlp"]),
        ({"otlp_endpoint": "http://a"}, {"OTEL_TRACES_EXPORTER": "console"}, ["console", "otlp"]),
        ({}, {"OTEL_TRACES_EXPORTER": "console, zipkin"}, ["console", "zipkin"]),
        ({}, {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, []),
        ({"spans": "off", "otlp_endpoint": "http://a"}, {}, []),
        ({"otlp_endpoint": "http://a"}, {"OTEL_SDK_DISABLED": "true"}, []),
    ],
)
def test_which_exporters(choices, environ, wanted):
    assert wanted_exporters(Settings(**choices), environ) == wanted


def test_an_exporter_that_does_not_exist_is_told_and_left_out():
    notices = []
    assert make_sinks(Settings(), {"OTEL_TRACES_EXPORTER": "nobodys"}, notices.append) == []
    assert len(notices) == 1 and "nobodys" in notices[0]
    with pytest.raises(LookupError):
        load_exporter("nobodys", "", None)
    with pytest.raises(LookupError, match="http/json"):
        load_exporter("otlp", "http/json", None)
    console = load_exporter("console", "", None)
    assert console.out.fileno() > 2
    console.out.close()


@pytest.mark.parametrize(
    ("spans", "environ", "keeps_share"),
    [
        ("all", {}, 1.0),
        ("all", {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, 0.5),
        ("all", {"OTEL_TRACES_SAMPLER": "traceidratio"}, 1.0),
        ("all", {"OTEL_TRACES_SAMPLER": "always_on"}, 1.0),
        ("slow", {"OTEL_TRACES_SAMPLER": "always_on"}, 0.0),
        (0.25, {"OTEL_TRACES_SAMPLER": "always_off"}, 0.25),
    ],
)
def test_samplers(spans, environ, keeps_share):
    sampling = sampling_of(Settings(spans=spans), environ, pytest.fail)
    assert not sampling.off
    assert sampling.bound == round(keeps_share * 2**64)


def test_samplers_that_ask_the_parent():
    ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    for environ in (ratio, {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}):
        sampling = sampling_of(Settings(), environ, pytest.fail)
        assert not sampling.off
        assert not sampling.keeps(b"\1" * 16) and sampling.keeps_sampled(b"\1" * 16)
    sampling = sampling_of(Settings(), {**ratio, "OTEL_TRACES_SAMPLER": "traceidratio"}, pytest.fail)
    assert not sampling.keeps_sampled(b"\1" * 16)


def test_always_off_and_nonsense():
    notices = []
    assert sampling_of(Settings(), {"OTEL_TRACES_SAMPLER": "always_off"}, notices.append).off
    for environ in ({"OTEL_TRACES_SAMPLER": "jaeger_remote"},
                    {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "7"}):  # fmt: skip
        assert sampling_of(Settings(), environ, notices.append).bound == 2**64
    assert len(notices) == 2


def test_a_processor_that_fails_is_counted_and_told_once():
    class Failing(SimpleSpanProcessor):
        def on_end(self, span):
            if span.context.span_id == 2:
                raise OSError("full")
            super().on_end(span)

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(Failing(exporter))
    told = []
    sink = ProviderSink(provider, told.append)
    for _ in range(2):
        sink.put("p", {}, make_spans(3))
    assert (sink.exported.sent, sink.exported.dropped["rejected"], len(told)) == (2, 4, 1)
    provider.shutdown()
