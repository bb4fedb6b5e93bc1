"""Metrics as OTLP: decoded with the published protos, field by field, and counted through an outage."""

from __future__ import annotations

import asyncio
import socket

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics as sdk_encode
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, AGGREGATION_TEMPORALITY_DELTA

from tests.helpers.otlp_receiver import Receiver, attributes_of
from tests.helpers.waiting import PATIENCE, until
from traceloop.exporters.catalogue import BY_NAME, CATALOGUE
from traceloop.exporters.metrics import asked_for
from traceloop.exporters.metrics.points import ATTRIBUTES, Snapshots, otel_name, otel_unit
from traceloop.exporters.metrics.push import make_push, wanted_exporters
from traceloop.exporters.otel_sdk.metrics import metrics_data
from traceloop.exporters.otlp.metrics import encode_metrics
from traceloop.exporters.otlp.settings import OtlpSettings
from traceloop.loop.event_loop import EventLoop
from traceloop.reading.statistics.histograms import Histogram
from traceloop.reading.statistics.parts import Sample
from traceloop.recording import process
from traceloop.settings import Settings

RESOURCE = {"service.name": "shop", "process.runtime.version": "3.13.0"}
START, NOW = 1_790_000_000 * 10**9, 1_790_000_060 * 10**9


def histogram(*values):
    made = Histogram()
    for value in values:
        made.add(value)
    return made


def samples(runs=7, durations=(0.0, 2e-5, 3e-5, 0.2, 30.0), exemplar=True):
    made = histogram(*durations)
    if exemplar:
        made.set_exemplar("ab" * 16, "cd" * 8, 0.2, 1_790_000_030.25)
    both = (("process", "0"), ("loop", "MainThread"))
    return [
        Sample("asyncio_callback_runs_total", (*both, ("callback", "app.f")), runs),
        Sample("asyncio_callback_runs_total", (*both, ("callback", "app.g")), 1),
        Sample("asyncio_callback_time_seconds_total", (*both, ("callback", "app.f")), 1.5),
        Sample("asyncio_tasks", both, 3),
        Sample("asyncio_transport_bytes_total", (*both, ("direction", "in")), 100.0),
        Sample("cpython_gc_collected_objects_total", (("process", "0"), ("generation", "2")), 5),
        Sample("asyncio_callback_duration_seconds", (*both, ("kind", "task")), made),
    ]


def decoded(families, **more):
    request = ExportMetricsServiceRequest.FromString(encode_metrics(families, RESOURCE, **more))
    (resource,) = request.resource_metrics
    assert attributes_of(resource.resource) == RESOURCE
    (scope,) = resource.scope_metrics
    assert scope.scope.name == "traceloop" and scope.scope.version
    return {metric.name: metric for metric in scope.metrics}


def test_every_field_of_cumulative_metrics():
    found = decoded(Snapshots(START).take(samples(), NOW))
    runs = found["asyncio.callback.runs"]
    assert (runs.description, runs.unit) == (BY_NAME["asyncio_callback_runs_total"].help, "1")
    assert runs.sum.is_monotonic and runs.sum.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    first, second = runs.sum.data_points
    assert (first.as_int, first.start_time_unix_nano, first.time_unix_nano) == (7, START, NOW)
    assert attributes_of(first) == {
        "traceloop.process.slot": 0, "asyncio.loop.name": "MainThread", "asyncio.callback": "app.f"
    }  # fmt: skip
    assert attributes_of(second)["asyncio.callback"] == "app.g"
    seconds = found["asyncio.callback.time"]
    assert seconds.unit == "s" and seconds.sum.data_points[0].as_double == 1.5
    tasks = found["asyncio.tasks"].gauge.data_points[0]
    assert (tasks.as_int, tasks.start_time_unix_nano, tasks.time_unix_nano) == (3, 0, NOW)
    bytes_in = found["asyncio.transport.bytes"] if "asyncio.transport.bytes" in found else found["asyncio.transport"]
    assert bytes_in.unit == "By"
    assert attributes_of(bytes_in.sum.data_points[0])["network.io.direction"] == "receive"
    assert attributes_of(found["cpython.gc.collected_objects"].sum.data_points[0])["cpython.gc.generation"] == 2


def test_an_explicit_histogram():
    metric = decoded(Snapshots(START).take(samples(), NOW))["asyncio.callback.duration"]
    assert metric.unit == "s" and metric.histogram.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    (point,) = metric.histogram.data_points
    assert point.count == 5 == sum(point.bucket_counts) and point.sum == pytest.approx(30.20005) and point.max == 30.0
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    by_bound = dict(zip([*point.explicit_bounds, float("inf")], point.bucket_counts, strict=True))
    assert {bound: count for bound, count in by_bound.items() if count} == {
        1e-5: 1, 2.5e-5: 1, 5e-5: 1, 0.25: 1, float("inf"): 1
    }  # fmt: skip
    (exemplar,) = point.exemplars
    assert (exemplar.trace_id.hex(), exemplar.span_id.hex(), exemplar.as_double) == ("ab" * 16, "cd" * 8, 0.2)
    assert exemplar.time_unix_nano == pytest.approx(1_790_000_030_250_000_000, abs=1000)


