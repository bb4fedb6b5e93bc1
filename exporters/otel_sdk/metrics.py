"""Metrics as the SDK's objects, through its ``MetricExporter`` interface: consoles, gRPC and what users have written.

The exporters are found as the SDK finds them, by the entry points ``opentelemetry_metrics_exporter``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from opentelemetry.sdk.metrics import Counter
from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from ..extras import how_to_install
from ..metrics.points import SCALE, Distribution, Family, Point
from ..otlp.connection import Waiting
from ..spans.resource import SCOPE_NAME, own_version


def load_exporter(name: str, protocol: str, endpoint: str | None) -> Any:
    """The exporter of that name. Raises LookupError where no installed package offers one."""
    if name == "otlp" and protocol == "grpc":
        name = "otlp_proto_grpc"
    elif name == "otlp":
        raise LookupError(f"OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf or grpc, got {protocol!r}")
    for entry in entry_points(group="opentelemetry_metrics_exporter", name=name):
        make = entry.load()
        if name == "console":
            # Not among the program's own output. A copy of the descriptor: ours may be let go of before its end.
            return make(out=os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace"))
        made = make(endpoint=endpoint) if endpoint is not None and name.startswith("otlp") else make()
        if not hasattr(made, "export"):
            raise LookupError(f"{name!r} is a reader that asks for metrics, not an exporter that is given some")
        return made
    group = entry_points(group="opentelemetry_metrics_exporter")
    hint = f"; there are {', '.join(sorted(group.names))}" if group else ""
    if name == "otlp_proto_grpc":
        hint = how_to_install("otlp-grpc")
    raise LookupError(f"no installed package offers the metrics exporter {name!r}{hint}")


class SdkMetrics:
    """Hands metrics to one exporter, as it prefers them. For one thread."""

    def __init__(
        self, name: str, protocol: str, endpoint: str | None, notice: Callable[[str], None], exporter: Any = None
    ) -> None:
        """``exporter``: the one to use, instead of looking for ``name``."""
        self._name = name
        self._notice = notice
        self._failed = False
        self._exporter = load_exporter(name, protocol, endpoint) if exporter is None else exporter
        temporality = getattr(self._exporter, "_preferred_temporality", None) or {}
        aggregation = getattr(self._exporter, "_preferred_aggregation", None) or {}
        #: Whether it prefers differences.
        self.delta = temporality.get(Counter) == AggregationTemporality.DELTA
        self._exponential = "Exponential" in type(aggregation.get(HistogramInstrument)).__name__

    def export(self, families: list[Family], resource: Mapping[str, Any], waiting: Waiting) -> bool:
        """Whether the exporter took them."""
        problem = ""
        try:
            data = metrics_data(families, resource, exponential=self._exponential)
            if self._exporter.export(data, timeout_millis=10_000) is not MetricExportResult.SUCCESS:
                problem = "it refused them"
        except Exception as error:
            problem = repr(error)
        if problem and not self._failed:
            self._notice(f"metrics do not arrive at the metrics exporter {self._name}: {problem}")
        self._failed = bool(problem)
        return not problem

    def shutdown(self, timeout: float) -> None:
        """Shuts the exporter down."""
        try:
            self._exporter.shutdown(timeout_millis=timeout * 1000)
            if self._name == "console":
                self._exporter.out.close()  # a descriptor of our own, see load_exporter
        except Exception as error:
            self._notice(f"the metrics exporter {self._name} failed at its end: {error!r}")


def metrics_data(families: list[Family], resource: Mapping[str, Any], *, exponential: bool = False) -> MetricsData:
    """The SDK's object for all of them."""
    metrics = [
        Metric(family.name, family.description, family.unit, _data(family, exponential))
        for family in families
        if family.points
    ]
    scope = ScopeMetrics(InstrumentationScope(SCOPE_NAME, own_version()), metrics, "")
    return MetricsData([ResourceMetrics(Resource(dict(resource)), [scope], "")])


def _data(family: Family, exponential: bool) -> Any:
    temporality = AggregationTemporality.DELTA if family.delta else AggregationTemporality.CUMULATIVE
    if family.kind == "gauge":
        return Gauge([_number(point) for point in family.points])
    if family.kind == "sum":
        return Sum([_number(point) for point in family.points], temporality, True)
    if exponential:
        from opentelemetry.sdk.metrics.export import ExponentialHistogram

        return ExponentialHistogram([_exponential(point) for point in family.points], temporality)
    return Histogram([_histogram(point) for point in family.points], temporality)


def _number(point: Point) -> NumberDataPoint:
    assert not isinstance(point.value, Distribution)
    return NumberDataPoint(point.attributes, point.start_ns, point.time_ns, point.value)


def _histogram(point: Point) -> HistogramDataPoint:
    value = point.value
    assert isinstance(value, Distribution)
    return HistogramDataPoint(
        attributes=point.attributes,
        start_time_unix_nano=point.start_ns,
        time_unix_nano=point.time_ns,
        count=value.total,
        sum=value.sum,
        bucket_counts=value.explicit(),
        explicit_bounds=value.bounds.published,
        min=0.0,
        max=value.maximum,
        **_exemplars(value),
    )


def _exponential(point: Point) -> Any:
    from opentelemetry.sdk.metrics.export import Buckets, ExponentialHistogramDataPoint

    value = point.value
    assert isinstance(value, Distribution)
    zero_count, _, offset, counts = value.exponential()
    return ExponentialHistogramDataPoint(
        attributes=point.attributes,
        start_time_unix_nano=point.start_ns,
        time_unix_nano=point.time_ns,
        count=value.total,
        sum=value.sum,
        scale=SCALE,
        zero_count=zero_count,
        positive=Buckets(offset, counts),
        negative=Buckets(0, []),
        flags=0,
        min=0.0,
        max=value.maximum,
        **_exemplars(value),
    )


def _exemplars(value: Distribution) -> dict[str, Any]:
    if not value.exemplars:
        return {}
    try:
        from opentelemetry.sdk.metrics import Exemplar
    except ImportError:  # an SDK from before they came
        return {}
    return {
        "exemplars": [
            Exemplar({}, each.value, int(each.when * 1e9), int(each.span_id, 16), int(each.trace_id, 16))
            for each in value.exemplars.values()
        ]
    }
