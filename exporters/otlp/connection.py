"""Requests to an OTLP/HTTP receiver: one session, compression, retries. The transport is ``requests``.

What rules it is https://opentelemetry.io/docs/specs/otlp/#otlphttp: 429, 502, 503, 504 and failed connections are tried
again, after Retry-After or an exponential pause; any other status but 2xx loses the request. After a while of failing
it is given up, so that a receiver that comes back gets what is new.
"""

from __future__ import annotations

import random
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

from ..spans.resource import own_version
from ..spans.sinks import REJECTED, SHUTDOWN, UNAVAILABLE
from .encoder import Data
from .responses import RETRIED_STATUSES, read_body, reason_of, rejected, retry_after, shown, shown_endpoint
from .settings import OtlpSettings

FIRST_PAUSE_SECONDS: Final = 0.5
LAST_PAUSE_SECONDS: Final = 16.0
GIVE_UP_SECONDS: Final = 60.0
#: Pieces of a request that are joined with others, at most.
_SMALL_BYTES: Final = 32 << 10


class Waiting(Protocol):
    """Who waits between two attempts. ``deadline``: monotonic s of the shutdown, None before it."""

    deadline: float | None
    failing: bool

    def pause(self, seconds: float) -> None: ...


class Outcome(NamedTuple):
    """What became of a request. ``reason``: why nothing of it arrived, "" where it did. ``rejected``: by the receiver,
    of what arrived.
    """

    reason: str
    rejected: int = 0


class _Attempt(NamedTuple):
    """One attempt. ``wait``: seconds to wait at least before the next, None: there is none."""

    wait: float | None
    problem: str = ""
    rejected: int = 0


class _Body:
    """A request's body in pieces. ``requests`` sends an iterable of known length piece by piece, so that large ones are
    never copied; small ones are joined here, for each goes to the socket by itself.
    """

    def __init__(self, pieces: Sequence[Data]) -> None:
        self._pieces: list[Data] = []
        small: list[Data] = []
        for piece in pieces:
            if len(piece) > _SMALL_BYTES:
                self._pieces += (b"".join(small), piece)
                small = []
            else:
                small.append(piece)
        self._pieces.append(b"".join(small))
        self._size = sum(map(len, self._pieces))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Data]:
        return iter([piece for piece in self._pieces if piece])


class OtlpConnection:
    """Requests to one receiver, one at a time. For one thread."""

    def __init__(self, settings: OtlpSettings, what: str, notice: Callable[[str], None]) -> None:
        """``what`` is sent, in the plural. ``notice`` says one line to the user: failures, when they begin and when
        they are over. Raises ImportError where ``requests`` is not installed.
        """
        import requests

        self.settings = settings
        self._what = what
        self._notice = notice
        self._shown_endpoint = shown_endpoint(settings.endpoint)
        self._failing_since: float | None = None
        self._not_before = 0.0  # monotonic s
        self._untraced = False
        self._session: Any = requests.Session()
        self._session.headers.update(settings.headers)
        self._session.headers["Content-Type"] = "application/x-protobuf"
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.headers["User-Agent"] = f"traceloop-otlp/{own_version()}"
        if settings.compression != "none":
            self._session.headers["Content-Encoding"] = settings.compression
        self._session.cert = settings.client_certificate
        self._prepared: Any = None
        self._options: dict[str, Any] = {}
        self._adapter: Any = None

    def close(self) -> None:
        """Closes its connections."""
        self._session.close()

    def send(self, pieces: Sequence[Data], waiting: Waiting, give_up_s: float | None = None) -> Outcome:
        """Sends one request, which the pieces make together, with retries for that many seconds, ``GIVE_UP_SECONDS``
        by default.
        """
        self._untraced = self._untraced or _leave_untraced()
        data = self._body(pieces)
        if self._not_before > time.monotonic():
            waiting.pause(self._not_before - time.monotonic())
        give_up = time.monotonic() + (GIVE_UP_SECONDS if give_up_s is None else give_up_s)
        pause = FIRST_PAUSE_SECONDS
        while True:
            attempt = self._post(data, waiting)
            if attempt.wait is None:
                if not attempt.problem:
                    self._recovered(waiting)
                    return Outcome("", attempt.rejected)
                self._failed(attempt.problem, waiting)
                return Outcome(REJECTED)
            self._failed(attempt.problem, waiting)
            wait = max(attempt.wait, pause * random.uniform(0.8, 1.2))
            pause = min(2 * pause, LAST_PAUSE_SECONDS)
            deadline = waiting.deadline
            limit = give_up if deadline is None else min(give_up, deadline)
            if time.monotonic() + (wait if deadline is None else min(wait, FIRST_PAUSE_SECONDS)) > limit:
                # The next request keeps to what the receiver asked of this one.
                self._not_before = time.monotonic() + wait
                return Outcome(UNAVAILABLE if deadline is None else SHUTDOWN)
            waiting.pause(wait)

    def _body(self, pieces: Sequence[Data]) -> bytes | _Body:
        if self.settings.compression == "none":
            return _Body(pieces) if sum(map(len, pieces)) > _SMALL_BYTES else b"".join(pieces)
        # Level 1: 3 to 4 times the speed of the default for a tenth more bytes. 31: with gzip's header.
        compressor = zlib.compressobj(1, zlib.DEFLATED, 31 if self.settings.compression == "gzip" else 15)
        return b"".join([*map(compressor.compress, pieces), compressor.flush()])

    def _prepare(self) -> None:
        """What the environment says of proxies and logins is asked once: ``requests`` looks at every variable of the
        environment, twice, for each request, which takes longer than the rest of it.
        """
        import requests

        url = self.settings.endpoint
        self._prepared = self._session.prepare_request(requests.Request("POST", url))
        # Named here again: REQUESTS_CA_BUNDLE overrules what the session says, and not what a request does.
        self._options = self._session.merge_environment_settings(url, {}, True, self.settings.verify, None)
        self._adapter = self._session.get_adapter(self._prepared.url)

    def _post(self, data: bytes | _Body, waiting: Waiting) -> _Attempt:
        import requests

        timeout = self.settings.timeout
        if waiting.deadline is not None:
            timeout = max(0.05, min(timeout, waiting.deadline - time.monotonic()))
        started = time.monotonic()
        try:
            if self._prepared is None:
                self._prepare()
            request = self._prepared.copy()
            request.body = data
            request.headers["Content-Length"] = str(len(data))
            with self._adapter.send(request, timeout=timeout, **self._options) as response:
                body = read_body(response, max(0.05, timeout - (time.monotonic() - started)))
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            reason = reason_of(error)
            _let_go(error)
            return _Attempt(0.0, reason)
        except Exception as error:  # an address that makes no sense, a bad file, an answer that is no HTTP
            reason = reason_of(error)
            _let_go(error)
            return _Attempt(None, reason)
        if response.status_code in RETRIED_STATUSES:
            return _Attempt(retry_after(response.headers.get("Retry-After")), f"status {response.status_code}")
        if not 200 <= response.status_code < 300:
            text = shown(body.decode("utf-8", "replace")) if body[:1].isascii() else ""
            return _Attempt(None, f"status {response.status_code} {text}".rstrip())
        return _Attempt(None, "", rejected(body))

    def _failed(self, problem: str, waiting: Waiting) -> None:
        waiting.failing = True
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            self._notice(f"{self._what} do not arrive at {self._shown_endpoint}: {problem or 'no answer'}")

    def _recovered(self, waiting: Waiting) -> None:
        waiting.failing = False
        if self._failing_since is not None:
            seconds = time.monotonic() - self._failing_since
            self._failing_since = None
            self._notice(f"{self._what} arrive at {self._shown_endpoint} again, after {seconds:.0f} s")


def _let_go(error: BaseException) -> None:
    """Frees what a failed request holds: its body, up to 2 MiB, lies in the frames of the traceback, and these refer to
    the exception. The collector looks for such cycles so rarely that an hour of failures held 800 MB.
    """
    waiting: list[BaseException | None] = [error]
    seen = set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        waiting += [each.__context__, each.__cause__, *(arg for arg in each.args if isinstance(arg, BaseException))]
        reason = getattr(each, "reason", None)
        if isinstance(reason, BaseException):
            waiting.append(reason)
        traceback.clear_frames(each.__traceback__)
        each.__traceback__ = None
        if hasattr(each, "request"):
            each.request = None


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
