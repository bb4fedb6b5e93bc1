"""The live page beside /metrics: `/` is the page, `/data.json` what it asks for once a second."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..json.report import dump
from .page import the_page

if TYPE_CHECKING:
    from traceloop.reading.statistics.run import Statistics

    Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def with_page(metrics: Application, source: Callable[[], Statistics], command: str = "") -> Application:
    """A WSGI application (PEP 3333) with the page beside ``metrics``; anything else is not found.

    ``source`` returns the statistics, read up to now; it is called in the server's thread.
    """

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            return metrics(environ, start_response)
        if path not in ("/", "/data.json"):
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"not found: the page is at /, the metrics are at /metrics\n"]
        headers = [
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ]
        if environ.get("REQUEST_METHOD", "GET") not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [*headers, ("Allow", "GET, HEAD")])
            return [b""]
        if path == "/":
            page = the_page()
            body = page.text(None).encode()
            headers += [
                ("Content-Type", "text/html; charset=utf-8"),
                ("Content-Security-Policy", page.policy(live=True) + "; frame-ancestors 'none'"),
            ]
        else:
            body = dump(source(), command=command, live=True).encode()
            headers.append(("Content-Type", "application/json"))
        if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
            body = gzip.compress(body, 1)
            headers.append(("Content-Encoding", "gzip"))
        start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
        return [body]

    return application
