"""The statistics as OpenTelemetry's data model has metrics: names, units, attributes, points, temporality.

https://opentelemetry.io/docs/specs/otel/metrics/data-model/. Where the semantic conventions know a metric or an
attribute (``process.*``, ``cpython.gc.*``), it has their name; ours follow the same rule. All times are ns since the
epoch. For one thread, under the statistics' lock where it reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import ceil, log2
from typing import Any, Final, NamedTuple

from traceloop.reading.statistics.histograms import Bounds, Exemplar, Histogram
from traceloop.reading.statistics.parts import Sample

from ..catalogue import BY_NAME, CATALOGUE, Metric

_NAMES: Final = {
    "asyncio_task_waiting": "asyncio.task.waiting.count",  # beside the time that they wait
    "asyncio_transport_paused_bytes": "asyncio.transport.paused.size",  # beside the time that they are paused
    "process_resident_memory_bytes": "process.memory.usage",
    "process_cpu_seconds_total": "process.cpu.time",
    "process_open_fds": "process.unix.file_descriptor.count",
    "cpython_gc_collected_objects_total": "cpython.gc.collected_objects",
    "cpython_gc_uncollectable_objects_total": "cpython.gc.uncollectable_objects",
}
_UNITS: Final = {"seconds": "s", "bytes": "By"}
#: Attributes of points, by the label of the series. Where a span has the same thing, it is called as there.
ATTRIBUTES: Final = {
    "process": "traceloop.process.slot",
    "loop": "asyncio.loop.name",
    "state": "asyncio.state",
    "kind": "asyncio.handle.kind",
    "callback": "asyncio.callback",
    "culprit": "asyncio.stall.culprit",
    "location": "asyncio.stall.location",
    "site": "asyncio.task.wait.site",
    "request": "asyncio.request.name",
    "part": "asyncio.request.part",
    "outcome": "asyncio.task.outcome",
    "heap": "asyncio.heap",
    "generation": "cpython.gc.generation",
    "executor": "asyncio.executor.name",
    "transport": "asyncio.transport.kind",
    "direction": "network.io.direction",
    "result": "asyncio.connection.result",
    "error": "asyncio.error.kind",
    "reason": "traceloop.drop.reason",
    "pid": "process.pid",
    "python": "process.runtime.version",
    "version": "telemetry.distro.version",
    "command": "process.command_line",
    "core": "traceloop.core",
    "reader": "traceloop.reader",
}
_INTEGERS: Final = frozenset(("process", "generation", "pid"))
_VALUES: Final = {("direction", "in"): "receive", ("direction", "out"): "transmit"}
#: Of exponential histograms: each bucket is 2 ** (1 / 2 ** SCALE) times as wide as the one before it.
SCALE: Final = 3


class Distribution(NamedTuple):
    """A histogram at a moment. counts: of the fine buckets. maximum: 0 where it is not known (of a difference)."""

    bounds: Bounds
    counts: Sequence[int]
    sum: float
    maximum: float
    exemplars: Mapping[int, Exemplar]

    @property
    def total(self) -> int:
        """How many values."""
        return sum(self.counts)

    def explicit(self) -> list[int]:
        """Counts of the published buckets, the last of what is above them all."""
        cuts = (0, *self.bounds.cuts, len(self.counts))
        return [sum(self.counts[start:end]) for start, end in pairwise(cuts)]

    def exponential(self) -> tuple[int, float, int, list[int]]:
        """Zero count, zero threshold, offset and counts of an exponential histogram of ``SCALE``. Each fine bucket is
        counted at its middle: a value may be off by a tenth, the counts are exact.
        """
        fine = self.bounds.fine
        found: dict[int, int] = {}
        for index, count in enumerate(self.counts):
            if count and index:
                upper = fine[index] if index < len(fine) else max(self.maximum, fine[-1])
                middle = (fine[index - 1] * upper) ** 0.5
                bucket = ceil(log2(middle) * (1 << SCALE)) - 1
                found[bucket] = found.get(bucket, 0) + count
        if not found:
            return self.counts[0], fine[0], 0, []
        offset, last = min(found), max(found)
        return self.counts[0], fine[0], offset, [found.get(index, 0) for index in range(offset, last + 1)]


class Point(NamedTuple):
    """One series. start_ns: from when on it counts; 0 for gauges, which are of the moment."""

    attributes: dict[str, Any]
    start_ns: int
    time_ns: int
    value: float | Distribution


class Family(NamedTuple):
    """One metric with all its points. kind: sum (monotonic), gauge, histogram. unit: as UCUM has it."""

    name: str
    description: str
    unit: str
    kind: str
    points: list[Point]
    delta: bool = False


def otel_name(metric: Metric) -> str:
    """Its name in OpenTelemetry."""
    return _NAMES.get(metric.name, metric.otel_name)


def otel_unit(metric: Metric) -> str:
    """Its unit, as UCUM has it."""
    return _UNITS.get(metric.unit, "1")


def attributes_of(labels: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The attributes that the labels are."""
    out: dict[str, Any] = {}
    for label, value in labels:
        is_number = label in _INTEGERS and value.isascii() and value.isdigit()
        out[ATTRIBUTES[label]] = int(value) if is_number else _VALUES.get((label, value), value)
    return out


