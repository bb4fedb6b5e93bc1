"""The statistics as Prometheus reads them, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family
from prometheus_client.samples import Exemplar as FamilyExemplar
from prometheus_client.samples import Sample as FamilySample
from prometheus_client.utils import floatToGoString

from traceloop.reading.statistics.histograms import Bounds, Histogram
from traceloop.reading.statistics.parts import Sample
from traceloop.reading.statistics.run import Statistics

from ..catalogue import BY_NAME, CATALOGUE, Metric
from ..own_usage import NAMES, own_usage

_INFINITY = float("inf")

Source = Statistics | Callable[[], Statistics]


class StatisticsCollector:
    """A collector for a ``prometheus_client`` registry. Collects from any thread, under the statistics' lock.

    ``source``: the statistics, or what returns them; it may read what is new first.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._bounds: dict[Bounds, list[str]] = {}

    def describe(self) -> Iterator[Family]:
        """Every metric there may be, so that a scrape can ask for some by name."""
        for metric in CATALOGUE:
            if metric.name not in NAMES:
                yield _family(metric)

    def collect(self) -> Iterator[Family]:
        """Every metric with the series that it has now."""
        statistics = self._source() if callable(self._source) else self._source
        families: dict[str, Family] = {}
        with statistics.lock:
            for sample in statistics.samples():
                metric = BY_NAME.get(sample.name)
                if metric is None:
                    continue
                family = families.get(sample.name)
                if family is None:
                    family = families[sample.name] = _family(metric)
                self._add(family, sample)
        # In the catalogue's order, whatever the order of the parts.
        for metric in CATALOGUE:
            if metric.name in families:
                yield families[metric.name]

    def _add(self, family: Family, sample: Sample) -> None:
        labels = dict(sample.labels)
        if not isinstance(sample.value, Histogram):
            family.samples.append(FamilySample(sample.name, labels, sample.value))
            return
        histogram = sample.value
        bounds = histogram.bounds
        names = self._bounds.get(bounds)
        if names is None:
            names = self._bounds[bounds] = [str(floatToGoString(bound)) for bound in (*bounds.published, _INFINITY)]  # type: ignore[no-untyped-call]
        bucket = sample.name + "_bucket"
        exemplars = histogram.exemplars
        cumulative = histogram.cumulative()
        for index, (name, count) in enumerate(zip(names, cumulative, strict=True)):
            exemplar = None
            if index in exemplars:
                found = exemplars[index]
                exemplar = FamilyExemplar(
                    {"trace_id": found.trace_id, "span_id": found.span_id}, found.value, found.when
                )
            family.samples.append(FamilySample(bucket, {**labels, "le": name}, count, None, exemplar))
        family.samples.append(FamilySample(sample.name + "_count", labels, cumulative[-1]))
        family.samples.append(FamilySample(sample.name + "_sum", labels, histogram.sum))


def _family(metric: Metric) -> Family:
    # The unit goes unsaid: in OpenMetrics it would have to be the end of the name, and of `_bytes_total` it is not.
    name = metric.name.removesuffix("_total") if metric.type == "counter" else metric.name
    return Family(name, metric.help, metric.type)


def make_registry(source: Source, *, with_own_usage: bool = True) -> CollectorRegistry:
    """A registry with the statistics in it; ``with_own_usage``: with what this very process costs, too."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatisticsCollector(source))
    if with_own_usage:
        registry.register(_OwnUsage())
    return registry


class _OwnUsage:
    """What the process that collects costs."""

    def describe(self) -> Iterator[Family]:
        for name in NAMES:
            yield _family(BY_NAME[name])

    def collect(self) -> Iterator[Family]:
        for name, _, value in own_usage():
            family = _family(BY_NAME[name])
            assert not isinstance(value, Histogram)
            family.samples.append(FamilySample(name, {}, value))
            yield family
