"""Servers: listening sockets, and the connections accepted from them."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import sys
import weakref
from asyncio import constants, tasks, trsock
from typing import Any

from ...core.standard import selector_events, unix_events
from ..loop_part import LoopPart
from .no_running_loop import no_running_loop

_HAS_CLIENTS = sys.version_info >= (3, 13)  # close_clients(), abort_clients()
_WAIT_FOR_CLIENTS = sys.version_info >= (3, 12)
_CLOSE_CLIENTS_AT_END = sys.version_info >= (3, 14)
_PASS_CONTEXT = sys.version_info >= (3, 15)
_ACCEPT_ONE_MORE = 1 if sys.version_info >= (3, 14) else 0

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Server(asyncio.Server):
    """Listening sockets that serve together, and the connections that came from them.

    The base is there for `isinstance` alone. What a version of Python has not, this has not under it either.
    """

    def __init__(
        self,
        loop: Any,
        sockets: list[Any],
        protocol_factory: Any,
        ssl_context: Any,
        backlog: int,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        self._loop: Any = loop
        self._sockets: list[Any] | None = sockets
        # Weak, so that a transport that was forgotten is still found to be unclosed.
        self._clients: weakref.WeakSet[Any] = weakref.WeakSet()
        self._anonymous_clients = 0
        self._waiters: list[asyncio.Future[None]] | None = []
        self._protocol_factory = protocol_factory
        self._backlog = backlog
        self._ssl_context = ssl_context
        self._ssl_handshake_timeout = ssl_handshake_timeout
        self._ssl_shutdown_timeout = ssl_shutdown_timeout
        self._serving = False
        self._serving_forever_fut: asyncio.Future[None] | None = None
        # From 3.15 on connections run in copies of the context that made the server.
        self._context = contextvars.copy_context() if _PASS_CONTEXT else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    # Up to 3.12 connections are only counted, and others (tests, libraries) attach without a transport.

    def _attach(self, transport: Any = None) -> None:
        assert self._sockets is not None
        if transport is None:
            self._anonymous_clients += 1
        else:
            self._clients.add(transport)

    def _detach(self, transport: Any = None) -> None:
        if transport is None:
            self._anonymous_clients -= 1
        else:
            self._clients.discard(transport)
        if self._sockets is None and not self._active_count:
            self._wakeup()

    @property
    def _active_count(self) -> int:
        return len(self._clients) + self._anonymous_clients

    def _wakeup(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def _start_serving(self) -> None:
        if self._serving:
            return
        self._serving = True
        context = {"context": self._context} if _PASS_CONTEXT else {}
        sockets: Any = self._sockets  # None where the server is closed: TypeError
        for sock in sockets:
            sock.listen(self._backlog)
            self._loop._start_serving(
                self._protocol_factory,
                sock,
                self._ssl_context,
                self,
                self._backlog,
                self._ssl_handshake_timeout,
                self._ssl_shutdown_timeout,
                **context,
            )

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that serves."""
        loop: asyncio.AbstractEventLoop = self._loop
        return loop

    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        return self._serving

    @property
    def sockets(self) -> tuple[Any, ...]:
        """The listening sockets, none once the server is closed."""
        if self._sockets is None:
            return ()
        return tuple(trsock.TransportSocket(sock) for sock in self._sockets)

    def close(self) -> None:
        """Stops listening. Connections stay open."""
        sockets = self._sockets
        if sockets is None:
            return
        self._sockets = None
        for sock in sockets:
            self._loop._stop_serving(sock)
        self._serving = False
        forever = self._serving_forever_fut
        if forever is not None and not forever.done():
            forever.cancel()
            self._serving_forever_fut = None
        if not self._active_count:
            self._wakeup()

    if _HAS_CLIENTS:

        def close_clients(self) -> None:
            """Closes all connections, each when what was written to it has been sent."""
            for transport in self._clients.copy():
                transport.close()

        def abort_clients(self) -> None:
            """Closes all connections at once."""
            for transport in self._clients.copy():
                transport.abort()

    async def start_serving(self) -> None:
        """Begins to accept connections; to be called if the server was made with ``start_serving=False``."""
        self._start_serving()
        await tasks.sleep(0)  # one pass of the loop, after which its selector knows the sockets

    async def serve_forever(self) -> None:
        """Accepts connections until cancelled; the server is closed then."""
        if self._serving_forever_fut is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._start_serving()
        self._serving_forever_fut = self._loop.create_future()
        try:
            await self._serving_forever_fut
        except asyncio.CancelledError:
            try:
                self.close()
                if _CLOSE_CLIENTS_AT_END:
                    self.close_clients()
                await self.wait_closed()
            finally:
                raise
        finally:
            self._serving_forever_fut = None

    async def wait_closed(self) -> None:
        """Waits until the server is closed and, from 3.12 on, its connections are too."""
        if self._waiters is None or (self._sockets is None and not _WAIT_FOR_CLIENTS):
            return
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter


