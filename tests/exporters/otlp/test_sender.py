"""The OTLP sender against a receiver that works, and against ones that do not."""

import gc
import os
import socket
import threading
import time
from email.utils import formatdate

import pytest

from tests.helpers.otlp_receiver import Receiver, attributes_of
from tests.helpers.waiting import PATIENCE, until
from traceloop.exporters.otlp import connection
from traceloop.exporters.otlp import sender as sending
from traceloop.exporters.otlp.encoder import encode_spans
from traceloop.exporters.otlp.responses import rejected
from traceloop.exporters.otlp.sender import OtlpSender
from traceloop.exporters.otlp.settings import OtlpSettings
from traceloop.exporters.spans.model import Kind

pytestmark = pytest.mark.usefixtures("transport")

KIND = Kind("app.handler", {"asyncio.handle.kind": "soon"})
RESOURCE = {"service.name": "test"}


def make_spans(count, kind=KIND):
    return [(kind, os.urandom(16), os.urandom(8), b"", 1, 2, 0.0, b"", b"", None) for _ in range(count)]


@pytest.fixture
def receiver():
    made = []

    def make(behaviour=None, **more):
        made.append(Receiver(behaviour, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def sender(monkeypatch):
    monkeypatch.setattr(connection, "FIRST_PAUSE_SECONDS", 0.05)
    made = []

    def make(url, **more):
        notices = []
        settings = OtlpSettings(url + "/v1/traces", {}, **{"schedule_delay": 0.05, **more})
        made.append(OtlpSender(settings, notices.append))
        made[-1].notices = notices
        return made[-1]

    yield make
    for each in made:
        each.shutdown(0.1)
        each._connection.close()
    gc.collect()


def ids(spans):
    return {span[2] for span in spans}


def test_spans_arrive_with_their_resource_on_one_connection(receiver, sender):
    to = receiver()
    made = sender(to.url)
    spans = make_spans(10_000)
    made.put("p", RESOURCE, spans)
    assert made.flush(PATIENCE)
    received = to.spans()
    assert {span.span_id for span in received} == ids(spans) and len(received) == 10_000
    assert made.exported.sent == 10_000 and sum(made.exported.dropped.values()) == 0
    assert all(attributes_of(each.resource) == RESOURCE for each in to.resource_spans())
    assert to.paths[0] == "/v1/traces"
    assert to.headers[0]["Content-Type"] == "application/x-protobuf"
    assert len(to.requests) == 2  # 8,192 at a time
    assert made.notices == []


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compression(receiver, sender, compression):
    to = receiver()
    made = sender(to.url, compression=compression)
    made.put("p", RESOURCE, make_spans(3))
    assert made.flush(PATIENCE)
    assert to.headers[0]["Content-Encoding"] == compression and len(to.spans()) == 3


def test_a_batch_waits_no_longer_than_its_delay(receiver, sender):
    to = receiver()
    made = sender(to.url)
    made.put("p", RESOURCE, make_spans(3))
    assert len(to.wait_for(len)) == 3
    made.put("p", RESOURCE, make_spans(4))
    assert len(to.wait_for(lambda spans: len(spans) == 7)) == 7


@pytest.mark.parametrize("status", [429, 502, 503, 504, "reset"])
def test_what_may_be_tried_again_is(receiver, sender, status):
    to = receiver(lambda number: status if number <= 2 else None)
    made = sender(to.url)
    made.put("p", RESOURCE, make_spans(5))
    assert len(to.wait_for(lambda spans: len(spans) == 5)) == 5
    until(lambda: made.exported.sent == 5)
    assert sum(made.exported.dropped.values()) == 0
    assert len(made.notices) == 2 and "do not arrive" in made.notices[0] and "again" in made.notices[1]


def test_retry_after_is_respected(receiver, sender):
    to = receiver(lambda number: (503, {"Retry-After": "1"}) if number == 1 else None)
    made = sender(to.url)
    start = time.monotonic()
    made.put("p", RESOURCE, make_spans(1))
    assert to.wait_for(len)
    assert time.monotonic() - start >= 1.0


def test_retry_after_may_be_a_date(receiver, sender):
    def behave(number):
        return (429, {"Retry-After": formatdate(time.time() + 2, usegmt=True)}) if number == 1 else None

    to = receiver(behave)
    made = sender(to.url)
    start = time.monotonic()
    made.put("p", RESOURCE, make_spans(1))
    assert to.wait_for(len)
    assert time.monotonic() - start >= 0.9  # the date has no fractions


def test_a_longer_retry_after_than_a_batch_is_kept_for_holds_for_the_next(receiver, sender, monkeypatch):
    monkeypatch.setattr(connection, "GIVE_UP_SECONDS", 0.5)
    to = receiver(lambda number: (503, {"Retry-After": "2"}) if number == 1 else None)
    made = sender(to.url)
    start = time.monotonic()
    made.put("p", RESOURCE, make_spans(3))
    until(lambda: made.exported.dropped["unavailable"] == 3)
    made.put("p", RESOURCE, make_spans(2))
    assert len(to.wait_for(len)) == 2
    assert time.monotonic() - start >= 2.0 and to.attempts == 2


def test_a_slow_receiver_gets_everything_that_fits(receiver, sender):
    def behave(number):
        time.sleep(0.2)

    to = receiver(behave)
    made = sender(to.url, max_queue_spans=400, max_request_spans=100)
    for _ in range(20):
        made.put("p", RESOURCE, make_spans(100))
    dropped = made.exported.dropped["queue_full"]
    assert dropped >= 1000
    until(lambda: made.exported.sent == 2000 - dropped)
    assert len(to.spans()) == 2000 - dropped and made.notices == []


def portions_of(spans, size):
    parts = [spans[start : start + size] for start in range(0, len(spans), size)]
    return [(encode_spans(part), len(part)) for part in parts]


@pytest.mark.parametrize("packed", [False, True])
def test_more_than_the_queue_takes_fills_it(receiver, sender, packed):
    to = receiver()
    made = sender(to.url, max_queue_spans=10, max_request_spans=4)
    arrived = []
    if packed:
        made.put_packed("p", RESOURCE, portions_of(make_spans(25), 4), lambda: arrived.append(25))
    else:
        made.put("p", RESOURCE, make_spans(25), lambda spans: lambda: arrived.append(len(spans)))
    until(lambda: made.exported.sent + made.exported.dropped["queue_full"] == 25)
    # The sender takes the first batch out when it will.
    assert made.exported.sent >= 10
    assert len(to.spans()) == made.exported.sent
    # What was dropped is nobody's exemplar.
    assert sum(arrived) == (made.exported.sent if not packed or made.exported.sent == 25 else 0)


def test_what_was_not_even_packed_is_dropped_and_nobodys_exemplar(receiver, sender):
    to = receiver()
    made = sender(to.url)
    arrived = []
    made.put_packed("p", RESOURCE, portions_of(make_spans(4), 4), lambda: arrived.append(4), 21)
    made.put_packed("p", RESOURCE, [], None, 10)
    assert made.flush(PATIENCE)
    until(lambda: made.exported.sent == 4)
    assert made.exported.dropped["queue_full"] == 31 and arrived == []
    assert made.room_bytes == sending.MAX_QUEUE_BYTES


@pytest.mark.parametrize("packed", [False, True])
def test_requests_keep_to_their_size_however_large_the_spans(receiver, sender, packed):
    to = receiver()
    made = sender(to.url)
    spans = make_spans(3000, Kind("app.handler", {"asyncio.task.name": "n" * 3000}))
    if packed:
        made.put_packed("p", RESOURCE, portions_of(spans, 300))
    else:
        made.put("p", RESOURCE, spans)
    assert len(to.wait_for(lambda spans: len(spans) >= 3000)) == 3000
    assert max(map(len, to.requests)) <= sending.MAX_REQUEST_BYTES + 1000
    assert len(ids([(0, 0, span.span_id) for span in to.spans()])) == 3000


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 301])
def test_what_may_not_be_tried_again_is_lost_and_counted(receiver, sender, status):
    to = receiver(lambda number: status if number == 1 else None)
    made = sender(to.url)
    made.put("p", RESOURCE, make_spans(5))
    until(lambda: made.exported.dropped["rejected"] == 5)
    made.put("p", RESOURCE, make_spans(2))
    assert len(to.wait_for(len)) == 2
    assert to.attempts == 2


