"""The socket that /metrics is served on."""

from __future__ import annotations

# `socket` takes longer to import than everything else that is done before the program runs.
import _socket as socket
import errno
import os

from .errors import CollectorError

_STANDARD_VARIABLE = "OTEL_EXPORTER_PROMETHEUS_PORT"


def listen(host: str, port: int, *, required: bool, page: bool) -> tuple[socket.socket, str | None]:
    """A listening TCP socket, and a notice where it is not on the port that was named.

    Port 0 takes any free one. A taken port: ``CollectorError`` where it is ``required``, else any free one. ``page``:
    whether a page is served there too, which the notice names.
    """
    address, family = _address(host)
    try:
        return _listen(family, address, port), None
    except OSError as error:
        if error.errno != errno.EADDRINUSE and (required or error.errno != errno.EACCES):
            raise CollectorError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        if required:
            raise CollectorError(f"the metrics port {port} on {host} is taken ({_chosen_by(port)})") from None
    listener = _listen(family, address, 0)
    return listener, f"port {port} is taken; {addresses(url_of(listener, host), page)}"


def _chosen_by(port: int) -> str:
    """What chose the port. A collector's process always has the port in our own variable, so we look at the standard
    variable first.
    """
    if os.environ.get(_STANDARD_VARIABLE, "").strip() == str(port):
        return _STANDARD_VARIABLE
    return "--metrics-port or OTEL_PYTHON_TRACELOOP_METRICS_PORT"


def close_listener(listener: socket.socket) -> None:
    """Frees the port at once, even while other processes hold the socket or a thread waits for it."""
    try:
        listener.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # macOS does not know it for a listening socket
    listener.close()


def url_of(listener: socket.socket, host: str) -> str:
    """The address of the metrics, with the host as it was named."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}/metrics"


def addresses(metrics_url: str, page: bool) -> str:
    """The line at the start that names the page and the metrics."""
    start = f"page at {metrics_url.removesuffix('metrics')}, " if page else ""
    return f"{start}metrics at {metrics_url}"


def _address(host: str) -> tuple[str, int]:
    # Looked up only where it has to be: a look-up brings in the codecs of international names, 10 ms.
    if host == "localhost":
        return "127.0.0.1", socket.AF_INET
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return host, family
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise CollectorError(f"cannot listen on {host}: {error.strerror or error}") from None
    return str(found[4][0]), found[0]


def _listen(family: int, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener
