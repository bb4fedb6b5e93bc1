"""Requests to an OTLP/HTTP receiver: one connection, compression, retries.

What rules it is https://opentelemetry.io/docs/specs/otlp/#otlphttp: 429, 502, 503, 504 and failed connections are tried
again, after Retry-After or an exponential pause; any other status but 2xx loses the request. After a while of failing
it is given up, so that a receiver that comes back gets what is new.
"""

from __future__ import annotations

import os
import random
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from ..spans.resource import own_version
from ..spans.sinks import REJECTED, SHUTDOWN, UNAVAILABLE
from .encoder import Data
from .plain_http import PlainHttp, speaks_plainly
from .responses import RETRIED_STATUSES, rejected, retry_after, shown, shown_endpoint
from .settings import OtlpSettings
from .transport import SMALL_BYTES, Body, NoAnswer, Transport

FIRST_PAUSE_SECONDS: Final = 0.5
LAST_PAUSE_SECONDS: Final = 16.0
GIVE_UP_SECONDS: Final = 60.0


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


class OtlpConnection:
    """Requests to one receiver, one at a time. For one thread."""

    def __init__(self, settings: OtlpSettings, what: str, notice: Callable[[str], None]) -> None:
        """``what`` is sent, in the plural. ``notice`` says one line to the user: failures, when they begin and when
        they are over. Raises ImportError where ``requests`` is needed and is not installed.
        """
        self.settings = settings
        self._what = what
        self._notice = notice
        self._shown_endpoint = shown_endpoint(settings.endpoint)
        self._failing_since: float | None = None
        self._not_before = 0.0  # monotonic s
        self._untraced = False
        own = {
            "Content-Type": "application/x-protobuf",
            "Accept-Encoding": "identity",
            "User-Agent": f"traceloop-otlp/{own_version()}",
        }
        if settings.compression != "none":
            own["Content-Encoding"] = settings.compression
        names = {name.lower() for name in own}
        headers = {name: value for name, value in settings.headers.items() if name.lower() not in names} | own
        self._transport = _make_transport(settings, headers)

    def close(self) -> None:
        """Closes its connections."""
        self._transport.close()

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

    def _body(self, pieces: Sequence[Data]) -> bytes | Body:
        if self.settings.compression == "none":
            return Body(pieces) if sum(map(len, pieces)) > SMALL_BYTES else b"".join(pieces)
        # Level 1: 3 to 4 times the speed of the default for a tenth more bytes. 31: with gzip's header.
        compressor = zlib.compressobj(1, zlib.DEFLATED, 31 if self.settings.compression == "gzip" else 15)
        return b"".join([*map(compressor.compress, pieces), compressor.flush()])

    def _post(self, data: bytes | Body, waiting: Waiting) -> _Attempt:
        timeout = self.settings.timeout
        if waiting.deadline is not None:
            timeout = max(0.05, min(timeout, waiting.deadline - time.monotonic()))
        try:
            status, retry, body = self._transport.post(data, timeout)
        except NoAnswer as error:
            return _Attempt(0.0 if error.again else None, str(error))
        if status in RETRIED_STATUSES:
            return _Attempt(retry_after(retry), f"status {status}")
        if not 200 <= status < 300:
            text = shown(body.decode("utf-8", "replace")) if body[:1].isascii() else ""
            return _Attempt(None, f"status {status} {text}".rstrip())
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


def _make_transport(settings: OtlpSettings, headers: dict[str, str]) -> Transport:
    if speaks_plainly(settings, headers, os.environ):
        return PlainHttp(settings, headers)
    from .requests_http import RequestsHttp

    return RequestsHttp(settings, headers)


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
