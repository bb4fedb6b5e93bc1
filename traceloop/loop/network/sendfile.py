"""sock_sendfile and sendfile: by the kernel where it can, else by reading and writing.

Which file objects the kernel takes is not known before it is asked: the native way says SendfileNotAvailableError,
and then the other is taken, unless the caller forbade it.
"""

from __future__ import annotations

import asyncio
import errno
import io
import socket as _socket
import sys
from asyncio import constants, transports
from asyncio.exceptions import SendfileNotAvailableError
from typing import Any

from ...core.standard import unix_events
from ..loop_part import LoopPart
from .no_running_loop import no_running_loop

_FALLBACK_READ_SIZE = 16 * 1024

_Future = asyncio.Future[Any]
_FlowControlMixin: Any = transports._FlowControlMixin


class SendfileMixin(LoopPart):
    """For the loop's own thread. Offsets and counts in bytes; each method returns how many bytes it sent."""

    async def sock_sendfile(
        self, sock: Any, file: Any, offset: int = 0, count: int | None = None, *, fallback: bool | None = True
    ) -> int:
        """Sends ``count`` bytes of ``file`` (None: all) from ``offset``; leaves the file behind what was sent."""
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        self._check_sock(sock)
        self._check_sendfile_params(sock, file, offset, count)
        sent: int
        try:
            sent = await self._sock_sendfile_native(sock, file, offset, count)
        except SendfileNotAvailableError:
            if not fallback:
                raise
            sent = -1
        if sent < 0:
            # Outside of the handler: errors from here have nothing to do with the one before.
            sent = await self._sock_sendfile_fallback(sock, file, offset, count)
        return sent

    def _check_sendfile_params(self, sock: Any, file: Any, offset: Any, count: Any) -> None:
        if "b" not in getattr(file, "mode", "b"):
            raise ValueError("file should be opened in binary mode")
        if sock.type != _socket.SOCK_STREAM:
            raise ValueError("only SOCK_STREAM type sockets are supported")
        if count is not None:
            if not isinstance(count, int):
                raise TypeError(f"count must be a positive integer (got {count!r})")
            if count <= 0:
                raise ValueError(f"count must be a positive integer (got {count!r})")
        if not isinstance(offset, int):
            raise TypeError(f"offset must be a non-negative integer (got {offset!r})")
        if offset < 0:
            raise ValueError(f"offset must be a non-negative integer (got {offset!r})")

    async def _sock_sendfile_native(self, sock: Any, file: Any, offset: int, count: int | None) -> int:
        os = unix_events.os
        if not hasattr(os, "sendfile"):
            raise SendfileNotAvailableError("os.sendfile() is not available")
        try:
            fileno = file.fileno()
        except (AttributeError, io.UnsupportedOperation):
            raise SendfileNotAvailableError("not a regular file")  # noqa: B904
        try:
            size = os.fstat(fileno).st_size
        except OSError:
            raise SendfileNotAvailableError("not a regular file")  # noqa: B904
        blocksize = count if count else size
        if not blocksize:
            return 0
        fut: _Future = self.create_future()
        self._sock_sendfile_native_impl(fut, None, sock, fileno, offset, count, blocksize, 0)
        sent: int = await fut
        return sent

    def _sock_sendfile_native_impl(
        self,
        fut: _Future,
        registered_fd: int | None,
        sock: Any,
        fileno: int,
        offset: int,
        count: int | None,
        blocksize: int,
        total_sent: int,
    ) -> None:
        os = unix_events.os
        fd = sock.fileno()
        if registered_fd is not None:
            # Registered anew, with the new position, if there is more to do.
            self.remove_writer(registered_fd)
        if fut.cancelled():
            _move_behind(fileno, offset, total_sent)
            return
        if count:
            blocksize = count - total_sent
            if blocksize <= 0:
                _move_behind(fileno, offset, total_sent)
                fut.set_result(total_sent)
                return
        # More than this overflows on 32-bit machines.
        blocksize = min(blocksize, sys.maxsize // 2 + 1)

        try:
            with no_running_loop():
                sent = os.sendfile(fd, fileno, offset, blocksize)
        except (BlockingIOError, InterruptedError):
            sent = -1
        except OSError as exc:
            _move_behind(fileno, offset, total_sent)
            if total_sent == 0:
                # A kind of file that the kernel cannot map, most likely.
                fut.set_exception(SendfileNotAvailableError("os.sendfile call failed"))
            elif registered_fd is not None and exc.errno == errno.ENOTCONN and type(exc) is not ConnectionError:
                # The peer went away meanwhile; only some systems say so by ConnectionError.
                error = ConnectionError("socket is not connected", errno.ENOTCONN)
                error.__cause__ = exc
                fut.set_exception(error)
            else:
                fut.set_exception(exc)
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            _move_behind(fileno, offset, total_sent)
            fut.set_exception(exc)
            return
        if sent == 0:
            _move_behind(fileno, offset, total_sent)
            fut.set_result(total_sent)
            return
        if sent > 0:
            offset += sent
            total_sent += sent
            self._io_counters.bytes_out += sent
        if registered_fd is None:
            self._sock_add_cancellation_callback(fut, sock)
        self.add_writer(
            fd, self._sock_sendfile_native_impl, fut, fd, sock, fileno, offset, count, blocksize, total_sent
        )

    def _sock_add_cancellation_callback(self, fut: _Future, sock: Any) -> None:
        def cancelled(fut: _Future) -> None:
            if fut.cancelled():
                fd = sock.fileno()
                if fd != -1:
                    self.remove_writer(fd)

        fut.add_done_callback(cancelled)

    async def _sock_sendfile_fallback(self, sock: Any, file: Any, offset: int, count: int | None) -> int:
        if hasattr(file, "seek"):
            file.seek(offset)
        limit = constants.SENDFILE_FALLBACK_READBUFFER_SIZE
        buffer = memoryview(bytearray(min(count, limit) if count else limit))
        sent = 0
        try:
            while count is None or sent < count:
                wanted = len(buffer) if count is None else min(count - sent, len(buffer))
                read = await self.run_in_executor(None, file.readinto, buffer[:wanted])
                if not read:
                    break
                await self.sock_sendall(sock, buffer[:read])
                sent += read
            return sent
        finally:
            if sent > 0 and hasattr(file, "seek"):
                file.seek(offset + sent)

    async def sendfile(
        self, transport: Any, file: Any, offset: int = 0, count: int | None = None, *, fallback: bool | None = True
    ) -> int:
        """As `sock_sendfile`, to a transport, behind what was written to it before."""
        if transport.is_closing():
            raise RuntimeError("Transport is closing")
        mode = getattr(transport, "_sendfile_compatible", constants._SendfileMode.UNSUPPORTED)
        if mode is constants._SendfileMode.UNSUPPORTED:
            raise RuntimeError(f"sendfile is not supported for transport {transport!r}")
        sent: int
        if mode is constants._SendfileMode.TRY_NATIVE:
            try:
                sent = await self._sendfile_native(transport, file, offset, count)
                return sent
            except SendfileNotAvailableError:
                if not fallback:
                    raise
        if not fallback:
            raise RuntimeError(f"fallback is disabled and native sendfile is not supported for transport {transport!r}")
        sent = await self._sendfile_fallback(transport, file, offset, count)
        return sent

    async def _sendfile_native(self, transp: Any, file: Any, offset: int, count: int | None) -> int:
        # While it lasts the descriptor is this operation's and not the transport's, which neither reads nor writes.
        del self._transports[transp._sock_fd]
        resume_reading = transp.is_reading()
        transp.pause_reading()
        await transp._make_empty_waiter()
        try:
            sent: int = await self.sock_sendfile(transp._sock, file, offset, count, fallback=False)
            return sent
        finally:
            transp._reset_empty_waiter()
            if resume_reading:
                transp.resume_reading()
            self._transports[transp._sock_fd] = transp

    async def _sendfile_fallback(self, transp: Any, file: Any, offset: int, count: int | None) -> int:
        if hasattr(file, "seek"):
            file.seek(offset)
        buffer = memoryview(bytearray(min(count, _FALLBACK_READ_SIZE) if count else _FALLBACK_READ_SIZE))
        sent = 0
        protocol = _SendfileFallbackProtocol(transp)
        try:
            while count is None or sent < count:
                wanted = len(buffer) if count is None else min(count - sent, len(buffer))
                read = await self.run_in_executor(None, file.readinto, buffer[:wanted])
                if not read:
                    break
                await protocol.drain()
                # A copy: the transport may keep what it is given, and this buffer is used again.
                transp.write(bytes(buffer[:read]))
                sent += read
            return sent
        finally:
            if sent > 0 and hasattr(file, "seek"):
                file.seek(offset + sent)
            await protocol.restore()


class _SendfileFallbackProtocol(asyncio.Protocol):
    """Takes the place of a transport's protocol while a file is sent through it, for the sake of flow control."""

    def __init__(self, transport: Any) -> None:
        if not isinstance(transport, _FlowControlMixin):
            raise TypeError("transport should be _FlowControlMixin instance")
        self._transport: Any = transport
        self._protocol: Any = transport.get_protocol()
        self._should_resume_reading = transport.is_reading()
        self._should_resume_writing: bool = self._transport._protocol_paused
        transport.pause_reading()
        transport.set_protocol(self)
        self._writable: asyncio.Future[None] | None = None
        if self._should_resume_writing:
            self._writable = self._transport._loop.create_future()

    async def drain(self) -> None:
        """Waits until the transport takes more. Raises ConnectionError if it is closing."""
        if self._transport.is_closing():
            raise ConnectionError("Connection closed by peer")
        if self._writable is not None:
            await self._writable

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raise RuntimeError("Invalid state: connection should have been established already.")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._writable is not None and not self._writable.done():
            # What is waited for will not be sent any more: an error, even of a connection that ended well.
            self._writable.set_exception(exc or ConnectionError("Connection is closed by peer"))
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._transport._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None

    def data_received(self, data: bytes) -> None:
        raise RuntimeError("Invalid state: reading should be paused")

    def eof_received(self) -> None:
        raise RuntimeError("Invalid state: reading should be paused")

    async def restore(self) -> None:
        """Gives the transport its protocol back."""
        self._transport.set_protocol(self._protocol)
        if self._should_resume_reading:
            self._transport.resume_reading()
        if self._writable is not None:
            self._writable.cancel()  # it is no longer awaited
        if self._should_resume_writing:
            self._protocol.resume_writing()


# The standard loop of 3.14.10 and 3.15 sets the position of a file of which nothing was sent, too. Earlier ones
# leave it alone: it may have none (a pipe).
_ALWAYS_MOVES = sys.version_info >= (3, 14)


def _move_behind(fileno: int, offset: int, total_sent: int) -> None:
    if total_sent > 0 or _ALWAYS_MOVES:
        unix_events.os.lseek(fileno, offset, unix_events.os.SEEK_SET)
