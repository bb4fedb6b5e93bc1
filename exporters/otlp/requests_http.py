"""Requests to an OTLP receiver through the library ``requests``: TLS, client certificates, proxies, logins."""

from __future__ import annotations

import time
import traceback
from typing import Any

from .responses import MAX_ANSWER_BYTES, reason_of, uncompressed
from .settings import OtlpSettings
from .transport import Answer, Body, NoAnswer


class RequestsHttp:
    """One session of ``requests``."""

    def __init__(self, settings: OtlpSettings, headers: dict[str, str]) -> None:
        """Raises ImportError where ``requests`` is not installed."""
        import requests

        self._settings = settings
        self._session: Any = requests.Session()
        self._session.headers.update(headers)
        self._session.cert = settings.client_certificate
        self._prepared: Any = None
        self._options: dict[str, Any] = {}
        self._adapter: Any = None

    def close(self) -> None:
        """Closes its connections."""
        self._session.close()

    def _prepare(self) -> None:
        """What the environment says of proxies and logins is asked once: ``requests`` looks at every variable of the
        environment, twice, for each request, which takes longer than the rest of it.
        """
        import requests

        url = self._settings.endpoint
        self._prepared = self._session.prepare_request(requests.Request("POST", url))
        # Named here again: REQUESTS_CA_BUNDLE overrules what the session says, and not what a request does.
        self._options = self._session.merge_environment_settings(url, {}, True, self._settings.verify, None)
        self._adapter = self._session.get_adapter(self._prepared.url)

    def post(self, body: bytes | Body, timeout: float) -> Answer:
        """One attempt (see ``Transport``)."""
        import requests

        started = time.monotonic()
        try:
            if self._prepared is None:
                self._prepare()
            request = self._prepared.copy()
            request.body = body
            request.headers["Content-Length"] = str(len(body))
            with self._adapter.send(request, timeout=timeout, **self._options) as response:
                data = _read_body(response, max(0.05, timeout - (time.monotonic() - started)))
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise _no_answer(error, again=True) from None
        except Exception as error:  # an address that makes no sense, a bad file, an answer that is no HTTP
            raise _no_answer(error, again=False) from None
        return Answer(response.status_code, response.headers.get("Retry-After"), data)


def _read_body(response: Any, seconds: float) -> bytes:
    """The body of an answer that is streamed; at most ``MAX_ANSWER_BYTES``, and what came within so many seconds.
    Closes an answer that is longer or slower: its connection is of no further use.
    """
    until = time.monotonic() + seconds
    pieces: list[bytes] = []
    size = 0
    over = False
    # Byte by byte, since a longer read waits until it is complete. Most answers have two.
    for piece in response.raw.stream(1, decode_content=False):
        pieces.append(piece)
        size += len(piece)
        if size >= MAX_ANSWER_BYTES or time.monotonic() > until:
            over = True
            break
    if over:
        response.close()
    return uncompressed(b"".join(pieces), response.headers.get("Content-Encoding", ""))


def _no_answer(error: Exception, *, again: bool) -> NoAnswer:
    reason = reason_of(error)
    _let_go(error)
    return NoAnswer(reason, again=again)


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