class Snapshots:
    """Families from samples; cumulative, or since the last that arrived."""

    def __init__(self, start_ns: int, *, delta: bool = False) -> None:
        """``start_ns``: from when on everything was counted. ``delta``: sums and histograms are differences."""
        self.delta = delta
        self._start_ns = start_ns
        self._arrived: dict[tuple[str, tuple[tuple[str, str], ...]], float | Distribution] = {}
        self._taken: dict[tuple[str, tuple[tuple[str, str], ...]], float | Distribution] = {}
        self._taken_ns = start_ns

    def take(self, samples: Iterable[Sample], now_ns: int) -> list[Family]:
        """The series as they stand, in the order of the catalogue."""
        families: dict[str, Family] = {}
        self._taken = {}
        self._taken_ns = now_ns
        for name, labels, value in samples:
            metric = BY_NAME.get(name)
            if metric is None:
                continue
            family = families.get(name)
            if family is None:
                kind = {"counter": "sum"}.get(metric.type, metric.type)
                family = Family(otel_name(metric), metric.help, otel_unit(metric), kind, [], self.delta)
                families[name] = family
            counted = _frozen(value) if isinstance(value, Histogram) else value
            if metric.type == "gauge":
                family.points.append(Point(attributes_of(labels), 0, now_ns, counted))
                continue
            if self.delta:
                key = name, labels
                self._taken[key] = counted
                counted = _difference(counted, self._arrived.get(key))
            family.points.append(Point(attributes_of(labels), self._start_ns, now_ns, counted))
        return [families[metric.name] for metric in CATALOGUE if metric.name in families]

    def arrived(self) -> None:
        """What was taken last has arrived: the next differences count from there. What has not is in the next one."""
        if self.delta:
            self._arrived.update(self._taken)
            self._start_ns = self._taken_ns


def _frozen(histogram: Histogram) -> Distribution:
    counts = tuple(histogram.counts)
    return Distribution(histogram.bounds, counts, histogram.sum, histogram.maximum, dict(histogram.exemplars))


def _difference(now: float | Distribution, before: float | Distribution | None) -> float | Distribution:
    if before is None:
        return now
    if isinstance(now, Distribution) and isinstance(before, Distribution):
        counts = [mine - theirs for mine, theirs in zip(now.counts, before.counts, strict=True)]
        new = {index: each for index, each in now.exemplars.items() if before.exemplars.get(index) != each}
        # The maximum of the time between is only known where it rose.
        maximum = now.maximum if now.maximum > before.maximum else 0.0
        return Distribution(now.bounds, counts, now.sum - before.sum, maximum, new)
    assert not isinstance(now, Distribution) and not isinstance(before, Distribution)
    return now - before