def test_partial_success_counts_what_was_rejected(receiver, sender):
    to = receiver()
    to.partial = 2
    made = sender(to.url)
    made.put("p", RESOURCE, make_spans(5))
    assert made.flush(PATIENCE)
    until(lambda: made.exported.sent == 3)
    assert made.exported.dropped["rejected"] == 2


@pytest.mark.timing
def test_a_receiver_that_hangs_costs_bounded_memory_and_no_waiting(receiver, sender, monkeypatch):
    monkeypatch.setattr(sending, "MAX_QUEUE_BYTES", 200_000)
    to = receiver(lambda number: "hang" if not to.released.is_set() else None)
    made = sender(to.url, timeout=0.3)
    total = 0
    start = time.monotonic()
    slowest = 0.0
    while made.exported.dropped["queue_full"] == 0:
        before = time.monotonic()
        made.put("p", RESOURCE, make_spans(500))
        slowest = max(slowest, time.monotonic() - before)
        total += 500
        assert total < 100_000
    assert made._thread._queued_bytes < 200_000 + 100_000
    assert slowest < 2.0 and time.monotonic() - start < 20
    to.released.set()
    until(lambda: made.exported.sent + sum(made.exported.dropped.values()) == total)
    assert made.exported.sent > 0


def test_a_receiver_that_was_gone_gets_what_was_kept(receiver, sender):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    made = sender(f"http://127.0.0.1:{port}")
    made.put("p", RESOURCE, make_spans(5))
    until(lambda: made.notices)
    assert not made.flush(5)  # it does not wait for one that fails
    to = receiver(port=port)
    assert len(to.wait_for(lambda spans: len(spans) == 5)) == 5
    until(lambda: len(made.notices) == 2)


