"""Receivers whose answers are endless, compressed a thousandfold, or written to be taken for lines of ours."""

from __future__ import annotations

import gc
import os
import resource
import socket
import time
import zlib

import pytest

from tests.helpers.listening import Listening
from tests.helpers.otlp_receiver import Receiver
from tests.helpers.waiting import PATIENCE, until
from traceloop.exporters.otlp.connection import OtlpConnection
from traceloop.exporters.otlp.responses import shown, shown_endpoint
from traceloop.exporters.otlp.sender import OtlpSender
from traceloop.exporters.otlp.settings import OtlpSettings
from traceloop.exporters.spans.model import Kind
from traceloop.exporters.spans.sinks import BatchLimits, Exported, Queued, SenderThread

KIND = Kind("app.handler", {})


pytestmark = pytest.mark.usefixtures("transport")


def make_spans(count):
    return [(KIND, os.urandom(16), os.urandom(8), b"", 1, 2, 0.0, b"", b"", None) for _ in range(count)]


class Scripted(Listening):
    """A receiver that answers every request by ``answer(connection)``, whatever was sent."""

    def __init__(self, answer):
        self.answer = answer
        self.answered = 0
        super().__init__()

    def serve(self, connection):
        with connection:
            try:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                head, _, body = data.partition(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                while len(body) < length:
                    body += connection.recv(65536)
                self.answered += 1
                self.answer(connection)
            except OSError:
                pass


@pytest.fixture
def send():
    """Sends five spans to a receiver that answers so; returns the sender and what it had to say."""
    made = []

    def start(answer, **more):
        receiver = Scripted(answer)
        notices = []
        settings = OtlpSettings(receiver.url + "/v1/traces", {}, **{"schedule_delay": 0.01, "timeout": 1.0, **more})
        sender = OtlpSender(settings, notices.append)
        made.append((sender, receiver))
        sender.put("p", {}, make_spans(5))
        return sender, notices

    yield start
    for sender, receiver in made:
        sender.shutdown(0.1)
        sender._connection.close()
        receiver.close()


def settled(sender):
    return sender.exported.sent + sum(sender.exported.dropped.values()) == 5


def endless(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")


def dripping(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        connection.sendall(b"\n")
        time.sleep(0.05)


def make_bomb():
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join(compressor.compress(bytes(1 << 20)) for _ in range(256)) + compressor.flush()


def bomb(connection, data=make_bomb()):  # noqa: B008
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(data))
    connection.sendall(data)


@pytest.mark.parametrize("answer", [endless, dripping, bomb])
def test_an_answer_is_read_within_bounds(send, answer):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sender, notices = send(answer)
    until(lambda: settled(sender))
    # A 200 is a 200, however it goes on.
    assert sender.exported.sent == 5 and notices == []
    sender.put("p", {}, make_spans(3))
    until(lambda: sender.exported.sent == 8)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000  # KiB; the bomb is 256 MiB


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx"])
def test_an_answer_that_is_none_ends_no_thread(send, answer):
    sender, notices = send(lambda connection: connection.sendall(answer))
    until(lambda: notices)
    assert sender._thread._thread.is_alive()


def test_the_body_of_an_error_forges_no_line_of_ours(send):
    body = b"no\r\ntraceloop: all is well\x1b[2J\x07\x00\xe2\x80\xae" + b"y" * 100_000
    head = b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n" % len(body)
    sender, notices = send(lambda connection: connection.sendall(head + body))
    until(lambda: settled(sender))
    assert sender.exported.dropped["rejected"] == 5
    (line,) = notices
    assert "status 400 no traceloop: all is well [2J" in line
    assert line.isprintable() and len(line) < 400


def test_what_is_shown_of_an_address_has_no_secret_in_it():
    assert shown_endpoint("https://user:secret@host:4318/v1/traces?key=secret#x") == "https://host:4318/v1/traces"
    assert shown_endpoint("http://localhost:4318/v1/traces") == "http://localhost:4318/v1/traces"
    assert "secret" not in shown_endpoint("http://[::1:x:secret@y?secret")
    assert shown("a\nb\x1b\u202ec " + "d" * 1000) == ("a b c " + "d" * 1000)[:200]


def test_a_password_in_the_address_is_not_printed():
    notices = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    settings = OtlpSettings(f"http://user:secret@127.0.0.1:{port}/v1/traces?token=secret", {}, schedule_delay=0.01)
    sender = OtlpSender(settings, notices.append)
    sender.put("p", {}, make_spans(1))
    until(lambda: notices)
    sender.shutdown(0.1)
    sender._connection.close()
    assert "secret" not in notices[0] and f"127.0.0.1:{port}" in notices[0]


def test_rejections_beyond_what_was_sent_count_no_further():
    receiver = Receiver()
    receiver.partial = 1 << 40
    sender = OtlpSender(OtlpSettings(receiver.url + "/v1/traces", {}, schedule_delay=0.01), print)
    try:
        sender.put("p", {}, make_spans(5))
        until(lambda: settled(sender))
        assert (sender.exported.sent, sender.exported.dropped["rejected"]) == (0, 5)
    finally:
        sender.shutdown(1)
        sender._connection.close()
        receiver.close()


@pytest.mark.parametrize("error", [MemoryError, SystemExit, RuntimeError])
def test_a_sender_that_raises_lives_on_and_says_so_once(error):
    notices, calls = [], []

    def send(batch):
        calls.append(len(batch))
        if len(calls) < 3:
            raise error
        return sum(item.spans for item in batch), ""

    exported = Exported()
    thread = SenderThread("test", BatchLimits(1, 0.0), exported, send, notices.append)
    for _ in range(3):
        thread.put(Queued(b"", 1, 0, None))
    assert thread.flush(PATIENCE)
    thread.shutdown(5)
    assert (exported.sent, exported.dropped["rejected"], len(notices)) == (1, 2, 1)
    # After its end everything is counted as lost.
    thread.put(Queued(b"", 4, 0, None))
    assert exported.dropped["shutdown"] == 4


class _Waiting:
    deadline = None
    failing = False

    def pause(self, seconds):
        pass


@pytest.mark.parametrize("how", ["reset", "gone"])
def test_a_failed_request_leaves_nothing_behind(how):
    """Its body lay in a cycle of exception, traceback and frame: 800 MB in an hour of failures."""

    receiver = Scripted(lambda connection: None)  # closed without an answer
    if how == "gone":
        receiver.close()
    connection = OtlpConnection(OtlpSettings.from_environ({}, receiver.url, str), "spans", str)

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    connection.send([bytes(1 << 20)], _Waiting(), 0.0)
    gc.collect()
    gc.disable()
    try:
        before = resident()
        for _ in range(40):
            assert connection.send([os.urandom(1 << 20)], _Waiting(), 0.0).reason == "unavailable"
        assert resident() - before < 20 << 20
    finally:
        gc.enable()
        connection.close()
        if how != "gone":
            receiver.close()
