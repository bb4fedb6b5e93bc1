"""Plain HTTP and the library have the same outcome, for every answer; what is not plain goes through the library."""

import contextlib
import os
import socket
import threading

import pytest

from tests.helpers.listening import Listening
from tests.helpers.waiting import PATIENCE, until
from traceloop.exporters.otlp.plain_http import PlainHttp, speaks_plainly
from traceloop.exporters.otlp.requests_http import RequestsHttp
from traceloop.exporters.otlp.settings import OtlpSettings
from traceloop.exporters.otlp.transport import Body, NoAnswer

BODIES = (b"small", Body([b"a" * 10, b"b" * 100_000, b"c"]))


class Scripted(Listening):
    """Answers the requests of each connection by ``answers``, one after the other, then closes it. ``step``: how many
    bytes of an answer are sent at once.
    """

    def __init__(self, *answers, step=1 << 20):
        self.answers = answers
        self.step = step
        self.requests = []
        self.connections = self.closed = 0
        super().__init__()

    def serve(self, connection):
        self.connections += 1
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as file:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for answer in self.answers:
                if not self._read(file):
                    break
                for at in range(0, len(answer), self.step):
                    connection.sendall(answer[at : at + self.step])
        self.closed += 1

    def _read(self, file):
        lines = []
        while (line := file.readline()) not in (b"\r\n", b""):
            lines.append(line.decode().rstrip("\r\n"))
        if not lines:
            return False
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        self.requests.append((lines[0], headers, file.read(int(headers["content-length"]))))
        return True


@pytest.fixture
def serve():
    made = []

    def make(*answers, **more):
        made.append(Scripted(*answers, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(params=[PlainHttp, RequestsHttp])
def connect(request):
    made = []

    def make(url, headers=None):
        made.append(request.param(OtlpSettings(url, {}), headers or {}))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("step", [1 << 20, 1])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", (200, None, b"ok")),
        (b"HTTP/1.1 200\r\ncontent-length:0\r\n\r\n", (200, None, b"")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, None, b"")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n",
         (200, None, b"ok!")),
        (b"HTTP/1.0 200 OK\r\n\r\nall of it", (200, None, b"all of it")),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n.", (200, None, b".")),
        (b"HTTP/1.1 503 Busy\r\nRETRY-AFTER: 7\r\nContent-Length: 0\r\n\r\n", (503, "7", b"")),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", (302, None, b"")),
    ],
)  # fmt: skip
def test_answers(serve, connect, answer, expected, step):
    receiver = serve(answer, step=step)
    assert connect(receiver.url).post(b"body", PATIENCE) == expected


@pytest.mark.parametrize(
    ("answer", "again"),
    [
        (b"", True),
        (b"nonsense\r\n\r\n", True),
        # It has answered, so that it may have taken the spans.
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", False),
    ],
)
def test_answers_that_are_none(serve, connect, answer, again):
    receiver = serve(answer)
    with pytest.raises(NoAnswer, match=r"\w") as caught:
        connect(receiver.url).post(b"body", PATIENCE)
    assert caught.value.again == again


def test_a_head_that_is_cut_short_is_no_answer(serve):
    transport = PlainHttp(OtlpSettings(serve(b"HTTP/1.1 200 OK\r\nContent-Le").url, {}), {})
    assert transport.post(b"body", PATIENCE).body == b""


@pytest.mark.parametrize("body", BODIES)
def test_requests(serve, connect, body):
    receiver = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    connect(f"{receiver.url}/v1/traces?tenant=a%20b", {"X-Tenant": "one, two"}).post(body, PATIENCE)
    ((line, headers, data),) = receiver.requests
    assert line == "POST /v1/traces?tenant=a%20b HTTP/1.1"
    assert headers["host"] == receiver.url.removeprefix("http://") and headers["x-tenant"] == "one, two"
    assert data == (body if isinstance(body, bytes) else b"".join(body))