def test_a_batch_is_given_up_in_the_end(receiver, sender, monkeypatch):
    monkeypatch.setattr(connection, "GIVE_UP_SECONDS", 0.3)
    made = sender(receiver(lambda number: 503).url)
    made.put("p", RESOURCE, make_spans(5))
    until(lambda: made.exported.dropped["unavailable"] == 5)


@pytest.mark.timing
def test_the_shutdown_is_bounded_and_counts_the_rest(receiver, sender):
    made = sender(receiver(lambda number: "hang").url, timeout=30.0)
    made.put("p", RESOURCE, make_spans(5))
    until(lambda: made._thread._in_flight == 5)
    made.put("p", RESOURCE, make_spans(7))
    start = time.monotonic()
    made.shutdown(0.3)
    assert time.monotonic() - start < 5
    assert made.exported.dropped["shutdown"] == 12 and made.exported.sent == 0


def test_the_shutdown_sends_what_is_queued(receiver, sender):
    to = receiver()
    made = sender(to.url, schedule_delay=60.0)
    made.put("p", RESOURCE, make_spans(5))
    made.shutdown(10)
    assert made.exported.sent == 5 and len(to.spans()) == 5
    assert not made._thread._thread.is_alive()


def test_the_hook_is_called_for_what_has_arrived_only(receiver, sender):
    to = receiver(lambda number: 400 if number == 1 else None)
    made = sender(to.url)
    arrived = []

    def hook(spans):
        return lambda: arrived.append(len(spans))

    made.put("p", RESOURCE, make_spans(5), hook)
    until(lambda: made.exported.dropped["rejected"] == 5)
    made.put("p", RESOURCE, make_spans(3), hook)
    until(lambda: arrived)
    assert arrived == [3]


def test_every_span_is_counted_once_whatever_happens(receiver, sender):
    lock = threading.Lock()
    answers = iter([503, None, 400, "reset", None, 429, None] * 50)

    def behave(number):
        with lock:
            return next(answers)

    to = receiver(behave)
    made = sender(to.url, max_request_spans=50)
    for _ in range(40):
        made.put("p", RESOURCE, make_spans(50))
    until(lambda: made.exported.sent + sum(made.exported.dropped.values()) == 2000)
    assert len(to.spans()) == made.exported.sent


@pytest.mark.parametrize(
    ("environ", "given", "endpoint"),
    [
        ({}, None, "http://localhost:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1"}, None, "http://a:1/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1/x/"}, None, "http://a:1/x/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/y"}, None, "http://b/y"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/y"}, "http://c", "http://c/v1/traces"),
        ({}, "http://c:4318/v1/traces", "http://c:4318/v1/traces"),
    ],
)
def test_endpoints(environ, given, endpoint):
    assert OtlpSettings.from_environ(environ, given).endpoint == endpoint


def test_the_standard_variables():
    notices = []
    settings = OtlpSettings.from_environ(
        {
            "OTEL_EXPORTER_OTLP_HEADERS": "a=1,b=x%20y,broken",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "a=2",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "gzip",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": "/ca.pem",
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/c.pem",
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/k.pem",
            "OTEL_BSP_SCHEDULE_DELAY": "250",
            "OTEL_BSP_MAX_QUEUE_SIZE": "100",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "nonsense",
        },
        notice=notices.append,
    )
    assert settings.headers == {"a": "2", "b": "x y"}
    assert (settings.timeout, settings.compression, settings.verify) == (3.0, "gzip", "/ca.pem")
    assert settings.client_certificate == ("/c.pem", "/k.pem")
    # A queue of four batches, where no batch was set.
    assert (settings.schedule_delay, settings.max_queue_spans, settings.max_request_spans) == (0.25, 100, 25)
    assert len(notices) == 1 and "OTEL_BSP_MAX_EXPORT_BATCH_SIZE" in notices[0]


@pytest.mark.parametrize(
    ("environ", "queue", "batch"),
    [
        ({}, None, 8192),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "2048"}, 2048, 512),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "1"}, 1, 1),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "100000"}, 100000, 8192),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "512"}, 100, 100),
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "512"}, None, 512),
    ],
)
def test_a_batch_is_no_larger_than_the_queue(environ, queue, batch):
    settings = OtlpSettings.from_environ(environ)
    assert (settings.max_queue_spans, settings.max_request_spans) == (queue, batch)


def test_damaged_answers_are_no_rejection():
    for data in (b"", b"\x0a", b"\xff" * 20, b"\x0a\x02\x08\xff", os.urandom(100)):
        assert rejected(data) >= 0
