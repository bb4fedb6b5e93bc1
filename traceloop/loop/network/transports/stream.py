"""The transport of TCP and unix stream sockets.

Reading: one call of recv for each time the socket is ready, straight to the protocol. Writing: at once if nothing is
waiting, and what the kernel did not take goes to a queue that is sent with sendmsg when the socket is ready again.

The C core does the usual case of both (core/native/stream.c). It reads the attributes that are slots here where they
lie, and calls `_read_eof`, `_receive_into`, `_queue`, `_fatal_error` or the whole method for everything else.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import sys
from asyncio import constants, protocols
from contextvars import Context
from typing import Any

from ....core.standard import futures, selector_events
from ..io_counters import IOCounters
from .base import _SelectorTransport

_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")
_MAX_CHUNKS = 16  # what POSIX grants everywhere
if _HAS_SENDMSG:
    try:
        _MAX_CHUNKS = os.sysconf("SC_IOV_MAX")
    except OSError:
        _HAS_SENDMSG = False

# Up to this many bytes, joining small pieces and one send cost less than sendmsg (11 against 15 us with two pieces).
_JOINED_SIZE = 16 * 1024

# Before 3.12 the standard transport's writelines calls write, and so does one that the program put in its place.
_WRITELINES_IS_WRITE = sys.version_info < (3, 12)
_WRITELINES = "write" if _WRITELINES_IS_WRITE else "writelines"

_NOT_BYTES = (
    "data argument must be a bytes, bytearray, or memoryview object, not {!r}"
    if sys.version_info >= (3, 14)
    else "data argument must be a bytes-like object, not {!r}"
)


def _bytes_view(data: Any) -> memoryview:
    """``data`` byte by byte, whatever its items are. Raises TypeError for what is no buffer."""
    view = memoryview(data)
    return view if view.itemsize == 1 and view.ndim == 1 else view.cast("B")


def _rest(data: Any, sent: int) -> memoryview | bytes:
    """What is left of ``data`` after ``sent`` bytes, in a form that its owner cannot change any more.

    Without a copy where it was immutable to begin with. (The standard loop queues views of mutable buffers from 3.12
    on: a bytearray that is used again before the kernel has taken it sends the wrong bytes, and cannot be resized.)
    """
    view = _bytes_view(data)[sent:]
    return view if type(view.obj) is bytes else bytes(view)


def set_nodelay(sock: Any) -> None:
    """Switches Nagle's algorithm off: small writes leave at once, without waiting for an acknowledgement."""
    if (
        sock.family in (socket.AF_INET, socket.AF_INET6)
        and sock.type == socket.SOCK_STREAM
        and sock.proto == socket.IPPROTO_TCP
    ):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _SelectorSocketTransport(_SelectorTransport):
    """A connected stream socket."""

    # What each read and each write looks at; the rest lies in the instance's dict.
    __slots__ = (
        "_buffer", "_buffered", "_closing", "_conn_lost", "_empty_waiter", "_eof", "_io", "_loop", "_protocol", "_sock",
    )  # fmt: skip

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    _counters = IOCounters
    _no_writer = False  # while writelines tries to do without one

    def __init__(
        self,
        loop: Any,
        sock: Any,
        protocol: Any,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(loop, sock, protocol, extra, server, context)
        self._eof = False
        self._empty_waiter: asyncio.Future[None] | None = None
        set_nodelay(sock)

        self._call_soon(self._protocol.connection_made, self)
        # Data must not come before connection_made, nor the waiter wake before it.
        self._call_soon(self._add_reader, self._sock_fd, self._read_ready)
        if waiter is not None:
            self._call_soon(futures._set_result_unless_cancelled, waiter, None)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._buffered = isinstance(protocol, protocols.BufferedProtocol)
        super().set_protocol(protocol)

    # Reading

    def _read_ready(self) -> None:
        if self._conn_lost:
            return
        if self._buffered:
            self._read_into_buffer()
            return
        try:
            data = self._sock.recv(self.max_size)
        except (BlockingIOError, InterruptedError):
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal read error on socket transport")
            return
        if not data:
            self._read_eof()
            return
        self._io.bytes_in += len(data)
        try:
            self._protocol.data_received(data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.data_received() call failed.")

    @property
    def _read_ready_cb(self) -> Any:
        # CPython's tests ask for it: what reads, None once nothing does any more.
        return None if self._closing else self._read_ready

    def _read_into_buffer(self) -> None:
        try:
            buffer = self._protocol.get_buffer(-1)
            if not len(buffer):
                raise RuntimeError("get_buffer() returned an empty buffer")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.get_buffer() call failed.")
            return
        self._receive_into(buffer)

    def _receive_into(self, buffer: Any) -> None:
        try:
            size = self._sock.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal read error on socket transport")
            return
        if not size:
            self._read_eof()
            return
        self._io.bytes_in += size
        try:
            self._protocol.buffer_updated(size)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.buffer_updated() call failed.")

    def _read_eof(self) -> None:
        if self._loop.get_debug():
            selector_events.logger.debug("%r received EOF", self)
        try:
            keep_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")
            return
        if keep_open:
            # The protocol may still write. The reader has to go: end of file stays readable for ever.
            self._loop._remove_reader(self._sock_fd)
        else:
            self.close()

    # Writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends ``data``, or queues what the kernel does not take now. Never blocks.

        Raises TypeError for what is not bytes, RuntimeError after write_eof and while a file is being sent.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(_NOT_BYTES.format(type(data).__name__))
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._empty_waiter is not None:
            raise RuntimeError("unable to write; sendfile is in progress")
        if not data:
            return
        if self._conn_lost:
            self._write_too_late()
            return
        sent = 0
        if not self._buffer:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal write error on socket transport")
                return
            else:
                self._io.bytes_out += sent
                if sent == (data.nbytes if isinstance(data, memoryview) else len(data)):
                    return
        self._queue(data, sent)

    _own_write = write  # what the program has not replaced; the C core puts its own here

    def _queue(self, data: Any, sent: int) -> None:
        """Keeps what is left of ``data`` after ``sent`` bytes until the socket is ready again."""
        rest = _rest(data, sent)
        if not rest:  # its `__len__` has another opinion; an empty piece could never be sent
            return
        if not self._buffer:
            self._add_writer(self._sock_fd, self._write_ready)
        self._buffer.append(rest)
        self._buffer_size += len(rest)
        self._maybe_pause_protocol()

    def writelines(self, list_of_data: Any) -> None:
        """Sends several pieces with as few system calls and copies as can be."""
        if self._eof:
            raise RuntimeError(f"Cannot call {_WRITELINES}() after write_eof()")
        if self._empty_waiter is not None:
            raise RuntimeError(f"unable to {_WRITELINES}; sendfile is in progress")
        if not list_of_data:
            if _WRITELINES_IS_WRITE:
                b"".join(list_of_data)  # raises TypeError for None
            return
        if _WRITELINES_IS_WRITE and ("write" in self.__dict__ or type(self).write is not type(self)._own_write):
            self.write(b"".join(list_of_data))
            return
        if (
            not self._buffer
            and isinstance(list_of_data, (list, tuple))
            and len(list_of_data) > 1
            and sum(map(len, list_of_data)) <= _JOINED_SIZE
        ):
            self._own_write(b"".join(list_of_data))
            return
        # All of it is looked at before any is queued: a wrong item must not leave half a message behind.
        pieces = [data if type(data) is bytes else _bytes_view(data) for data in list_of_data]
        if self._conn_lost:
            self._write_too_late()
            return
        buffer = self._buffer
        waiting = bool(buffer)
        for piece in pieces:
            size = len(piece)
            if size:  # an empty one could never be sent (CPython issue 155888)
                buffer.append(piece)
                self._buffer_size += size
        if not buffer:
            return
        if not waiting:
            self._no_writer = True
            self._write_ready()
            self._no_writer = False
            if not self._buffer:
                return
            self._add_writer(self._sock_fd, self._write_ready)
        # What stays behind must not change when its owner goes on.
        for index, piece in enumerate(buffer):
            if type(piece) is memoryview and type(piece.obj) is not bytes:
                buffer[index] = bytes(piece)
        self._maybe_pause_protocol()

    def _write_too_late(self) -> None:
        if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            selector_events.logger.warning("socket.send() raised exception.")
        self._conn_lost += 1

    def _write_sendmsg(self) -> None:
        assert self._buffer, "Data should not be empty"
        if self._conn_lost:
            return
        try:
            sent = self._sock.sendmsg(itertools.islice(self._buffer, _MAX_CHUNKS))
        except (BlockingIOError, InterruptedError):
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._write_failed(exc)
        else:
            self._sent(sent)

    def _write_send(self) -> None:
        """As `_write_sendmsg`, where the system has no such call."""
        assert self._buffer, "Data should not be empty"
        if self._conn_lost:
            return
        try:
            sent = self._sock.send(self._buffer[0])
        except (BlockingIOError, InterruptedError):
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._write_failed(exc)
        else:
            self._sent(sent)

    _write_ready = _write_sendmsg if _HAS_SENDMSG else _write_send

    def _write_failed(self, exc: BaseException) -> None:
        self._loop._remove_writer(self._sock_fd)
        self._buffer.clear()
        self._buffer_size = 0
        self._fatal_error(exc, "Fatal write error on socket transport")
        if self._empty_waiter is not None:
            self._empty_waiter.set_exception(exc)

    def _sent(self, sent: int) -> None:
        self._io.bytes_out += sent
        buffer = self._buffer
        if sent and sent == self._buffer_size:
            buffer.clear()
            self._buffer_size = 0
        else:
            self._buffer_size -= sent
            while sent:
                piece = buffer.popleft()
                size = len(piece)
                if size > sent:
                    buffer.appendleft(memoryview(piece)[sent:])
                    break
                sent -= size
        if self._protocol_paused:
            self._maybe_resume_protocol()  # the protocol may write, or close
        if buffer:
            return
        if not self._no_writer:
            self._loop._remove_writer(self._sock_fd)
        if self._empty_waiter is not None:
            self._empty_waiter.set_result(None)
        if self._closing:
            # abort() called by the protocol just now has put connection_lost on its way already.
            if not self._conn_lost:
                self._conn_lost += 1
                self._call_connection_lost(None)
        elif self._eof:
            self._sock.shutdown(socket.SHUT_WR)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Closes the writing half once everything has been sent; reading goes on."""
        if self._closing or self._eof:
            return
        self._eof = True
        if not self._buffer:
            self._sock.shutdown(socket.SHUT_WR)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            super()._call_connection_lost(exc)
        finally:
            waiter = self._empty_waiter
            if waiter is not None and not waiter.done():
                waiter.set_exception(ConnectionError("Connection is closed by peer"))

    # sendfile waits until the queue is empty, and keeps writes off meanwhile.

    def _make_empty_waiter(self) -> asyncio.Future[None]:
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._empty_waiter = waiter
        if not self._buffer:
            waiter.set_result(None)
        return waiter

    def _reset_empty_waiter(self) -> None:
        self._empty_waiter = None
