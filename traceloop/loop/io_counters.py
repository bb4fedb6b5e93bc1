"""Counts of what goes through a loop's sockets.

Plain integers that only the loop's own thread adds to, one addition for each system call that moved data; whoever
reports them reads them without a lock. A value may be one call behind when it is read from another thread.
"""

from __future__ import annotations


class IOCounters:
    """Totals since the loop was made (the first four) and what is open now (the rest).

    bytes_in, bytes_out: bytes that system calls moved for transports and for ``sock_*``; of TLS, the encrypted bytes.
    accepted: connections that servers of this loop accepted.
    refused: calls of ``accept`` that failed (descriptors or buffers exhausted, connection aborted).
    stream, tls, datagram, pipe: transports that are open; a stream transport that carries TLS counts as ``tls``.
    """

    __slots__ = ("accepted", "bytes_in", "bytes_out", "datagram", "pipe", "refused", "stream", "tls")

    def __init__(self) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.accepted = 0
        self.refused = 0
        self.stream = 0
        self.tls = 0
        self.datagram = 0
        self.pipe = 0

    @property
    def open_transports(self) -> int:
        """All transports that are open now."""
        return self.stream + self.tls + self.datagram + self.pipe
