"""Scrapers that send slowly, never read, hold connections open, or come from somebody else's page."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest

from traceloop.exporters.prometheus import http as served
from traceloop.exporters.prometheus.http import MAX_CONNECTIONS, HttpServer, is_own_name

BODY = b"x" * 5_000_000


class Page:
    """A served application that counts how often it is asked."""

    def __init__(self, body=b"hello\n", host="127.0.0.1"):
        self.body = body
        self.asked = 0
        self.server = HttpServer(socket.create_server((host, 0)), self, "test-http")
        self.address = (host, self.server.port)

    def __call__(self, environ, start_response):
        self.asked += 1
        if environ["PATH_INFO"] == "/fails":
            raise ValueError("secret")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [self.body]

    def get(self, path="/metrics", **headers):
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{self.server.port}{path}", headers=headers), timeout=120
        ) as answer:
            return answer.read()


@pytest.fixture
def page():
    made = []

    def make(*arguments):
        made.append(Page(*arguments))
        return made[-1]

    yield make
    for each in made:
        each.server.close()


def threads():
    return len(os.listdir("/proc/self/task"))


def is_closed(connection, timeout=120.0):
    connection.settimeout(timeout)
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def test_a_request_may_come_in_any_pieces(page):
    at = page()
    request = b"GET /metrics?name[]=a HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for cuts in (range(1, len(request)), [], [request.index(b"\r\n\r\n") + 2]):
        with socket.create_connection(at.address) as connection:
            last = 0
            for cut in [*cuts, len(request)]:
                connection.sendall(request[last:cut])
                last = cut
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert (answer.status, answer.read()) == (200, b"hello\n")


def test_clients_that_drip_bytes_or_never_read_take_no_threads_and_hold_up_nobody(page, monkeypatch):
    monkeypatch.setattr(served, "READ_SECONDS", 1.0)
    monkeypatch.setattr(served, "WRITE_SECONDS", 1.0)
    at = page(BODY)
    before = threads()
    with contextlib.ExitStack() as stack:
        lazy = []
        for number in range(100):
            connection = stack.enter_context(socket.create_connection(at.address))
            connection.sendall(b"GET /metrics HTTP/1.1\r\n" + (b"\r\n" if number % 2 else b"X"))
            lazy.append(connection)
        started = time.monotonic()
        assert at.get() == BODY
        assert time.monotonic() - started < 60  # one after the other, they would take 100
        assert threads() == before
        # They are dropped, whatever they still do.
        assert all(is_closed(connection) for connection in lazy)
    assert at.get() == BODY


def test_more_connections_than_there_are_descriptors(page):
    at = page()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 2 * MAX_CONNECTIONS + 40, hard))
    try:
        # The clients' ends are descriptors of this process too: connect until there are none left.
        with contextlib.suppress(OSError):
            for _ in range(1500):
                held.append(socket.create_connection(at.address, timeout=5))
        assert len(held) > MAX_CONNECTIONS
        for connection in held[:8]:
            connection.close()
        assert at.get() == b"hello\n"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for connection in held:
            connection.close()
    assert at.get() == b"hello\n"


def test_those_who_ask_at_once_share_an_answer_that_is_made_after_they_asked(page):
    at = page()
    release = threading.Event()
    original = at.server._application

    def slow(environ, start_response):
        release.wait(120)
        return original(environ, start_response)

    at.server._application = slow
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(at.address)) for _ in range(30)]
        for client in clients:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        release.set()
        for client in clients:
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert answer.read() == b"hello\n"
    assert at.asked < 30


@pytest.mark.parametrize("request_", [b"nonsense\r\n\r\n", b"\0" * 40_000, b"GET / HTTP/9\r\n\r\n", b"\r\n\r\n"])
def test_what_is_no_request_is_refused(page, request_):
    at = page()
    with socket.create_connection(at.address) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request_)
        answer = http.client.HTTPResponse(connection)
        with contextlib.suppress(OSError):  # closed with something unread
            answer.begin()
            assert answer.status == 400
    assert at.get() == b"hello\n" and at.asked == 1


def test_a_fault_shows_as_a_failed_request_that_says_nothing(page, capfd):
    at = page()
    with pytest.raises(urllib.error.HTTPError, match="500") as caught:
        at.get("/fails")
    with caught.value as answer:
        assert b"secret" not in answer.read()
    assert at.get() == b"hello\n"
    assert capfd.readouterr() == ("", "")


def test_head_has_the_length_and_no_body(page):
    at = page()
    connection = http.client.HTTPConnection(*at.address)
    connection.request("HEAD", "/metrics")
    answer = connection.getresponse()
    assert (answer.headers["Content-Length"], answer.read()) == ("6", b"")
    connection.close()


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost:9464", True),
        ("127.0.0.1:9464", True),
        ("[::1]:9464", True),
        ("app.localhost", True),
        ("devbox:9464", True),
        (socket.gethostname(), True),
        ("", True),
        ("192.168.1.7", True),
        ("evil.example", False),
        ("evil.example:9464", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example.", False),
    ],
)
def test_whose_name_a_host_header_is(page, host, own):
    assert is_own_name(host) is own
    at = page()
    with socket.create_connection(at.address) as connection:
        connection.sendall(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == (200 if own else 403)


def test_a_server_for_the_network_answers_to_any_name(page):
    at = page(b"hello\n", "0.0.0.0")
    assert at.get(Host="metrics.example") == b"hello\n"


def test_closing_gives_the_port_back():
    at = Page()
    with socket.create_connection(at.address) as connection:
        at.server.close()
        assert is_closed(connection)
    socket.create_server(at.address).close()