def test_an_exponential_histogram_has_every_value_once_and_within_a_tenth():
    values = [0.0, 1e-6, *(1.3e-5 * 1.7**step for step in range(26))]
    families = Snapshots(START).take(samples(durations=values), NOW)
    metric = decoded(families, exponential=True)["asyncio.callback.duration"]
    (point,) = metric.exponential_histogram.data_points
    base = 2 ** (2**-point.scale)
    counts = point.positive.bucket_counts
    assert point.count == len(values) == point.zero_count + sum(counts)
    assert point.zero_count == 2 and 1e-6 <= point.zero_threshold < 2e-6
    found = [base ** (point.positive.offset + index + 0.5) for index, count in enumerate(counts) for _ in range(count)]
    for ours, truth in zip(found, values[2:], strict=True):
        assert ours == pytest.approx(truth, rel=0.25)
    assert point.max == values[-1] and len(point.exemplars) == 1


@pytest.mark.parametrize("exponential", [False, True])
def test_it_says_what_the_sdks_own_encoder_says(exponential):
    families = Snapshots(START).take(samples(), NOW)
    ours = ExportMetricsServiceRequest.FromString(encode_metrics(families, RESOURCE, exponential=exponential))
    theirs = sdk_encode(metrics_data(families, RESOURCE, exponential=exponential))
    for request in (ours, theirs):
        for metric in request.resource_metrics[0].scope_metrics[0].metrics:
            for kind in (metric.histogram, metric.exponential_histogram):
                for point in kind.data_points:
                    point.ClearField("min")  # not known
                    if exponential:  # the SDK has no threshold, and writes an empty field
                        point.ClearField("zero_threshold")
                        point.ClearField("negative")
    assert ours.resource_metrics[0].scope_metrics[0].metrics == theirs.resource_metrics[0].scope_metrics[0].metrics


def test_differences_count_from_what_arrived_last():
    snapshots = Snapshots(START, delta=True)
    first = decoded(snapshots.take(samples(), NOW))
    assert first["asyncio.callback.runs"].sum.aggregation_temporality == AGGREGATION_TEMPORALITY_DELTA
    assert first["asyncio.callback.runs"].sum.data_points[0].as_int == 7
    # It did not arrive: what is taken next has all of it.
    second = decoded(snapshots.take(samples(10), NOW + 1))
    (point, _) = second["asyncio.callback.runs"].sum.data_points
    assert (point.as_int, point.start_time_unix_nano) == (10, START)
    snapshots.arrived()
    third = decoded(snapshots.take(samples(12, durations=(0.0, 2e-5, 3e-5, 0.2, 30.0, 0.3)), NOW + 2))
    (point, other) = third["asyncio.callback.runs"].sum.data_points
    assert (point.as_int, other.as_int, point.start_time_unix_nano) == (2, 0, NOW + 1)
    (durations,) = third["asyncio.callback.duration"].histogram.data_points
    assert (durations.count, sum(durations.bucket_counts)) == (1, 1) and durations.sum == pytest.approx(0.3)
    assert not durations.exemplars and not durations.HasField("max")
    assert third["asyncio.tasks"].gauge.data_points[0].as_int == 3


def test_every_metric_of_the_catalogue_has_a_name_of_its_own_and_every_label_an_attribute():
    assert len({otel_name(metric) for metric in CATALOGUE}) == len(CATALOGUE)
    assert {label for metric in CATALOGUE for label in metric.labels} == set(ATTRIBUTES)
    assert len(set(ATTRIBUTES.values())) == len(ATTRIBUTES)
    for metric in CATALOGUE:
        assert otel_unit(metric) in ("s", "By", "1")
        assert not otel_name(metric).endswith(("seconds", "bytes", "total"))


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, []),
        ({"OTEL_METRICS_EXPORTER": "none"}, []),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, []),
        ({"OTEL_METRICS_EXPORTER": "otlp,console,prometheus"}, ["otlp", "console"]),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, []),
    ],
)
def test_nothing_is_sent_unasked(environ, wanted):
    assert wanted_exporters(environ) == wanted
    assert asked_for(environ) or not wanted


