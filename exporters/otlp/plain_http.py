"""Requests to an OTLP receiver at an ``http://`` address, by the standard library's ``http.client``.

Most receivers are another process of the machine or the pod. For these the library ``requests`` would bring proxies,
cookies and character sets: 6 MB of the collector's memory, and 0.1 s of CPU time at its start. ``speaks_plainly`` says
whether all that can be left out; requests_http.py is for everything else.

The receiver cannot be trusted: what is read of an answer is bounded.
"""

from __future__ import annotations

import http.client
import os
import re
import select
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

from .responses import MAX_ANSWER_BYTES, reason_of, uncompressed
from .settings import OtlpSettings
from .transport import Answer, Body, NoAnswer

#: Without a login, and of characters only that go into a request as they are.
_ADDRESS: Final = re.compile(
    r"http://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?(?:[/?][a-z0-9._~!$&'()*+,;=:@/?%-]*)?", re.IGNORECASE
)
_HEADER_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+", re.IGNORECASE)
_HEADER_VALUE: Final = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")
#: Headers that say how a request is carried.
_CARRYING: Final = frozenset(
    ("connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)


def speaks_plainly(settings: OtlpSettings, headers: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    """Whether requests need neither TLS nor a proxy nor a login, and nothing in them has to be encoded."""
    if _ADDRESS.fullmatch(settings.endpoint) is None:
        return False
    try:
        urlsplit(settings.endpoint).port  # noqa: B018  # up to 65535
    except ValueError:
        return False
    if any(value for name, value in environ.items() if name.lower() in ("http_proxy", "all_proxy")):
        return False
    if environ.get("NETRC") or any(os.path.exists(os.path.expanduser(name)) for name in ("~/.netrc", "~/_netrc")):
        return False
    return all(
        _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value) and name.lower() not in _CARRYING
        for name, value in headers.items()
    )


class PlainHttp:
    """One connection, which is kept between requests."""

    def __init__(self, settings: OtlpSettings, headers: Mapping[str, str]) -> None:
        """``speaks_plainly`` has been asked."""
        parts = urlsplit(settings.endpoint)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = headers
        self._connection = _Connection(parts.hostname or "", 80 if parts.port is None else parts.port)

    def close(self) -> None:
        """Closes its connection."""
        self._connection.close()

    def post(self, body: bytes | Body, timeout: float) -> Answer:
        """One attempt (see ``Transport``)."""
        answered = False
        try:
            self._connect(timeout)
            self._write(body)
            with self._connection.getresponse() as response:
                answered = True
                data = _read_body(response)
                if not response.isclosed() and response.length != 0:  # longer or slower than what is read of it
                    self.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            # Once it has answered, it may have taken the spans. ValueError: of the name, which no DNS server is asked.
            raise NoAnswer(reason_of(error), again=not answered and not isinstance(error, ValueError)) from None
        headers = response.headers
        return Answer(
            response.status, headers.get("Retry-After"), uncompressed(data, headers.get("Content-Encoding", ""))
        )

    def _connect(self, timeout: float) -> None:
        connection: Any = self._connection
        if connection.sock is not None:
            poll = select.poll()
            poll.register(connection.sock, select.POLLIN)
            if poll.poll(0):  # it was closed, or something was sent that nobody asked for
                self.close()
        if connection.sock is None:
            connection.timeout = timeout
            connection.connect()
        connection.sock.until = time.monotonic() + timeout

    def _write(self, body: bytes | Body) -> None:
        connection = self._connection
        connection.putrequest("POST", self._target, skip_accept_encoding=True)
        for name, value in self._headers.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        try:
            if isinstance(body, bytes):
                connection.endheaders(body)
            else:
                connection.endheaders()
                for piece in body:
                    connection.send(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the receiver takes no more; it may have answered before: "too large", say


class _Socket(socket.socket):
    """A connection whose time is limited as a whole. A socket's own timeout begins anew with each byte that comes."""

    until: float

    def _limit(self) -> None:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)

    def sendall(self, data: Any, flags: int = 0) -> None:
        self._limit()
        super().sendall(data, flags)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        self._limit()
        return super().recv_into(buffer, nbytes, flags)


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock: Any = _Socket(fileno=self.sock.detach())


def _read_body(response: http.client.HTTPResponse) -> bytes:
    """At most ``MAX_ANSWER_BYTES``, and what comes in time. Raises OSError or HTTPException where the receiver has cut
    it short.
    """
    body = b""
    with suppress(TimeoutError):
        while len(body) < MAX_ANSWER_BYTES:
            piece = response.read1(MAX_ANSWER_BYTES - len(body))
            if not piece:
                if response.length:
                    raise http.client.IncompleteRead(body, response.length)
                break
            body += piece
    return body
