"""A small HTTP server for answers that are made at once: one thread, bounded connections, bounded time.

The standard library's has a thread for each connection and no bound for them. Here

* a client that sends its request slowly, or does not read its answer, is dropped after a few seconds;
* beyond ``MAX_CONNECTIONS`` the oldest connection makes room for the newest: an honest client is done long before;
* requests that ask for the same thing at the same time get one answer, made once, after the last of them came;
* where it listens on this machine only, it answers requests for this machine only: a page of another site in a
  browser, whose host name was made to point here (DNS rebinding), is refused.

Applications are WSGI (PEP 3333), without a request body.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

MAX_CONNECTIONS: Final = 64
MAX_HEAD_BYTES: Final = 16 << 10
#: From the connection to the end of the request's head, and from there to the last byte of the answer, s.
READ_SECONDS: Final = 5.0
WRITE_SECONDS: Final = 20.0
_ACCEPTS_A_ROUND: Final = 16
_REFUSED: Final = "this server answers requests to this machine's own names and addresses only"

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Request(NamedTuple):
    """What an answer depends on."""

    method: str
    target: str
    accept: str
    accept_encoding: str


class _Connection:
    """One client. until: monotonic s by which it must be done with what it does now. left: of its answer."""

    __slots__ = ("head", "left", "socket", "until")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.head = bytearray()
        self.left: memoryview | None = None
        self.until = time.monotonic() + READ_SECONDS


class HttpServer:
    """Serves ``application`` on a socket that listens already, in a thread of its own, until it is closed."""

    def __init__(self, listener: socket.socket, application: Application, name: str) -> None:
        """``name``: of the thread. The listener is the server's from now on."""
        self._listener = listener
        self._application = application
        address = listener.getsockname()
        self.host, self.port = str(address[0]), int(address[1])
        self._only_this_machine = _is_loopback(self.host)
        self._connections: dict[int, _Connection] = {}  # by descriptor, the oldest first
        self._closing = False
        self._waker, self._woken = socket.socketpair()
        # Given up for a moment where there is none left, so that a client can be refused.
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops serving and gives the port back; from any thread but the server's."""
        self._closing = True
        # It may have come round by itself since, and be gone already.
        with contextlib.suppress(OSError):
            self._waker.send(b"x")
        self._thread.join()

    def _work(self) -> None:
        try:
            while not self._closing:
                self._round()
        finally:
            for connection in list(self._connections.values()):
                self._drop(connection)
            self._selector.close()
            for each in (self._listener, self._waker, self._woken):
                each.close()
            os.close(self._spare)

    def _round(self) -> None:
        requests: list[tuple[_Connection, _Request | bytes]] = []
        now = time.monotonic()
        soonest = min((each.until for each in self._connections.values()), default=now + 3600.0)
        for key, _ in self._selector.select(max(0.0, soonest - now)):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is not self._woken:
                connection = self._connections.get(key.fd)
                if connection is None:
                    continue  # it made room for another in this round
                if connection.left is not None:
                    self._write(connection)
                elif self._read(connection):
                    requests.append((connection, self._parse(bytes(connection.head))))
        answers: dict[_Request, bytes] = {}
        for connection, request in requests:
            if isinstance(request, bytes):
                answer = request
            elif request in answers:
                answer = answers[request]
            else:
                answer = answers[request] = self._answer(request)
            self._begin_to_write(connection, answer)
        now = time.monotonic()
        for connection in [each for each in self._connections.values() if each.until <= now]:
            self._drop(connection)

    # -- connections

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_A_ROUND):
            try:
                made, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._turn_away()
                return
            made.setblocking(False)
            while len(self._connections) >= MAX_CONNECTIONS:
                self._drop(next(iter(self._connections.values())))
            self._connections[made.fileno()] = _Connection(made)
            self._selector.register(made, selectors.EVENT_READ)

    def _turn_away(self) -> None:
        """No descriptor is left: the oldest connection goes, or else the one that waits."""
        if self._connections:
            self._drop(next(iter(self._connections.values())))
            return
        os.close(self._spare)
        try:
            self._listener.accept()[0].close()
        except OSError:
            pass
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _drop(self, connection: _Connection) -> None:
        self._connections.pop(connection.socket.fileno(), None)
        try:
            self._selector.unregister(connection.socket)
        except (KeyError, ValueError):
            pass
        connection.socket.close()

    def _read(self, connection: _Connection) -> bool:
        """Whether the head of the request is complete, or as long as it may be."""
        try:
            data = connection.socket.recv(MAX_HEAD_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return False
        connection.head += data
        head = connection.head
        return b"\r\n\r\n" in head or b"\n\n" in head or len(head) > MAX_HEAD_BYTES

    def _begin_to_write(self, connection: _Connection, answer: bytes) -> None:
        connection.left = memoryview(answer)
        connection.until = time.monotonic() + WRITE_SECONDS
        self._selector.modify(connection.socket, selectors.EVENT_WRITE)
        self._write(connection)

    def _write(self, connection: _Connection) -> None:
        assert connection.left is not None
        try:
            sent = connection.socket.send(connection.left)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # it went away
            self._drop(connection)
            return
        connection.left = connection.left[sent:]
        if not connection.left:
            self._drop(connection)

    # -- requests

    def _parse(self, head: bytes) -> _Request | bytes:
        """The request, or the answer to what is none, or none for us."""
        lines = head.decode("latin-1").replace("\r\n", "\n").partition("\n\n")[0].split("\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1.") or len(head) > MAX_HEAD_BYTES:
            return _response("400 Bad Request", [], b"expected an HTTP request\n", True)
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if self._only_this_machine and not is_own_name(headers.get("host", "")):
            return _response("403 Forbidden", [], f"{_REFUSED}\n".encode(), True)
        return _Request(words[0], words[1], headers.get("accept", ""), headers.get("accept-encoding", ""))

    def _answer(self, request: _Request) -> bytes:
        path, _, query = request.target.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "GET" if request.method == "HEAD" else request.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "SERVER_NAME": self.host,
            "SERVER_PORT": str(self.port),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": "http",
        }
        if request.accept:
            environ["HTTP_ACCEPT"] = request.accept
        if request.accept_encoding:
            environ["HTTP_ACCEPT_ENCODING"] = request.accept_encoding
        status, headers = "500 Internal Server Error", []

        def start_response(given: str, fields: list[tuple[str, str]], *more: object) -> None:
            nonlocal status, headers
            status, headers = given, fields

        try:
            body = b"".join(self._application(environ, start_response))
            return _response(status, headers, body, request.method != "HEAD")
        except Exception as error:  # a fault of ours shows as a failed request, and nowhere else
            return _response("500 Internal Server Error", [], f"{type(error).__name__}\n".encode(), True)


def _response(status: str, headers: list[tuple[str, str]], body: bytes, with_body: bool) -> bytes:
    fields = headers or [("Content-Type", "text/plain; charset=utf-8")]
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields if name.lower() != "content-length")]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace") + (body if with_body else b"")


def is_own_name(host: str) -> bool:
    """Whether a Host header names this machine: an address, ``localhost``, a name without dots, or its own name. None
    of these can another site's name point here. A request without the header is no browser's.
    """
    name = host.strip().rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    name = name.strip().rstrip(".").lower()
    if "." not in name and ":" not in name:
        return True
    if name.endswith(".localhost") or name == socket.gethostname().lower():
        return True
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
