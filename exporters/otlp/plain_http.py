"""Requests to an OTLP receiver by HTTP/1.1 (RFC 9112) over a socket, with nothing between.

Most receivers are another process of the machine or the pod, at an ``http://`` address. For these the library
``requests`` would bring TLS, proxies and cookies: 10 MB of the collector's memory, and 0.15 s of CPU time at its start.
``speaks_plainly`` says whether all that can be left out; requests_http.py is for everything else.

The receiver cannot be trusted: what is read of an answer is bounded in size and in time.
"""

from __future__ import annotations

import os
import re
import select
import socket
import time
from collections.abc import Mapping
from typing import Final
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
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: .*)?", re.DOTALL)
_MAX_HEAD_BYTES: Final = 64 << 10
_READ_BYTES: Final = 16 << 10


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
        # As bytes: a text would be encoded by a codec that imports tables of Unicode.
        self._address = (parts.hostname or "").encode(), parts.port or 80
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [f"POST {target} HTTP/1.1", f"Host: {parts.netloc}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._head = "\r\n".join([*lines, "Content-Length: "]).encode()
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Closes its connection."""
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def post(self, body: bytes | Body, timeout: float) -> Answer:
        """One attempt (see ``Transport``)."""
        answered = False
        try:
            connection = self._connected(timeout)
            whole = _write(connection, self._head + b"%d\r\n\r\n" % len(body), body)
            reader = _AnswerReader(connection, time.monotonic() + timeout)
            reader.read_head()
            answered = True
            data = reader.read_body()
        except Exception as error:
            self.close()
            # Once it has answered, it may have taken the spans.
            raise NoAnswer(reason_of(error), again=isinstance(error, OSError) and not answered) from None
        if not whole or not reader.keeps_alive:
            self.close()
        headers = reader.headers
        return Answer(
            reader.status, headers.get("retry-after"), uncompressed(data, headers.get("content-encoding", ""))
        )

    def _connected(self, timeout: float) -> socket.socket:
        connection = self._socket
        if connection is not None:
            poll = select.poll()
            poll.register(connection, select.POLLIN)
            if not poll.poll(0):
                connection.settimeout(timeout)
                return connection
            self.close()  # it was closed, or something was sent that nobody asked for
        connection = self._socket = socket.create_connection(self._address, timeout)  # type: ignore[arg-type]
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def _write(connection: socket.socket, head: bytes, body: bytes | Body) -> bool:
    """Returns False where the receiver takes no more. It may have answered before it stopped: "too large", say."""
    try:
        if isinstance(body, bytes):
            connection.sendall(head + body)
        else:
            connection.sendall(head)
            for piece in body:
                connection.sendall(piece)
    except BrokenPipeError:
        return False
    return True


class _NotHttp(ConnectionError):
    """The answer is cut short, or none that HTTP has."""


class _AnswerReader:
    """Reads one answer, until ``until`` (monotonic s) at the latest."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self.status = 0
        #: By their names in lower case.
        self.headers: dict[str, str] = {}
        #: Whether another request can follow on the connection. Known when the body was read.
        self.keeps_alive = False
        self._connection = connection
        self._until = until
        self._data = b""
        self._room = _MAX_HEAD_BYTES

    def read_head(self) -> None:
        """Reads up to the body. Raises OSError."""
        while self.status < 200:  # before the answer there may be others, such as 100 Continue
            line = self._line()
            match = _STATUS.fullmatch(line)
            if match is None:
                raise _NotHttp("the answer is not HTTP")
            self.status = int(match[2])
            self.headers = {}
            while line := self._line():
                name, _, value = line.decode("latin-1").partition(":")
                self.headers.setdefault(name.strip().lower(), value.strip())
            connection = self.headers.get("connection", "").lower()
            self.keeps_alive = "close" not in connection if match[1] == b"1" else "keep-alive" in connection

    def read_body(self) -> bytes:
        """At most ``MAX_ANSWER_BYTES``, and what has come in time. Raises OSError where the receiver has cut it short,
        ValueError where its chunks make no sense.
        """
        body = bytearray()
        length = self.headers.get("content-length", "")
        try:
            if self.status in (204, 304):
                pass
            elif "chunked" in self.headers.get("transfer-encoding", "").lower():
                self._read_chunks(body)
            elif length.isascii() and length.isdigit():
                self._read_into(body, int(length))
            else:
                self.keeps_alive = False
                body += self._data
                self._data = b""
                while len(body) < MAX_ANSWER_BYTES and (piece := self._received()):
                    body += piece
        except TimeoutError:
            self.keeps_alive = False
        if len(body) >= MAX_ANSWER_BYTES or self._data:
            self.keeps_alive = False
        return bytes(body[:MAX_ANSWER_BYTES])

    def _read_chunks(self, body: bytearray) -> None:
        while len(body) < MAX_ANSWER_BYTES:
            size = int(self._line().partition(b";")[0], 16)
            if size < 0:
                raise ValueError("the answer has a chunk of negative size")
            if size == 0:
                while self._line():
                    pass
                return
            self._read_into(body, size)
            if len(body) < MAX_ANSWER_BYTES and self._line():
                raise ValueError("the answer has a chunk without end")

    def _read_into(self, body: bytearray, size: int) -> None:
        left = min(size, MAX_ANSWER_BYTES - len(body))
        while left:
            part, self._data = self._data[:left], self._data[left:]
            body += part
            left -= len(part)
            if left:
                self._data = self._received() or self._ended()

    def _line(self) -> bytes:
        while b"\n" not in self._data:
            if len(self._data) > self._room:
                raise _NotHttp("the answer has a head without end")
            self._data += self._received() or self._ended()
        line, _, self._data = self._data.partition(b"\n")
        self._room -= len(line) + 1
        if self._room < 0:
            raise _NotHttp("the answer has a head without end")
        return line.removesuffix(b"\r")

    def _received(self) -> bytes:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._connection.settimeout(left)
        return self._connection.recv(_READ_BYTES)

    def _ended(self) -> bytes:
        raise _NotHttp("the connection was closed before the end of an answer")
