"""Sends the catalogue's metrics once in a while: to an OTLP receiver, or by any exporter of the SDK.

Asked for by OTEL_METRICS_EXPORTER alone: nothing is sent to a receiver that was not asked for. What could not be sent
is in what is sent next: cumulative numbers by their nature, differences since they count from what arrived last.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

from traceloop.reading.statistics.parts import Sample
from traceloop.reading.statistics.run import Statistics
from traceloop.settings import Settings

from ..extras import how_to_install
from ..otlp.connection import Waiting
from ..otlp.metrics import OtlpMetrics
from ..otlp.settings import OtlpSettings
from ..own_usage import own_usage
from ..spans.resource import detected_attributes, resource_attributes
from .points import Family, Snapshots

INTERVAL_SECONDS: Final = 60.0


class MetricsExporter(Protocol):
    """Where metrics go. Called by one thread."""

    def export(self, families: list[Family], resource: Mapping[str, Any], waiting: Waiting) -> bool: ...

    def shutdown(self, timeout: float) -> None: ...


def wanted_exporters(environ: Mapping[str, str]) -> list[str]:
    """Names of the exporters that were asked for. Prometheus is served in any case."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    names = [name.strip().lower() for name in environ.get("OTEL_METRICS_EXPORTER", "").split(",") if name.strip()]
    return [] if "none" in names else [name for name in dict.fromkeys(names) if name != "prometheus"]


