"""/metrics on a socket that listens already, in threads of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from .metrics import Source, make_registry


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        # Not asked of the resolver, as the standard server does: seconds where there is none.
        self.server_address = listener.getsockname()
        self.server_name = str(self.server_address[0])
        self.server_port = int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; a fault of ours shows as a failed scrape."""


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
    source: Source, listener: socket.socket, *, more: Iterable[Any] = (), own_usage: bool = True
) -> MetricsServer:
    """Serves /metrics on ``listener`` until it is closed. ``more``: further collectors for the registry."""
    registry = make_registry(source, own_usage=own_usage)
    for collector in more:
        registry.register(collector)
    server = _Server(listener)
    server.set_app(make_wsgi_app(registry))
    return MetricsServer(server)
