"""create_connection and its family: from addresses or sockets to a transport and a protocol."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import itertools
import socket as _socket
import sys
from asyncio import constants
from collections.abc import Iterable
from typing import Any

from ...core.standard import base_events, unix_events
from ..loop_part import LoopPart
from .listening import check_not_tls_socket, check_tls_options
from .transports import tls
from .transports.stream import _SelectorSocketTransport

# Two transports on one descriptor are refused since 3.12.
_CHECK_FD = sys.version_info >= (3, 12)
_PASS_CONTEXT = sys.version_info >= (3, 15)


def interleave_families(infos: Iterable[Any], first_family_count: int = 1) -> list[Any]:
    """Alternates between the address families (RFC 8305, section 4), after a head start for the first one."""
    families: dict[Any, list[Any]] = collections.OrderedDict()
    for info in infos:
        families.setdefault(info[0], []).append(info)
    lists = list(families.values())
    head: list[Any] = []
    if first_family_count > 1:
        head, lists[0] = lists[0][: first_family_count - 1], lists[0][first_family_count - 1 :]
    rounds = itertools.zip_longest(*lists)
    return head + [info for info in itertools.chain.from_iterable(rounds) if info is not None]


class ConnectionsMixin(LoopPart):
    """For the loop's own thread."""

    #: What stream sockets get; the C core has its own (core/accelerated.py).
    _stream_transport: Any = _SelectorSocketTransport

    # Making transports

    def _make_socket_transport(
        self,
        sock: Any,
        protocol: Any,
        waiter: asyncio.Future[Any] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: contextvars.Context | None = None,
    ) -> Any:
        if _CHECK_FD:
            self._ensure_fd_no_transport(sock)
        return self._stream_transport(self, sock, protocol, waiter, extra, server, context)

    def _make_ssl_transport(
        self,
        rawsock: Any,
        protocol: Any,
        sslcontext: Any,
        waiter: asyncio.Future[Any] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
        context: contextvars.Context | None = None,
    ) -> Any:
        if _CHECK_FD:
            self._ensure_fd_no_transport(rawsock)
        return tls.make_tls_transport(
            self,
            rawsock,
            protocol,
            sslcontext,
            waiter,
            server_side=server_side,
            server_hostname=server_hostname,
            extra=extra,
            server=server,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
            context=context,
        )

    async def _create_connection_transport(
        self,
        sock: Any,
        protocol_factory: Any,
        ssl: Any,
        server_hostname: str | None,
        server_side: bool = False,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        context: contextvars.Context | None = None,
    ) -> tuple[Any, Any]:
        try:
            sock.setblocking(False)
            options: dict[str, Any] = {}
            if _PASS_CONTEXT:
                options["context"] = contextvars.copy_context() if context is None else context
            protocol = protocol_factory()
            waiter = self.create_future()
            if ssl:
                transport = self._make_ssl_transport(
                    sock,
                    protocol,
                    None if isinstance(ssl, bool) else ssl,
                    waiter,
                    server_side=server_side,
                    server_hostname=server_hostname,
                    ssl_handshake_timeout=ssl_handshake_timeout,
                    ssl_shutdown_timeout=ssl_shutdown_timeout,
                    **options,
                )
            else:
                transport = self._make_socket_transport(sock, protocol, waiter, **options)
        except BaseException:
            # No transport owns the socket yet, and the caller may have no hold of it (CPython issue 153133).
            sock.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            # Its exception refers to this frame (CPython issue 109534).
            waiter = None
            raise
        return transport, protocol

    # TCP

    async def create_connection(
        self,
        protocol_factory: Any,
        host: Any = None,
        port: Any = None,
        *,
        ssl: Any = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: Any = None,
        local_addr: Any = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        happy_eyeballs_delay: float | None = None,
        interleave: int | None = None,
        all_errors: bool = False,
    ) -> tuple[Any, Any]:
        """Connects to ``host`` and ``port``, or takes the connected ``sock``; returns transport and protocol.

        All addresses of the host are tried, one after the other, or with ``happy_eyeballs_delay`` (seconds) beginning
        the next while earlier ones are still under way (RFC 8305). Raises OSError if none can be reached, or with
        ``all_errors`` an ExceptionGroup of what each one said.
        """
        if server_hostname is not None and not ssl:
            raise ValueError("server_hostname is only meaningful with ssl")
        if server_hostname is None and ssl:
            # The name to be found in the certificate. "" is accepted if given, and switches the check off.
            if not host:
                raise ValueError("You must set server_hostname when using ssl without a host")
            server_hostname = host
        check_tls_options(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            check_not_tls_socket(sock)
        if happy_eyeballs_delay is not None and interleave is None:
            interleave = 1

        if host is not None or port is not None:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            infos = await self._resolve_stream((host, port), family, proto, flags)
            local_infos = None
            if local_addr is not None:
                local_infos = await self._resolve_stream(local_addr, family, proto, flags)
            if interleave:
                infos = interleave_families(infos, interleave)
            sock = await self._connect_first(infos, local_infos, happy_eyeballs_delay, all_errors)
        else:
            if sock is None:
                raise ValueError("host and port was not specified and no sock specified")
            # Unix sockets are let through: people pass them here.
            if sock.type != _socket.SOCK_STREAM:
                raise ValueError(f"A Stream Socket was expected, got {sock!r}")

        transport, protocol = await self._create_connection_transport(
            sock,
            protocol_factory,
            ssl,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        if self._debug:
            sock = transport.get_extra_info("socket")
            base_events.logger.debug("%r connected to %s:%r: (%r, %r)", sock, host, port, transport, protocol)
        return transport, protocol

    async def _resolve_stream(self, address: Any, family: int, proto: int, flags: int) -> list[Any]:
        infos: list[Any] = await self._ensure_resolved(
            address, family=family, type=_socket.SOCK_STREAM, proto=proto, flags=flags, loop=self
        )
        if not infos:
            raise OSError("getaddrinfo() returned empty list")
        return infos

    async def _connect_first(
        self, infos: list[Any], local_infos: list[Any] | None, delay: float | None, all_errors: bool
    ) -> Any:
        """A socket connected to one of ``infos``. Raises what they failed with."""
        # One list for each attempt: in a race they fail in any order.
        attempts: list[list[BaseException]] = []
        errors: list[Any] = []
        sock = None
        try:
            if delay is None:
                for info in infos:
                    try:
                        sock = await self._connect_sock(attempts, info, local_infos)
                        break
                    except OSError:
                        continue
            else:
                # Only the winner is taken from the answer: its list of exceptions leads back to this frame.
                sock = (
                    await base_events.staggered.staggered_race(
                        [lambda info=info: self._connect_sock(attempts, info, local_infos) for info in infos],
                        delay,
                        loop=self,
                    )
                )[0]
            if sock is not None:
                return sock
            errors = [error for attempt in attempts for error in attempt]
            if all_errors:
                raise ExceptionGroup("create_connection failed", errors)
            if not errors:
                raise TimeoutError("create_connection failed")
            if len({str(error) for error in errors}) == 1:
                raise errors[0]
            raise OSError(f"Multiple exceptions: {', '.join(str(error) for error in errors)}")
        finally:
            # Tracebacks of what they hold lead to this frame.
            attempts = errors = []

    async def _connect_sock(
        self, exceptions: list[list[BaseException]], addr_info: Any, local_addr_infos: list[Any] | None = None
    ) -> Any:
        """A new socket, bound if ``local_addr_infos`` is given, connected. Notes what fails in ``exceptions``."""
        mine: list[BaseException] = []
        exceptions.append(mine)
        family, kind, proto, _, address = addr_info
        sock = None
        try:
            sock = base_events.socket.socket(family=family, type=kind, proto=proto)
            sock.setblocking(False)
            if local_addr_infos is not None:
                self._bind_local(sock, family, local_addr_infos, mine)
            await self.sock_connect(sock, address)
            return sock
        except BaseException as exc:
            if isinstance(exc, OSError):
                mine.append(exc)
            if sock is not None:
                try:
                    sock.close()
                except OSError:
                    pass  # what happened before matters more
            raise
        finally:
            # The exception's traceback leads to this frame.
            del exceptions, mine

    def _bind_local(self, sock: Any, family: Any, local_infos: list[Any], errors: list[BaseException]) -> None:
        """Binds to the first address of the same family that can be had."""
        for local_family, _, _, _, address in local_infos:
            if local_family != family:
                continue
            try:
                sock.bind(address)
                return
            except OSError as exc:
                reason = str(exc) if sys.version_info >= (3, 13) else exc.strerror
                message = f"error while attempting to bind on address {address!r}: {str(reason).lower()}"
                errors.append(OSError(exc.errno, message))
        # The caller notes what is raised here.
        raise errors.pop() if errors else OSError(f"no matching local address with {family=} found")

    async def connect_accepted_socket(
        self,
        protocol_factory: Any,
        sock: Any,
        *,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[Any, Any]:
        """Takes a connection that was accepted elsewhere; returns transport and protocol."""
        if sock.type != _socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        check_tls_options(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        check_not_tls_socket(sock)
        transport, protocol = await self._create_connection_transport(
            sock,
            protocol_factory,
            ssl,
            "",
            server_side=True,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        if self._debug:
            sock = transport.get_extra_info("socket")
            base_events.logger.debug("%r handled: (%r, %r)", sock, transport, protocol)
        return transport, protocol

    async def start_tls(
        self,
        transport: Any,
        protocol: Any,
        sslcontext: Any,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        """Makes TLS of a connection in use; returns the transport that ``protocol`` has to use from now on."""
        return await tls.upgrade(
            self,
            transport,
            protocol,
            sslcontext,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )

    # Unix

    async def create_unix_connection(
        self,
        protocol_factory: Any,
        path: Any = None,
        *,
        ssl: Any = None,
        sock: Any = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[Any, Any]:
        """Connects to the unix socket at ``path``, or takes the connected ``sock``; returns transport and protocol."""
        assert server_hostname is None or isinstance(server_hostname, str)
        if ssl and server_hostname is None:
            raise ValueError("you have to pass server_hostname when using ssl")
        if not ssl and server_hostname is not None:
            raise ValueError("server_hostname is only meaningful with ssl")
        check_tls_options(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        socket = unix_events.socket
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            path = unix_events.os.fspath(path)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0)
            try:
                sock.setblocking(False)
                await self.sock_connect(sock, path)
            except BaseException:
                sock.close()
                raise
        else:
            if sock is None:
                raise ValueError("no path and sock were specified")
            if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
                raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")
            sock.setblocking(False)
        return await self._create_connection_transport(
            sock,
            protocol_factory,
            ssl,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
