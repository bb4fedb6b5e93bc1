"""Sends packed spans to an OTLP/HTTP receiver: batches, a bounded queue, retries. The transport is ``requests``.

What rules it (https://opentelemetry.io/docs/specs/otlp/#otlphttp, and the environment variables of
https://opentelemetry.io/docs/specs/otel/protocol/exporter/):

* 429, 502, 503, 504 and failed connections are tried again, after Retry-After or an exponential pause; any other status
  but 2xx loses the batch.
* Whoever reads the rings never waits for this: past the queue's limit spans are dropped, and every drop is counted
  under its reason.
* After a while of failing, a batch is given up, so that a receiver that comes back gets what is new.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple

from ..spans.builder import Span
from ..spans.resource import SCOPE_NAME, own_version, parse_pairs
from .encoder import encode_request, encode_resource, encode_scope, encode_spans

RETRIED_STATUSES: Final = frozenset((429, 502, 503, 504))
FIRST_PAUSE_SECONDS: Final = 0.5
LAST_PAUSE_SECONDS: Final = 16.0
GIVE_UP_SECONDS: Final = 60.0
MAX_RETRY_AFTER_SECONDS: Final = 120.0
MAX_REQUEST_SPANS: Final = 4096
MAX_REQUEST_BYTES: Final = 2 << 20
MAX_QUEUE_BYTES: Final = 64 << 20
SCHEDULE_DELAY_SECONDS: Final = 1.0

QUEUE_FULL: Final = "queue_full"
REJECTED: Final = "rejected"
UNAVAILABLE: Final = "unavailable"
SHUTDOWN: Final = "shutdown"
DAMAGED: Final = "damaged"
#: Called with the spans of a batch; what it returns is called when they have arrived.
SentHook = Callable[[Sequence[Span]], Callable[[], None]]
REASONS: Final = (QUEUE_FULL, REJECTED, UNAVAILABLE, SHUTDOWN, DAMAGED)


class OtlpSettings(NamedTuple):
    """Where spans go and how. ``verify``: a file of certificates to trust, True for the usual ones. Times in s."""

    endpoint: str
    headers: dict[str, str]
    timeout: float = 10.0
    compression: str = "none"
    verify: str | bool = True
    client_certificate: tuple[str, str] | str | None = None
    schedule_delay: float = SCHEDULE_DELAY_SECONDS
    max_queue_spans: int | None = None
    max_request_spans: int = MAX_REQUEST_SPANS

    @classmethod
    def from_environ(
        cls, environ: Mapping[str, str], endpoint: str | None = None, notice: Callable[[str], None] = lambda line: None
    ) -> OtlpSettings:
        """What OpenTelemetry's variables say; ``endpoint``, as given to us, overrules theirs.

        A value that cannot be used is reported by ``notice`` and left at its default.
        """

        def variable(name: str) -> str:
            return (
                environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "").strip()
                or environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()
            )

        def number(name: str, default: float) -> float:
            text = environ.get(name, "").strip()
            try:
                value = float(text) if text else default
            except ValueError:
                value = -1.0
            if not 0 < value < 1e12:
                notice(f"{name}: expected a number above 0, got {text!r}; using {default:g}")
                return default
            return value

        timeout_name = "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"
        if not environ.get(timeout_name, "").strip():
            timeout_name = "OTEL_EXPORTER_OTLP_TIMEOUT"
        compression = variable("COMPRESSION").lower() or "none"
        if compression not in ("none", "gzip", "deflate"):
            notice(f"OTEL_EXPORTER_OTLP_COMPRESSION: expected none, gzip or deflate, got {compression!r}; using none")
            compression = "none"
        certificate, key = variable("CLIENT_CERTIFICATE"), variable("CLIENT_KEY")
        headers = parse_pairs(environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""))
        headers.update(parse_pairs(environ.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "")))
        queue: int | None = None
        batch = MAX_REQUEST_SPANS
        if environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "").strip():
            queue = max(1, int(number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)))
            # What fills a batch is sent at once: with a batch as large as the queue there is no room meanwhile. The
            # SDK's own defaults are a queue of four batches.
            batch = max(1, min(MAX_REQUEST_SPANS, queue // 4))
        batch = int(number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", batch))
        return cls(
            endpoint=_traces_endpoint(environ, endpoint),
            headers=headers,
            timeout=number(timeout_name, 10.0),
            compression=compression,
            verify=variable("CERTIFICATE") or True,
            client_certificate=(certificate, key) if certificate and key else certificate or None,
            schedule_delay=number("OTEL_BSP_SCHEDULE_DELAY", SCHEDULE_DELAY_SECONDS * 1000) / 1000,
            max_queue_spans=queue,
            max_request_spans=max(1, min(batch, 65536 if queue is None else queue)),
        )


def _traces_endpoint(environ: Mapping[str, str], endpoint: str | None) -> str:
    if endpoint is None:
        own = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
        if own:
            return own  # used as it stands, says the specification
        endpoint = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip() or "http://localhost:4318"
    if endpoint.rstrip("/").endswith("/v1/traces"):
        return endpoint
    return endpoint.rstrip("/") + "/v1/traces"


class Exported:
    """What became of the spans. Written by one thread each; read by any."""

    def __init__(self) -> None:
        self.sent = 0
        self.dropped: dict[str, int] = dict.fromkeys(REASONS, 0)
        self._lock = threading.Lock()

    def count_dropped(self, reason: str, count: int) -> None:
        """Counts spans that will not arrive."""
        with self._lock:
            self.dropped[reason] = self.dropped.get(reason, 0) + count


class Packed(NamedTuple):
    """Spans of one process, packed. ``on_sent``: called by the sender when they have arrived."""

    resource: bytes
    data: bytes
    spans: int
    on_sent: Callable[[], None] | None


class OtlpSender:
    """Takes spans from one thread, sends them in a thread of its own."""

    def __init__(self, settings: OtlpSettings, notice: Callable[[str], None]) -> None:
        """``notice`` says one line to the user: failures, when they begin and when they are over. Raises ImportError
        where ``requests`` is not installed.
        """
        self.settings = settings
        self.exported = Exported()
        self._notice = notice
        self._scope = encode_scope(SCOPE_NAME, own_version())
        self._resources: dict[object, bytes] = {}
        self._queue: deque[Packed] = deque()
        self._queued_bytes = 0
        self._queued_spans = 0
        self._in_flight = 0
        self._condition = threading.Condition()
        self._flushing = False
        self._deadline: float | None = None  # of the shutdown, monotonic s
        self._failing_since: float | None = None
        self._not_before = 0.0  # monotonic s
        self._session = self._make_session()
        self._thread = threading.Thread(target=self._work, name="traceloop-otlp", daemon=True)
        self._thread.start()

    def _make_session(self) -> Any:
        import requests

        session = requests.Session()
        session.headers.update(self.settings.headers)
        session.headers["Content-Type"] = "application/x-protobuf"
        session.headers["User-Agent"] = f"traceloop-otlp/{own_version()}"
        if self.settings.compression != "none":
            session.headers["Content-Encoding"] = self.settings.compression
        session.cert = self.settings.client_certificate
        return session

    # -- the reader's side

    def put(
        self,
        process: object,
        resource: Mapping[str, Any],
        spans: Sequence[Span],
        on_sent: SentHook | None = None,
    ) -> None:
        """Packs and queues the spans of one process; never waits. ``process``: a key for its resource."""
        packed_resource = self._resource(process, resource)
        step = self.settings.max_request_spans
        for start in range(0, len(spans), step):
            self._put_part(packed_resource, spans[start : start + step] if len(spans) > step else spans, on_sent)

    def _put_part(self, resource: bytes, part: Sequence[Span], on_sent: SentHook | None) -> None:
        room = self._room(len(part))
        if room < len(part):
            part = part[:room]
        if not part:
            return
        data = encode_spans(part)
        if len(data) > MAX_REQUEST_BYTES and len(part) > 1:
            middle = len(part) // 2
            self._put_part(resource, part[:middle], on_sent)
            self._put_part(resource, part[middle:], on_sent)
            return
        self._enqueue(Packed(resource, data, len(part), on_sent(part) if on_sent else None))

    def put_packed(
        self,
        process: object,
        resource: Mapping[str, Any],
        pieces: Sequence[bytes],
        sent: Callable[[], None] | None = None,
    ) -> None:
        """The same for spans that are packed, each by itself. ``sent``: called when the last of them have arrived, and
        not where some were dropped here.
        """
        packed_resource = self._resource(process, resource)
        step = self.settings.max_request_spans
        for start in range(0, len(pieces), step):
            part = pieces[start : start + step] if len(pieces) > step else pieces
            room = self._room(len(part))
            if room < len(part):
                part, sent = part[:room], None
            self._put_pieces(packed_resource, part, sent if start + step >= len(pieces) else None)

    def _put_pieces(self, resource: bytes, part: Sequence[bytes], sent: Callable[[], None] | None) -> None:
        if not part:
            return
        data = b"".join(part)
        if len(data) > MAX_REQUEST_BYTES and len(part) > 1:
            middle = len(part) // 2
            self._put_pieces(resource, part[:middle], None)
            self._put_pieces(resource, part[middle:], sent)
            return
        self._enqueue(Packed(resource, data, len(part), sent))

    def _resource(self, process: object, resource: Mapping[str, Any]) -> bytes:
        packed = self._resources.get(process)
        if packed is None:
            packed = self._resources[process] = encode_resource(resource)
        return packed

    def _room(self, count: int) -> int:
        """How many of so many spans more can be queued; the others are counted as dropped."""
        limit = self.settings.max_queue_spans
        room = 0 if self._queued_bytes >= MAX_QUEUE_BYTES else count
        if limit is not None:
            # One read of a busy ring may bring more than the whole queue takes.
            room = min(room, max(0, limit - self._queued_spans))
        if room < count:
            self.exported.count_dropped(QUEUE_FULL, count - room)
        return room

    def _enqueue(self, packed: Packed) -> None:
        with self._condition:
            self._queue.append(packed)
            self._queued_bytes += len(packed.data)
            self._queued_spans += packed.spans
            # The first starts the sender's clock, the others are sent with it unless they fill the batch.
            full = self._queued_bytes >= MAX_REQUEST_BYTES or self._queued_spans >= self.settings.max_request_spans
            if len(self._queue) == 1 or full:
                self._condition.notify_all()

    def forget(self, process: object) -> None:
        """The process is over: its resource is needed no more."""
        self._resources.pop(process, None)

    def flush(self, timeout: float) -> bool:
        """Sends what is queued now; waits at most ``timeout`` s, and not at all for a receiver that is failing."""
        deadline = time.monotonic() + timeout
        with self._condition:
            self._flushing = True
            self._condition.notify_all()
            while self._queue or self._in_flight:
                left = deadline - time.monotonic()
                if left <= 0 or (self._failing_since is not None and self._deadline is None):
                    return False
                self._condition.wait(left)
        return True

    def shutdown(self, timeout: float) -> None:
        """Sends what it can within ``timeout`` s; the rest is dropped and counted."""
        with self._condition:
            self._deadline = time.monotonic() + timeout
            self._flushing = True
            self._condition.notify_all()
        self._thread.join(timeout + 0.1)
        with self._condition:
            lost = self._queued_spans + self._in_flight
            self._queue.clear()
            self._queued_spans = self._queued_bytes = self._in_flight = 0
        if lost:
            self.exported.count_dropped(SHUTDOWN, lost)

    # -- the sender's side

    def _work(self) -> None:
        untraced = False
        while True:
            batch = self._next_batch()
            if not batch:
                return
            untraced = untraced or _leave_untraced()
            outcome = self._send(batch)
            with self._condition:
                count = sum(packed.spans for packed in batch)
                if self._in_flight == 0:  # the shutdown has counted them as lost
                    return
                self._in_flight = 0
                if outcome is None:
                    self.exported.sent += count
                else:
                    self.exported.count_dropped(outcome, count)
                self._condition.notify_all()
            if outcome is None:
                for packed in batch:
                    if packed.on_sent is not None:
                        packed.on_sent()

    def _next_batch(self) -> list[Packed]:
        """What goes into one request; empty at the end."""
        with self._condition:
            waited_until = 0.0
            while True:
                now = time.monotonic()
                if self._deadline is not None and (not self._queue or now >= self._deadline):
                    return []
                full = self._queued_bytes >= MAX_REQUEST_BYTES or self._queued_spans >= self.settings.max_request_spans
                if self._queue:
                    waited_until = waited_until or now + self.settings.schedule_delay
                    if full or self._flushing or now >= waited_until:
                        break
                else:
                    self._flushing = False
                    waited_until = 0.0
                self._condition.wait(waited_until - now if self._queue else None)
            batch: list[Packed] = []
            size = count = 0
            while self._queue and (
                not batch
                or (
                    size + len(self._queue[0].data) <= MAX_REQUEST_BYTES
                    and count + self._queue[0].spans <= self.settings.max_request_spans
                )
            ):
                packed = self._queue.popleft()
                size += len(packed.data)
                count += packed.spans
                batch.append(packed)
            self._queued_bytes -= size
            self._queued_spans -= count
            self._in_flight = count
        return batch

    def _send(self, batch: list[Packed]) -> str | None:
        """Sends one batch; None when it has arrived, else the reason for which it has not."""
        data = encode_request(self._by_resource(batch))
        if self.settings.compression == "gzip":
            # Level 1: 3 to 4 times the speed of the default for a tenth more bytes. 31: with gzip's header.
            compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
            data = compressor.compress(data) + compressor.flush()
        elif self.settings.compression == "deflate":
            data = zlib.compress(data, 1)
        if self._not_before > time.monotonic():
            self._pause(self._not_before - time.monotonic())
        give_up = time.monotonic() + GIVE_UP_SECONDS
        pause = FIRST_PAUSE_SECONDS
        while True:
            wait, problem = self._post(data, batch)
            if wait is None:
                if problem is None:
                    self._recovered()
                    return None
                self._failed(problem)
                return REJECTED
            self._failed(problem or "no answer")
            wait = max(wait, pause * random.uniform(0.8, 1.2))
            pause = min(2 * pause, LAST_PAUSE_SECONDS)
            limit = give_up if self._deadline is None else min(give_up, self._deadline)
            if time.monotonic() + (wait if self._deadline is None else min(wait, FIRST_PAUSE_SECONDS)) > limit:
                # The next batch keeps to what this one was told.
                self._not_before = time.monotonic() + wait
                return UNAVAILABLE if self._deadline is None else SHUTDOWN
            self._pause(wait)

    def _by_resource(self, batch: list[Packed]) -> list[tuple[bytes, bytes, list[bytes]]]:
        grouped: dict[bytes, list[bytes]] = {}
        for packed in batch:
            grouped.setdefault(packed.resource, []).append(packed.data)
        return [(resource, self._scope, data) for resource, data in grouped.items()]

    def _post(self, data: bytes, batch: list[Packed]) -> tuple[float | None, str | None]:
        """One attempt: seconds to wait at least before the next (None: there is none), and what went wrong."""
        import requests

        timeout = self.settings.timeout
        if self._deadline is not None:
            timeout = max(0.05, min(timeout, self._deadline - time.monotonic()))
        try:
            # Named here again: REQUESTS_CA_BUNDLE overrules what the session says, and not what a request does.
            response = self._session.post(
                self.settings.endpoint, data=data, timeout=timeout, allow_redirects=False, verify=self.settings.verify
            )
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            return 0.0, _reason(error)
        except (requests.RequestException, OSError, ValueError) as error:  # an address that makes no sense, a bad file
            return None, _reason(error)
        if response.status_code in RETRIED_STATUSES:
            return _retry_after(response.headers.get("Retry-After")), f"status {response.status_code}"
        if not 200 <= response.status_code < 300:
            text = response.text[:200].replace("\n", " ") if response.content[:1].isascii() else ""
            return None, f"status {response.status_code} {text}".rstrip()
        rejected = rejected_spans(response.content)
        if rejected:
            rejected = min(rejected, sum(packed.spans for packed in batch))
            self.exported.count_dropped(REJECTED, rejected)
            self.exported.sent -= rejected
        return None, None

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with self._condition:
            had_deadline = self._deadline is not None
            self._condition.notify_all()  # whoever flushes learns that the receiver fails
            while True:
                now = time.monotonic()
                if self._deadline is not None:
                    if not had_deadline:
                        return  # the shutdown has come: try at once, there is not much time
                    until = min(until, now + FIRST_PAUSE_SECONDS)
                if now >= until:
                    return
                self._condition.wait(until - now)

    def _failed(self, problem: str) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            self._notice(f"spans do not arrive at {self.settings.endpoint}: {problem}")

    def _recovered(self) -> None:
        if self._failing_since is not None:
            seconds = time.monotonic() - self._failing_since
            self._failing_since = None
            self._notice(f"spans arrive at {self.settings.endpoint} again, after {seconds:.0f} s")


def _reason(error: Exception) -> str:
    inner: object = error.args[0] if error.args else error
    reason = getattr(inner, "reason", None)
    if reason is None and isinstance(inner, Exception) and inner.args and isinstance(inner.args[-1], Exception):
        reason = inner.args[-1]  # of ("Connection aborted.", ConnectionResetError(...))
    text = str(reason if reason is not None else error)
    return text.rpartition(": ")[2][:200] or type(error).__name__


def _retry_after(text: str | None) -> float:
    if not text:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS)


def rejected_spans(response: bytes) -> int:
    """``ExportTraceServiceResponse.partial_success.rejected_spans``; 0 for anything that does not parse."""
    try:
        for number, value in _fields(response):
            if number == 1 and isinstance(value, bytes):
                for inner, count in _fields(value):
                    if inner == 1 and isinstance(count, int):
                        return count if count < 1 << 63 else 0
    except (IndexError, ValueError):
        pass
    return 0


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    out: list[tuple[int, int | bytes]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("varint too long")

    while at < len(data):
        key = varint()
        wire = key & 7
        if wire == 0:
            out.append((key >> 3, varint()))
        elif wire == 2:
            length = varint()
            out.append((key >> 3, data[at : at + length]))
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError("unknown wire type")
    return out


def _leave_untraced() -> bool:
    """In an application whose HTTP calls are instrumented, this thread's make no spans. False: it has not come to that,
    nothing of OpenTelemetry is imported.
    """
    context = sys.modules.get("opentelemetry.context")
    if context is None:
        return False
    try:
        current = context.get_current()
        for name in ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY"):
            key = getattr(context, name, None)
            if key is not None:
                current = context.set_value(key, True, current)
        context.attach(current)
    except Exception:
        pass  # spans of our own requests are a nuisance, no fault; half imported, it is asked again
    else:
        return True
    return False
