"""/metrics on a socket that listens already."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import make_wsgi_app

from .http import Application, HttpServer
from .metrics import Source, make_registry


class MetricsServer(HttpServer):
    """A running server. ``host``, ``port``: where it listens."""

    @property
    def url(self) -> str:
        """Where the metrics are to be had."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"


def serve(
    source: Source,
    listener: socket.socket,
    *,
    more: Iterable[Any] = (),
    own_usage: bool = True,
    beside: Callable[[Application], Application] | None = None,
) -> MetricsServer:
    """Serves /metrics on ``listener`` until it is closed.

    ``more``: further collectors for the registry. ``beside``: wraps the application in one that has other pages too.
    """
    registry = make_registry(source, with_own_usage=own_usage)
    for collector in more:
        registry.register(collector)
    application: Application = make_wsgi_app(registry)
    return MetricsServer(listener, beside(application) if beside else application, "traceloop-metrics")
