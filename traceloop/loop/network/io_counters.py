"""Counts of what goes through a loop's sockets.

Plain integers that only the loop's own thread adds to, one addition for each system call that moved data; a reader
reports them reads them without a lock. A value may be one call behind when it is read from another thread.
"""

from __future__ import annotations

import weakref
from typing import Any


class IOCounters:
    """Totals since the loop was made (the first four) and what is open now (the rest).

    bytes_in, bytes_out: bytes that system calls moved for transports and for ``sock_*``; of TLS, the encrypted bytes.
    accepted: connections that servers of this loop accepted.
    refused: calls of ``accept`` that failed (descriptors or buffers exhausted, connection aborted).
    tls_handshakes, tls_handshake_s: TLS handshakes that are over, however they ended, and the seconds they took.
    paused: transports whose protocol was told to pause writing; paused_since: the sum of the moments (monotonic
    s) at which they were; paused_s: the seconds of pauses that are over. paused_transports: weak references to those
    that are paused now, by id.
    stream, tls, datagram, pipe: transports that are open; a stream transport that carries TLS counts as ``tls``.
    """

    __slots__ = (
        "accepted",
        "bytes_in",
        "bytes_out",
        "datagram",
        "paused",
        "paused_s",
        "paused_since",
        "paused_transports",
        "pipe",
        "refused",
        "stream",
        "tls",
        "tls_handshake_s",
        "tls_handshakes",
    )

    def __init__(self) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.accepted = 0
        self.refused = 0
        self.tls_handshakes = 0
        self.tls_handshake_s = 0.0
        self.paused = 0
        self.paused_s = 0.0
        self.paused_since = 0.0
        self.paused_transports: dict[int, weakref.ref[Any]] = {}
        self.stream = 0
        self.tls = 0
        self.datagram = 0
        self.pipe = 0

    @property
    def open_transports(self) -> int:
        """All transports that are open now."""
        return self.stream + self.tls + self.datagram + self.pipe

    def pause(self, transport: Any, now: float) -> None:
        """A transport tells its protocol to pause writing, at ``now`` (monotonic s)."""
        self.paused_transports[id(transport)] = weakref.ref(transport)
        self.paused += 1
        self.paused_since += now

    def resume(self, transport: Any, since: float, now: float) -> None:
        """It was paused since ``since``, and is no longer: it may write again, or is closed."""
        self.paused_transports.pop(id(transport), None)
        self.paused -= 1
        self.paused_since -= since
        self.paused_s += now - since