def make_exporters(
    settings: Settings, environ: Mapping[str, str], notice: Callable[[str], None]
) -> list[tuple[MetricsExporter, bool]]:
    """Each with whether it wants differences. One that cannot be made is reported by ``notice`` and left out."""
    delta = _choice(environ, "TEMPORALITY_PREFERENCE", ("cumulative", "delta", "lowmemory"), notice) != "cumulative"
    histograms = ("explicit_bucket_histogram", "base2_exponential_bucket_histogram")
    given = environ.get("OTEL_METRICS_EXPORTER", "").strip().lower()
    if "none" in given and given != "none":
        notice(f"no metrics are sent: OTEL_METRICS_EXPORTER is {given}, and none excludes the others")
    exponential = _choice(environ, "DEFAULT_HISTOGRAM_AGGREGATION", histograms, notice) == histograms[1]
    made: list[tuple[MetricsExporter, bool]] = []
    for name in wanted_exporters(environ):
        try:
            protocol = (
                environ.get("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "").strip()
                or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip()
                or "http/protobuf"
            )
            if name == "otlp_proto_http" or (name == "otlp" and protocol == "http/protobuf"):
                otlp = OtlpSettings.from_environ(environ, settings.otlp_endpoint, notice, signal="metrics")
                made.append((OtlpMetrics(otlp, exponential, notice), delta))
                continue
            from ..otel_sdk.metrics import SdkMetrics

            sdk = SdkMetrics(name, protocol, settings.otlp_endpoint, notice)
            made.append((sdk, sdk.delta))
        except Exception as error:
            hint = how_to_install("otlp") if isinstance(error, ImportError) else ""
            notice(f"no metrics to {name}: {error}{hint}")
    return made


def _choice(environ: Mapping[str, str], name: str, expected: tuple[str, ...], notice: Callable[[str], None]) -> str:
    variable = f"OTEL_EXPORTER_OTLP_METRICS_{name}"
    value = environ.get(variable, "").strip().lower() or expected[0]
    if value in expected:
        return value
    notice(f"{variable}: expected {', '.join(expected[:-1])} or {expected[-1]}, got {value!r}; using {expected[0]}")
    return expected[0]


def _interval(environ: Mapping[str, str], notice: Callable[[str], None]) -> float:
    text = environ.get("OTEL_METRIC_EXPORT_INTERVAL", "").strip()
    try:
        value = float(text) / 1000 if text else INTERVAL_SECONDS
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        notice(f"OTEL_METRIC_EXPORT_INTERVAL: expected milliseconds above 0, got {text!r}; using 60000")
        return INTERVAL_SECONDS
    return value


class MetricsPush:
    """Takes snapshots of the statistics and exports them, in a thread of its own."""

    def __init__(
        self,
        statistics: Statistics,
        read: Callable[[], object],
        exporters: Iterable[tuple[MetricsExporter, bool]],
        environ: Mapping[str, str],
        notice: Callable[[str], None],
        *,
        with_own_usage: bool = True,
    ) -> None:
        """``read``: takes in what is new before a snapshot, from this thread. ``with_own_usage``: this process serves
        nothing but watching.
        """
        now = statistics.began_ns or time.time_ns()
        self._statistics = statistics
        self._read = read
        self._exporters = [(exporter, Snapshots(now, delta=delta)) for exporter, delta in exporters]
        if statistics.began_ns:  # the collector before this one has sent what it had counted
            for _, snapshots in self._exporters:
                with statistics.lock:
                    snapshots.take(self._samples(), time.time_ns())
                snapshots.arrived()
        self._environ = environ
        self._notice = notice
        self._with_own_usage = with_own_usage
        self._detected = detected_attributes(environ, notice)
        self._instance = str(uuid.uuid4())
        self._interval = _interval(environ, notice)
        # Read by what sends: see ``Waiting``.
        self.deadline: float | None = None
        self.failing = False
        self._condition = threading.Condition()
        self._asked = self._done = 0
        self._thread = threading.Thread(target=self._work, name="traceloop-metrics-push", daemon=True)
        self._thread.start()

    def flush(self, timeout: float) -> bool:
        """Exports what there is now; waits at most ``timeout`` s, and not at all while nothing arrives."""
        with self._condition:
            self._asked += 1
            asked = self._asked
            self._condition.notify_all()
            until = time.monotonic() + timeout
            while self._done < asked:
                left = until - time.monotonic()
                if left <= 0 or self.failing or not self._thread.is_alive():
                    return False
                self._condition.wait(min(left, 0.5))
        return not self.failing

    def shutdown(self, timeout: float) -> None:
        """Exports the last numbers within ``timeout`` s; the statistics have been read to the end."""
        with self._condition:
            self.deadline = time.monotonic() + timeout
            self._condition.notify_all()
        self._thread.join(timeout + 0.1)
        for exporter, _ in self._exporters:
            exporter.shutdown(0.2)

    def pause(self, seconds: float) -> None:
        """For what sends: waits between two attempts; not at all once the shutdown has come."""
        until = time.monotonic() + seconds
        with self._condition:
            had_deadline = self.deadline is not None
            self._condition.notify_all()
            while (left := until - time.monotonic()) > 0 and (self.deadline is None or had_deadline):
                self._condition.wait(min(left, 0.5) if had_deadline else left)
                if had_deadline:
                    return

    def _work(self) -> None:
        next_one = time.monotonic() + self._interval
        while True:
            with self._condition:
                while self._asked == self._done and self.deadline is None:
                    left = next_one - time.monotonic()
                    if left <= 0:
                        break
                    self._condition.wait(left)
                asked, final = self._asked, self.deadline is not None
            next_one = time.monotonic() + self._interval
            try:
                if not final:
                    self._read()
                self._export()
            except BaseException as error:  # whatever an exporter raises, the thread goes on
                self.failing = True
                self._notice(f"metrics could not be exported: {error!r}")
            with self._condition:
                self._done = asked
                self._condition.notify_all()
            if final:
                return

    def _export(self) -> None:
        failing = False
        for exporter, snapshots in self._exporters:
            with self._statistics.lock:
                families = snapshots.take(self._samples(), time.time_ns())
            if families and not exporter.export(families, self._resource(), self):
                failing = True
            else:
                snapshots.arrived()
        self.failing = failing

    def _samples(self) -> Iterator[Sample]:
        yield from self._statistics.samples()
        if self._with_own_usage:
            yield from own_usage()

    def _resource(self) -> dict[str, Any]:
        """The spans' resource, less what is one process's: the points say which, by its slot."""
        first = next(iter(sorted(self._statistics.processes.items())), None)
        description = dict(first[1].description) if first is not None else {}
        resource = resource_attributes(self._environ, description, self._detected)
        resource.pop("process.pid", None)
        resource.pop("process.parent_pid", None)
        resource.setdefault("service.instance.id", self._instance)
        return resource


def make_push(
    settings: Settings,
    statistics: Statistics,
    read: Callable[[], object],
    notice: Callable[[str], None],
    environ: Mapping[str, str],
    *,
    with_own_usage: bool = True,
) -> MetricsPush | None:
    """What OTEL_METRICS_EXPORTER asks for; None where that is nothing, or nothing that can be had."""
    exporters = make_exporters(settings, environ, notice)
    if not exporters:
        return None
    return MetricsPush(statistics, read, exporters, environ, notice, with_own_usage=with_own_usage)
