"""Metrics through the SDK's exporter interface."""

import time

import pytest
from opentelemetry.sdk.metrics import Counter, Histogram
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExporter, MetricExportResult
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation

from tests.helpers.waiting import PATIENCE
from traceloop.exporters.metrics.push import MetricsPush
from traceloop.exporters.otel_sdk.metrics import SdkMetrics, load_exporter
from traceloop.reading.new_statistics import make_statistics
from traceloop.settings import Settings


class Kept(MetricExporter):
    """Keeps what it gets. answers: what it answers, or raises, one by one; success after that."""

    def __init__(self, *answers, **preferred):
        super().__init__(**preferred)
        self.answers = list(answers)
        self.got = []
        self.closed = False

    def export(self, metrics_data, timeout_millis=10_000, **kwargs):
        answer = self.answers.pop(0) if self.answers else MetricExportResult.SUCCESS
        if isinstance(answer, BaseException):
            raise answer
        if answer is MetricExportResult.SUCCESS:
            self.got.append(metrics_data)
        return answer

    def force_flush(self, timeout_millis=10_000):
        return True

    def shutdown(self, timeout_millis=30_000, **kwargs):
        self.closed = True


def push_to(exporter, notices):
    made = SdkMetrics("kept", "", None, notices.append, exporter)
    statistics = make_statistics(Settings())
    environ = {"OTEL_METRIC_EXPORT_INTERVAL": "3600000", "OTEL_SERVICE_NAME": "shop"}
    return MetricsPush(statistics, lambda: None, [(made, made.delta)], environ, notices.append)


def test_an_exporter_gets_metrics_with_resource_and_scope():
    exporter, notices = Kept(), []
    push = push_to(exporter, notices)
    assert push.flush(PATIENCE)
    push.shutdown(5)
    assert exporter.closed and notices == [] and len(exporter.got) == 2
    (resource,) = exporter.got[0].resource_metrics
    assert resource.resource.attributes["service.name"] == "shop"
    assert resource.scope_metrics[0].scope.name == "traceloop"
    metrics = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
    cpu = metrics["traceloop.collector.cpu"].data
    assert cpu.is_monotonic and cpu.aggregation_temporality == AggregationTemporality.CUMULATIVE
    assert 0 < cpu.data_points[0].start_time_unix_nano < cpu.data_points[0].time_unix_nano <= time.time_ns()


def test_it_gets_what_it_prefers():
    exporter = Kept(
        preferred_temporality={Counter: AggregationTemporality.DELTA, Histogram: AggregationTemporality.DELTA},
        preferred_aggregation={Histogram: ExponentialBucketHistogramAggregation()},
    )
    made = SdkMetrics("kept", "", None, print, exporter)
    assert made.delta and made._exponential


@pytest.mark.parametrize("answer", [MetricExportResult.FAILURE, OSError("gone"), SystemExit(3)])
def test_one_that_fails_is_told_once_and_gets_the_next(answer):
    exporter, notices = Kept(answer, answer), []
    push = push_to(exporter, notices)
    deadline = time.monotonic() + 120
    while not exporter.got:  # a flush does not wait for one that fails
        push.flush(1)
        time.sleep(0.01)
        assert time.monotonic() < deadline
    push.shutdown(5)
    assert notices and all("\n" not in line for line in notices)


def test_exporters_are_found_by_name():
    with pytest.raises(LookupError, match="nobodys"):
        load_exporter("nobodys", "", None)
    with pytest.raises(LookupError, match="http/json"):
        load_exporter("otlp", "http/json", None)
    console = load_exporter("console", "", None)
    assert console.out.fileno() > 2
    console.out.close()