def test_a_connection_is_used_again_until_it_is_closed(serve, connect):
    receiver = serve(*[b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"] * 2)
    transport = connect(receiver.url)
    for number in (1, 1, 2, 2, 3):
        assert transport.post(b"body", PATIENCE).status == 200
        if len(receiver.requests) % 2 == 0:
            until(lambda number=number: receiver.closed == number)
        assert receiver.connections == number


def test_a_connection_is_not_used_again_where_nothing_may_follow(serve, connect):
    receiver = serve(*[b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"] * 5)
    transport = connect(receiver.url)
    for _ in range(2):
        assert transport.post(b"body", PATIENCE).status == 200
    transport.close()
    assert receiver.connections == 2


@pytest.mark.parametrize("resets", [False, True])
def test_an_answer_may_come_before_all_was_sent(connect, resets):
    listener = socket.create_server(("127.0.0.1", 0))

    def refuse():
        connection, _ = listener.accept()
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        if not resets:  # it does, where it closes with something unread
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 20):
                pass
        connection.close()

    thread = threading.Thread(target=refuse)
    thread.start()
    transport = connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert transport.post(Body([bytes(4 << 20)]), PATIENCE).status == 413
    transport.close()
    thread.join(PATIENCE)
    listener.close()


@pytest.mark.parametrize("line", [b"a: b\r\n", b"a"])
def test_a_head_without_end_is_given_up(serve, connect, line):
    receiver = serve(b"HTTP/1.1 200 OK\r\n" + line * (1 << 20))
    with pytest.raises(NoAnswer, match="got more than"):
        connect(receiver.url).post(b"body", PATIENCE)


def test_an_answer_that_does_not_come_is_not_waited_for(connect):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        transport = connect(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(NoAnswer, match=r"timed out|timeout") as caught:
            transport.post(b"body", 0.05)
    assert caught.value.again


def test_head_and_body_have_one_timeout_together(connect):
    over = threading.Event()

    def drip():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            over.wait(0.8)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            with contextlib.suppress(OSError):
                while not over.wait(0.02):
                    connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip)
        thread.start()
        try:
            transport = connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
            answer = transport.post(b"body", 1.0)
            transport.close()
        finally:
            over.set()
            thread.join(PATIENCE)
    # In a second it would be some 50.
    assert answer.status == 200 and len(answer.body) < 25


@pytest.mark.parametrize("takes_all", [True, False], ids=["answers", "takes"])
def test_request_and_answer_have_one_timeout_where_each_byte_takes_its_time(takes_all):
    over = threading.Event()

    def drip():
        connection, _ = listener.accept()
        with contextlib.suppress(OSError), connection:
            if takes_all:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not over.wait(0.02):
                if takes_all:
                    connection.sendall(b"x")
                else:
                    connection.recv(1 << 16)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        transport = PlainHttp(OtlpSettings(f"http://127.0.0.1:{listener.getsockname()[1]}", {}), {})
        watch = threading.Timer(PATIENCE, over.set)
        watch.start()
        try:
            with pytest.raises(NoAnswer, match="timed out"):
                transport.post(b"body" if takes_all else Body([bytes(1 << 20)] * 1024), 0.5)
            assert not over.is_set()
        finally:
            watch.cancel()
            over.set()
            thread.join(PATIENCE)


def test_a_name_that_cannot_be_looked_up_is_not_tried_again():
    with pytest.raises(NoAnswer, match="label empty") as caught:
        PlainHttp(OtlpSettings("http://a..b", {}), {}).post(b"body", PATIENCE)
    assert not caught.value.again


@pytest.mark.parametrize(
    ("endpoint", "headers", "environ", "plain"),
    [
        ("http://127.0.0.1:4318/v1/traces", {}, {}, True),
        ("http://[::1]:4318/v1/traces?a=b%20c", {"x-tenant": "one two", "empty": ""}, {}, True),
        ("HTTP://Collector", {}, {"http_proxy": "", "HTTPS_PROXY": "http://proxy"}, True),
        ("https://127.0.0.1:4318/v1/traces", {}, {}, False),
        ("http://user:secret@127.0.0.1/v1/traces", {}, {}, False),
        ("http://b\u00fccher/v1/traces", {}, {}, False),
        ("http://127.0.0.1:99999/v1/traces", {}, {}, False),
        ("http://127.0.0.1/v1/tr aces", {}, {}, False),
        ("http://127.0.0.1/#here", {}, {}, False),
        ("http://127.0.0.1/", {"x": "a\r\nHost: b"}, {}, False),
        ("http://127.0.0.1/", {"x": "\u00fc"}, {}, False),
        ("http://127.0.0.1/", {"x y": "z"}, {}, False),
        ("http://127.0.0.1/", {"Host": "other"}, {}, False),
        ("http://127.0.0.1/", {}, {"HTTP_PROXY": "http://proxy"}, False),
        ("http://127.0.0.1/", {}, {"all_proxy": "socks5://proxy"}, False),
        ("http://127.0.0.1/", {}, {"NETRC": "/some/file"}, False),
    ],
)
def test_what_is_plain(monkeypatch, tmp_path, endpoint, headers, environ, plain):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert speaks_plainly(OtlpSettings(endpoint, {}), headers, environ) == plain


def test_logins_in_a_file_are_not_plain(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    assert not speaks_plainly(OtlpSettings("http://127.0.0.1/", {}), {}, os.environ)
