"""/metrics: the statistics as Prometheus reads them, on a server of its own and in a registry of its own."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import Metric as Family
from prometheus_client.samples import Exemplar as FamilyExemplar
from prometheus_client.samples import Sample as FamilySample
from prometheus_client.utils import floatToGoString

from traceloop.reading.statistics.histograms import Bounds, Histogram
from traceloop.reading.statistics.parts import Sample
from traceloop.reading.statistics.run import Statistics
from traceloop.record.proc import process_usage

from ..catalogue import BY_NAME, CATALOGUE, Metric

_INFINITY = float("inf")

Source = Statistics | Callable[[], Statistics]


class ServerError(Exception):
    """The metrics cannot be served there; the text says why, in one line."""


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
            if metric.name not in _OwnUsage.names:
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


def make_registry(source: Source, *, own_usage: bool = True) -> CollectorRegistry:
    """A registry with the statistics in it; ``own_usage``: with what this very process costs, too."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatisticsCollector(source))
    if own_usage:
        registry.register(_OwnUsage())
    return registry


class _OwnUsage:
    """What the process that collects costs: the whole of it, so not where it is the application's own."""

    names = ("traceloop_collector_cpu_seconds_total", "traceloop_collector_resident_memory_bytes")

    def describe(self) -> Iterator[Family]:
        for name in self.names:
            yield _family(BY_NAME[name])

    def collect(self) -> Iterator[Family]:
        usage = process_usage(os.getpid())
        if usage is None:
            return
        for name, value in zip(self.names, (usage.cpu_s, float(usage.resident_bytes)), strict=True):
            family = _family(BY_NAME[name])
            family.samples.append(FamilySample(name, {}, value))
            yield family


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_address = True

    def server_bind(self) -> None:
        # Not the standard one, which asks the resolver for this machine's name: seconds where there is none.
        socket_address = self.server_address
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(socket_address)
        self._name_yourself()

    def _name_yourself(self) -> None:
        self.server_address = self.socket.getsockname()
        self.server_name = str(self.server_address[0])
        self.server_port = int(self.server_address[1])
        self.setup_environ()

    def adopt(self, listener: socket.socket) -> None:
        """Serves on a socket that listens already."""
        self.socket.close()
        self.socket = listener
        self._name_yourself()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; a fault of ours shows as a failed scrape."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 30

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing goes to the application's stderr."""

    def address_string(self) -> str:
        return str(self.client_address[0])


class MetricsServer:
    """A running server. ``host``, ``port``: where it listens."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self.host = server.server_name
        self.port = server.server_port
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.25}, name="traceloop-metrics", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the metrics are to be had."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"

    def close(self) -> None:
        """Stops serving and gives the port back; from any thread but the server's."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(
    source: Source,
    host: str = "localhost",
    port: int = 9464,
    *,
    listener: socket.socket | None = None,
    more: Iterable[Any] = (),
    own_usage: bool = True,
) -> MetricsServer:
    """Serves /metrics in threads of its own until it is closed; port 0 takes any free one.

    ``listener``: a socket that listens already, instead of host and port. ``more``: further collectors for the
    registry. Raises ServerError where the port is taken or the host is no address of this machine.
    """
    registry = make_registry(source, own_usage=own_usage)
    for collector in more:
        registry.register(collector)
    if listener is not None:
        kind = _Server6 if listener.family == socket.AF_INET6 else _Server
        server = kind((host, port), _Handler, bind_and_activate=False)
        server.adopt(listener)
    else:
        server = _bind(host, port)
    server.set_app(make_wsgi_app(registry))
    return MetricsServer(server)


def _bind(host: str, port: int) -> _Server:
    problem: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ServerError(f"cannot serve metrics on {host}: {error.strerror or error}") from None
    # IPv4 first: what is told to users as localhost:9464 is looked for there by most clients.
    for family, _, _, _, address in sorted(found, key=lambda each: each[0] != socket.AF_INET):
        kind = _Server6 if family == socket.AF_INET6 else _Server
        try:
            return kind((str(address[0]), int(address[1])), _Handler)
        except OSError as error:
            problem = problem or error
    reason = problem.strerror if problem is not None else "no address"
    raise ServerError(f"cannot serve metrics on {host}:{port}: {reason}")