class ServersMixin(LoopPart):
    """Accepting. For the loop's own thread."""

    _unix_server_sockets: dict[Any, int]

    def _start_serving(
        self,
        protocol_factory: Any,
        sock: Any,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
        context: contextvars.Context | None = None,
    ) -> None:
        self._add_reader(
            sock.fileno(),
            self._accept_connection,
            protocol_factory,
            sock,
            sslcontext,
            server,
            backlog,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
            *((context,) if _PASS_CONTEXT else ()),
        )

    def _accept_connection(
        self,
        protocol_factory: Any,
        sock: Any,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
        context: contextvars.Context | None = None,
    ) -> None:
        # All that wait, in one pass of the loop (bpo-27906): with one a pass, a loop that is busy with
        # its connections would let new ones wait longest.
        for _ in range(backlog + _ACCEPT_ONE_MORE):
            try:
                conn, address = sock.accept()
                if self._debug:
                    selector_events.logger.debug("%r got a new connection from %r: %r", server, address, conn)
                conn.setblocking(False)
            except ConnectionAbortedError:
                # This one went away while it waited; the next may not have (CPython issue 127529).
                self._io_counters.refused += 1
                continue
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self._io_counters.refused += 1
                if exc.errno not in _OUT_OF_RESOURCES:
                    raise  # to the loop, which reports it
                # The socket stays ready and would be polled in vain: later again.
                self.call_exception_handler(
                    {
                        "message": "socket.accept() out of system resource",
                        "exception": exc,
                        "socket": trsock.TransportSocket(sock),
                    }
                )
                self._remove_reader(sock.fileno())
                self.call_later(
                    constants.ACCEPT_RETRY_DELAY,
                    self._resume_serving,
                    protocol_factory,
                    sock,
                    sslcontext,
                    server,
                    backlog,
                    ssl_handshake_timeout,
                    ssl_shutdown_timeout,
                    *((context,) if _PASS_CONTEXT else ()),
                )
                return
            self._io_counters.accepted += 1
            options: dict[str, Any] = {}
            if _PASS_CONTEXT:
                options["context"] = context.copy() if context is not None else None
            coroutine = self._accept_connection2(
                protocol_factory,
                conn,
                {"peername": address},
                sslcontext,
                server,
                ssl_handshake_timeout,
                ssl_shutdown_timeout,
                **options,
            )
            self.create_task(coroutine, **options)

    def _resume_serving(self, protocol_factory: Any, sock: Any, *args: Any) -> None:
        # A server that was closed meanwhile has closed its socket.
        if sock.fileno() != -1:
            self._start_serving(protocol_factory, sock, *args)

    async def _accept_connection2(
        self,
        protocol_factory: Any,
        conn: Any,
        extra: dict[str, Any],
        sslcontext: Any = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
        context: contextvars.Context | None = None,
    ) -> None:
        protocol = None
        transport = None
        options: dict[str, Any] = {"context": context} if _PASS_CONTEXT else {}
        try:
            protocol = protocol_factory()
            waiter = self.create_future()
            if sslcontext:
                transport = self._make_ssl_transport(
                    conn,
                    protocol,
                    sslcontext,
                    waiter=waiter,
                    server_side=True,
                    extra=extra,
                    server=server,
                    ssl_handshake_timeout=ssl_handshake_timeout,
                    ssl_shutdown_timeout=ssl_shutdown_timeout,
                    **options,
                )
            else:
                transport = self._make_socket_transport(
                    conn, protocol, waiter=waiter, extra=extra, server=server, **options
                )
            try:
                await waiter
            except BaseException:
                transport.close()
                # Its exception refers to this frame (CPython issue 109534).
                waiter = None
                raise
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            if transport is None:
                conn.close()
            if self._debug:
                report: dict[str, Any] = {
                    "message": "Error on transport creation for incoming connection",
                    "exception": exc,
                }
                if protocol is not None:
                    report["protocol"] = protocol
                if transport is not None:
                    report["transport"] = transport
                self.call_exception_handler(report)

    def _stop_serving(self, sock: Any) -> None:
        # The name has to be asked for before the socket is closed.
        inode = self._unix_server_sockets.pop(sock, None)
        path = sock.getsockname() if inode is not None else None
        self._remove_reader(sock.fileno())
        sock.close()
        if path is None:
            return
        os = unix_events.os
        try:
            # Another server may use the name by now.
            with no_running_loop():
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as err:
            unix_events.logger.error("Unable to clean up listening UNIX socket %r: %r", path, err)
