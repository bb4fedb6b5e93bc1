"""A receiver's answers: read within bounds, understood as far as they matter, fit to be shown.

The receiver cannot be trusted: its answer may be endless, compressed a thousandfold, or full of control characters.
"""

from __future__ import annotations

import time
import zlib
from typing import Final
from urllib.parse import urlsplit, urlunsplit

RETRIED_STATUSES: Final = frozenset((429, 502, 503, 504))
MAX_RETRY_AFTER_SECONDS: Final = 120.0
#: As much of an answer is read as any that makes sense has.
MAX_ANSWER_BYTES: Final = 16 << 10
_SHOWN_CHARACTERS: Final = 200


def uncompressed(data: bytes, encoding: str) -> bytes:
    """The body of an answer, at most ``MAX_ANSWER_BYTES``; empty where it is not what ``encoding`` says."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return data
    try:
        return zlib.decompressobj(47).decompress(data, MAX_ANSWER_BYTES)
    except zlib.error:
        return b""


def shown(text: str) -> str:
    """Text of a receiver as it may stand in a line of ours: one line, no control characters, not long."""
    cleaned = "".join(character if character.isprintable() else " " for character in text[: 4 * _SHOWN_CHARACTERS])
    return " ".join(cleaned.split())[:_SHOWN_CHARACTERS]


def shown_endpoint(endpoint: str) -> str:
    """An address without what may be secret in it: user, password, query."""
    try:
        parts = urlsplit(endpoint)
    except ValueError:
        return shown(endpoint.rpartition("@")[2].partition("?")[0])
    return shown(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")))


def reason_of(error: Exception) -> str:
    """Why a request failed, without the layers that ``requests`` and ``urllib3`` put around it."""
    inner: object = error.args[0] if error.args else error
    reason = getattr(inner, "reason", None)
    if reason is None and isinstance(inner, Exception) and inner.args and isinstance(inner.args[-1], Exception):
        reason = inner.args[-1]  # of ("Connection aborted.", ConnectionResetError(...))
    text = str(reason if reason is not None else error)
    return shown(text.rpartition(": ")[2]) or type(error).__name__


def retry_after(text: str | None) -> float:
    """The header Retry-After, seconds or a date, in s; 0 where there is none that makes sense."""
    if not text:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        from email.utils import parsedate_to_datetime  # 1 MB of memory, for what no receiver is known to send

        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS) if seconds == seconds else 0.0


def rejected(answer: bytes) -> int:
    """How many spans (data points) were rejected: the first field of the first field, ``partial_success``, of an
    ``Export*ServiceResponse``. 0 for anything that does not parse.
    """
    try:
        for number, value in _fields(answer):
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