@pytest.mark.parametrize(
    ("environ", "given", "endpoint"),
    [
        ({}, None, "http://localhost:4318/v1/metrics"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1/x/"}, None, "http://a:1/x/v1/metrics"),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://b/y"}, None, "http://b/y"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/y"}, None, "http://localhost:4318/v1/metrics"),
        ({}, "http://c:4318/v1/traces", "http://c:4318/v1/metrics"),
        ({}, "http://c:4318", "http://c:4318/v1/metrics"),
    ],
)
def test_endpoints(environ, given, endpoint):
    assert OtlpSettings.from_environ(environ, given, signal="metrics").endpoint == endpoint


def test_bad_choices_are_told_in_one_line_each():
    notices = []
    environ = {
        "OTEL_METRICS_EXPORTER": "nobodys",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "sideways",
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "round",
    }
    assert make_push(Settings(), None, None, notices.append, environ) is None
    assert len(notices) == 3 and all("\n" not in line for line in notices)
    assert "expected cumulative, delta or lowmemory, got 'sideways'" in notices[0]
    assert "nobodys" in notices[2] and "there are console" in notices[2]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"OTEL_METRICS_EXPORTER": "none,otlp"},
            "no metrics are sent: OTEL_METRICS_EXPORTER is none,otlp, and none excludes the others",
        ),
        (
            {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
            "no metrics to otlp: OTEL_EXPORTER_OTLP_ENDPOINT: expected an http:// or https:// address, "
            "got 'collector:4318'",
        ),
        (
            {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:99999/x"},
            "no metrics to otlp: OTEL_EXPORTER_OTLP_METRICS_ENDPOINT: expected a port from 1 to 65535 "
            "in 'http://collector:99999/x'",
        ),
    ],
)
def test_what_cannot_be_sent_to_is_refused_in_one_line(environ, expected):
    notices = []
    assert make_push(Settings(), None, None, notices.append, environ) is None
    assert notices == [expected]


def told(receiver, name="asyncio.callback.duration"):
    """By request: temporality and the sum of the counts of that histogram."""
    out = []
    with receiver.condition:
        requests = list(receiver.requests)
    for data in requests:
        for metric in ExportMetricsServiceRequest.FromString(data).resource_metrics[0].scope_metrics[0].metrics:
            if metric.name == name:
                points = metric.histogram.data_points
                out.append((metric.histogram.aggregation_temporality, sum(point.count for point in points)))
    return out


@pytest.mark.parametrize("preference", ["cumulative", "delta"])
def test_counts_are_exact_after_an_outage(monkeypatch, preference):
    from traceloop.reading.follower import PrivateFollower
    from traceloop.reading.new_statistics import make_statistics

    monkeypatch.setattr(process, "_current", None)
    loop = EventLoop()
    statistics = make_statistics(Settings())
    follower = PrivateFollower(statistics, loop._recorder.process)

    def read():
        with statistics.lock:
            while follower.read():
                pass

    async def main(steps):
        for _ in range(steps - 1):
            await asyncio.sleep(0)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environ = {
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": preference,
        "OTEL_SERVICE_NAME": "shop",
    }
    notices = []
    push = make_push(Settings(), statistics, read, notices.append, environ)
    receiver = None
    try:
        loop.run_until_complete(main(100))
        until(lambda: notices)  # nobody is there
        assert "metrics do not arrive" in notices[0]
        loop.run_until_complete(main(50))
        receiver = Receiver(port=port)
        until(lambda: told(receiver) and not push.failing)  # the answer is taken in after the request has come
        loop.run_until_complete(main(25))
        loop.close()
        read()
        with statistics.lock:
            truth = sum(each.count for each in next(statistics.loops()).callbacks.durations.values())
        assert push.flush(PATIENCE)
        push.shutdown(PATIENCE)
        kinds, counts = zip(*told(receiver), strict=True)
        if preference == "delta":
            assert set(kinds) == {AGGREGATION_TEMPORALITY_DELTA} and sum(counts) == truth
        else:
            assert set(kinds) == {AGGREGATION_TEMPORALITY_CUMULATIVE} and counts[-1] == truth
            assert list(counts) == sorted(counts)
        assert receiver.paths[0] == "/v1/metrics"
        resource = ExportMetricsServiceRequest.FromString(receiver.requests[-1]).resource_metrics[0].resource
        attributes = attributes_of(resource)
        assert attributes["service.name"] == "shop" and attributes["service.instance.id"]
        assert "process.pid" not in attributes
    finally:
        push.shutdown(0.1)
        if receiver is not None:
            receiver.close()
        loop.close()


def test_a_real_run_pushes_what_a_scrape_shows(make_run):
    receiver = Receiver()
    try:
        run = make_run({
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": receiver.url + "/v1/metrics",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
        })  # fmt: skip
        program = run.start("""
            async def steps(n):
                for _ in range(n):
                    await asyncio.sleep(0)
            run(steps(1000))
            end()
        """)
        run.drained(program)
        runs = run.value("asyncio_callback_duration_seconds_count")
        until(lambda: told(receiver) and told(receiver)[-1][1] == runs)
        run.handle.stop()
        metrics = ExportMetricsServiceRequest.FromString(receiver.requests[-1]).resource_metrics[0].scope_metrics[0]
        names = {metric.name for metric in metrics.metrics}
        assert {"process.cpu.time", "traceloop.records", "traceloop.collector.cpu"} <= names
    finally:
        receiver.close()
