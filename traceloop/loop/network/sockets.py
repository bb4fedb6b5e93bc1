"""The sock_* methods: one operation on a bare non-blocking socket, awaited.

Each tries its system call at once, and where the kernel has nothing yet, again whenever the selector says so. The retry
is made in the selector's callback and not by the task that waits: a task cancelled meanwhile has taken nothing.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import socket as _socket
from asyncio import tasks
from collections.abc import Callable
from operator import methodcaller
from typing import Any

from ...core.standard import base_events
from ..loop_part import LoopPart

_Address = Any
_Future = asyncio.Future[Any]

_UNIX_CONNECT_RETRY_S = 0.01


class SocketsMixin(LoopPart):
    """For the loop's own thread. The sockets must be non-blocking; debug mode checks it."""

    def _check_sock(self, sock: Any) -> None:
        ssl: Any = base_events.ssl
        if ssl is not None and isinstance(sock, ssl.SSLSocket):
            raise TypeError("Socket cannot be of type SSLSocket")
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    # Retrying

    def _sock_when_readable(self, sock: Any, operation: Callable[[Any], Any]) -> _Future:
        fut: _Future = self.create_future()
        fd = sock.fileno()
        self._ensure_fd_no_transport(fd)
        handle = self._add_reader(fd, self._sock_attempt, fut, sock, operation)
        fut.add_done_callback(functools.partial(self._sock_read_done, fd, handle=handle))
        return fut

    def _sock_when_writable(self, sock: Any, operation: Callable[[Any], Any]) -> _Future:
        fut: _Future = self.create_future()
        fd = sock.fileno()
        self._ensure_fd_no_transport(fd)
        handle = self._add_writer(fd, self._sock_attempt, fut, sock, operation)
        fut.add_done_callback(functools.partial(self._sock_write_done, fd, handle=handle))
        return fut

    def _sock_attempt(self, fut: _Future, sock: Any, operation: Callable[[Any], Any]) -> None:
        if fut.done():
            return  # cancelled, and the reader not yet removed
        try:
            result = operation(sock)
        except (BlockingIOError, InterruptedError):
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            fut.set_exception(exc)
        else:
            fut.set_result(result)
        finally:
            # An exception refers to this frame: it must not refer back to the future that holds it.
            del fut

    # A handle that is cancelled has been replaced by another operation's on the same socket: that one stays.

    def _sock_read_done(self, fd: int, fut: _Future, handle: asyncio.Handle | None = None) -> None:
        if handle is None or not handle.cancelled():
            self.remove_reader(fd)

    def _sock_write_done(self, fd: int, fut: _Future, handle: asyncio.Handle | None = None) -> None:
        if handle is None or not handle.cancelled():
            self.remove_writer(fd)

    # Receiving

    async def sock_recv(self, sock: Any, n: int) -> bytes:
        """Up to ``n`` bytes; b"" at the end of the stream."""
        self._check_sock(sock)
        data: bytes
        try:
            data = sock.recv(n)
        except (BlockingIOError, InterruptedError):
            data = await self._sock_when_readable(sock, methodcaller("recv", n))
        self._io_counters.bytes_in += len(data)
        return data

    async def sock_recv_into(self, sock: Any, buf: Any) -> int:
        """Reads into ``buf``; returns the number of bytes."""
        self._check_sock(sock)
        size: int
        try:
            size = sock.recv_into(buf)
        except (BlockingIOError, InterruptedError):
            size = await self._sock_when_readable(sock, methodcaller("recv_into", buf))
        self._io_counters.bytes_in += size
        return size

    async def sock_recvfrom(self, sock: Any, bufsize: int) -> tuple[bytes, _Address]:
        """Receives one datagram. Returns at most ``bufsize`` bytes of it, and the sender's address."""
        self._check_sock(sock)
        received: tuple[bytes, _Address]
        try:
            received = sock.recvfrom(bufsize)
        except (BlockingIOError, InterruptedError):
            received = await self._sock_when_readable(sock, methodcaller("recvfrom", bufsize))
        self._io_counters.bytes_in += len(received[0])
        return received

    async def sock_recvfrom_into(self, sock: Any, buf: Any, nbytes: int = 0) -> tuple[int, _Address]:
        """One datagram into ``buf`` (at most ``nbytes`` of it, if not 0): its size, and where it came from."""
        self._check_sock(sock)
        if not nbytes:
            nbytes = len(buf)
        received: tuple[int, _Address]
        try:
            received = sock.recvfrom_into(buf, nbytes)
        except (BlockingIOError, InterruptedError):
            received = await self._sock_when_readable(sock, methodcaller("recvfrom_into", buf, nbytes))
        self._io_counters.bytes_in += received[0]
        return received

    # Sending

    async def sock_sendall(self, sock: Any, data: Any) -> None:
        """Sends all of ``data``. After an error there is no telling how much has arrived."""
        self._check_sock(sock)
        try:
            sent = sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        else:
            self._io_counters.bytes_out += sent
        view = memoryview(data)
        if sent == view.nbytes:
            return
        if view.itemsize != 1 or view.ndim != 1:
            view = view.cast("B")
        await self._sock_when_writable(sock, functools.partial(self._sock_send_rest, view, [sent]))

    def _sock_send_rest(self, view: memoryview, position: list[int], sock: Any) -> None:
        # Not done yet is said as the kernel says it: by BlockingIOError, so that it is tried again.
        sent = sock.send(view[position[0] :])
        self._io_counters.bytes_out += sent
        position[0] += sent
        if position[0] < len(view):
            raise BlockingIOError

    async def sock_sendto(self, sock: Any, data: Any, address: _Address) -> int:
        """Sends one datagram to ``address``; returns the number of bytes."""
        self._check_sock(sock)
        sent: int
        try:
            sent = sock.sendto(data, address)
        except (BlockingIOError, InterruptedError):
            sent = await self._sock_when_writable(sock, methodcaller("sendto", data, 0, address))
        self._io_counters.bytes_out += sent
        return sent

    # Connecting

    async def sock_connect(self, sock: Any, address: _Address) -> None:
        """Connects; a host name is resolved first."""
        self._check_sock(sock)
        if sock.family == _socket.AF_INET or (base_events._HAS_IPv6 and sock.family == _socket.AF_INET6):
            infos = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            address = infos[0][4]
        while True:
            try:
                sock.connect(address)
                return
            except (BlockingIOError, InterruptedError) as exc:
                queue_full = exc.errno == errno.EAGAIN and sock.family == _socket.AF_UNIX
            if not queue_full:
                # Under way, also after EINTR (POSIX): the socket is writable when it has ended.
                await self._sock_when_writable(sock, functools.partial(self._sock_connected, address))
                return
            # unix(7): a server's queue is full, and nothing is under way, though the socket is writable without an
            # error (which the standard loop takes for a connection). A blocking socket would wait for room.
            await tasks.sleep(_UNIX_CONNECT_RETRY_S)

    def _sock_connected(self, address: _Address, sock: Any) -> None:
        error = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if error:
            raise OSError(error, f"Connect call failed {address}")

    async def sock_accept(self, sock: Any) -> tuple[Any, _Address]:
        """The next connection of a listening socket, and its peer's address."""
        self._check_sock(sock)
        accepted: tuple[Any, _Address]
        try:
            accepted = self._sock_accept_now(sock)
        except (BlockingIOError, InterruptedError):
            accepted = await self._sock_when_readable(sock, self._sock_accept_now)
        self._io_counters.accepted += 1
        return accepted

    def _sock_accept_now(self, sock: Any) -> tuple[Any, _Address]:
        conn, address = sock.accept()
        conn.setblocking(False)
        return conn, address
