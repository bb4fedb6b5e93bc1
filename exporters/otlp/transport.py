"""What carries a request to an OTLP receiver: plain_http.py, or requests_http.py for whatever is not plain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from .encoder import Data

#: Pieces of a request that are joined with others, at most.
SMALL_BYTES: Final = 32 << 10


class Body:
    """A request's body in pieces: large ones are never copied, small ones are joined here, for each goes to the socket
    by itself.
    """

    def __init__(self, pieces: Sequence[Data]) -> None:
        self._pieces: list[Data] = []
        small: list[Data] = []
        for piece in pieces:
            if len(piece) > SMALL_BYTES:
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


class Answer(NamedTuple):
    """A receiver's answer. ``retry_after``: the header, None where there is none. ``body``: as much as is read of it,
    uncompressed.
    """

    status: int
    retry_after: str | None
    body: bytes


class NoAnswer(Exception):
    """A request got no answer; the text says why. ``again``: whether another attempt may get one."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


class Transport(Protocol):
    """Requests to one receiver, one at a time. For one thread."""

    def post(self, body: bytes | Body, timeout: float) -> Answer:
        """One attempt. ``timeout``: for the connection, then for request and answer together, s; by ``requests``, which
        knows no such limit, for each piece that is sent, for each of the answer's head, and for its body. Raises
        ``NoAnswer``.
        """

    def close(self) -> None:
        """Closes its connections."""
