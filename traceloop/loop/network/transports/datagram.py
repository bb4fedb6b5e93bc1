"""The transport of UDP and unix datagram sockets."""

from __future__ import annotations

import asyncio
import socket
import sys
from asyncio import constants, transports
from typing import Any

from ....core.standard import futures, selector_events
from .base import _SelectorTransport

# Both since 3.13: an empty datagram is sent, and each one waiting counts with what its header takes.
_SEND_EMPTY = sys.version_info >= (3, 13)


class _SelectorDatagramTransport(_SelectorTransport, transports.DatagramTransport):
    """A datagram socket, with or without one fixed peer.

    Errors of the network go to ``protocol.error_received`` and close nothing: the next datagram may fare better.
    """

    # What fits into an IP datagram, and no allocation of more at each read.
    max_size = 64 * 1024
    _kind = "datagram"
    _header_size = 8 if _SEND_EMPTY else 0

    def __init__(
        self,
        loop: Any,
        sock: Any,
        protocol: Any,
        address: Any = None,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(loop, sock, protocol, extra)
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            self.max_size = 256 * 1024  # as the standard loop: what the kernel cuts off is lost
        self._address = address
        self._call_soon(self._protocol.connection_made, self)
        # Data must not come before connection_made, nor the waiter wake before it.
        self._call_soon(self._add_reader, self._sock_fd, self._read_ready)
        if waiter is not None:
            self._call_soon(futures._set_result_unless_cancelled, waiter, None)

    def _read_ready(self) -> None:
        if self._conn_lost:
            return
        try:
            data, addr = self._sock.recvfrom(self.max_size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._protocol.error_received(exc)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal read error on datagram transport")
        else:
            self._io.bytes_in += len(data)
            self._protocol.datagram_received(data, addr)

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Sends one datagram, or queues it. Raises TypeError for what is not bytes, ValueError for a second peer."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if not data and not _SEND_EMPTY:
            return
        if self._address:
            if addr not in (None, self._address):
                raise ValueError(f"Invalid address: must be None or {self._address}")
            addr = self._address
        if self._conn_lost and self._address:
            if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                selector_events.logger.warning("socket.send() raised exception.")
            self._conn_lost += 1
            return
        if not self._buffer:
            try:
                self._send(data, addr)
                return
            except (BlockingIOError, InterruptedError):
                self._add_writer(self._sock_fd, self._sendto_ready)
            except OSError as exc:
                self._protocol.error_received(exc)
                return
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal write error on datagram transport")
                return
        # The owner may use the buffer again: a copy, unless it is bytes already.
        self._buffer.append((bytes(data), addr))
        self._buffer_size += len(data) + self._header_size
        self._maybe_pause_protocol()

    def _send(self, data: Any, addr: Any) -> None:
        # A connected socket must not be told the address again (some systems refuse it). One whose peer has no name,
        # as those of a socketpair, has "" here; unconnected ones have None.
        peer = self._extra["peername"]
        if peer or (addr is None and peer is not None):
            self._sock.send(data)
        else:
            self._sock.sendto(data, addr)
        # A datagram goes whole or not at all.
        self._io.bytes_out += data.nbytes if type(data) is memoryview else len(data)

    def _sendto_ready(self) -> None:
        while self._buffer:
            data, addr = self._buffer.popleft()
            self._buffer_size -= len(data) + self._header_size
            try:
                self._send(data, addr)
            except (BlockingIOError, InterruptedError):
                self._buffer.appendleft((data, addr))
                self._buffer_size += len(data) + self._header_size
                break
            except OSError as exc:
                self._protocol.error_received(exc)
                return
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal write error on datagram transport")
                return
        self._maybe_resume_protocol()  # the protocol may send, or close
        if not self._buffer:
            self._loop._remove_writer(self._sock_fd)
            if self._closing and not self._conn_lost:
                self._conn_lost += 1
                self._call_connection_lost(None)
