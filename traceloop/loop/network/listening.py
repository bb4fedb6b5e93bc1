"""create_server and create_unix_server: listening sockets for a `Server`."""

from __future__ import annotations

import errno
import itertools
import socket as _socket
import stat
import sys
from asyncio import tasks
from collections.abc import Iterable
from typing import Any

from ...core.standard import base_events, unix_events
from ..loop_part import LoopPart
from .no_running_loop import no_running_loop
from .servers import Server

# A server removes its unix socket's file when it closes, since 3.13.
_CLEANUP_SOCKET = sys.version_info >= (3, 13)


def check_tls_options(ssl: Any, ssl_handshake_timeout: float | None, ssl_shutdown_timeout: float | None) -> None:
    """Raises ValueError for options of TLS where there is no TLS."""
    if ssl:
        return
    for name, value in (
        ("ssl_handshake_timeout", ssl_handshake_timeout),
        ("ssl_shutdown_timeout", ssl_shutdown_timeout),
    ):
        if value is not None:
            raise ValueError(f"{name} is only meaningful with ssl")


def check_not_tls_socket(sock: Any) -> None:
    """Raises TypeError for an ``ssl.SSLSocket``: the loop does TLS itself."""
    ssl: Any = base_events.ssl
    if ssl is not None and isinstance(sock, ssl.SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")


def set_reuseport(sock: Any) -> None:
    """Lets several sockets listen at one address. Raises ValueError where the system cannot."""
    socket = base_events.socket
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError("reuse_port not supported by socket module")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        raise ValueError("reuse_port not supported by socket module, SO_REUSEPORT defined but not implemented.")  # noqa: B904


def remove_stale_unix_socket(path: Any, os: Any, logger: Any) -> None:
    """Removes the socket file of a server that is gone (or not: the server that binds last has the name)."""
    if path[0] in (0, "\x00"):
        return  # Linux's abstract names are no files
    try:
        with no_running_loop():
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.remove(path)
    except FileNotFoundError:
        pass
    except OSError as err:
        # In some folders one may make a socket but not remove it; bind will tell.
        logger.error("Unable to check or remove stale UNIX socket %r: %r", path, err)


class ListeningMixin(LoopPart):
    """For the loop's own thread."""

    _unix_server_sockets: dict[Any, int]

    async def _create_server_getaddrinfo(self, host: Any, port: Any, family: int, flags: int) -> list[Any]:
        infos: list[Any] = await self._ensure_resolved(
            (host, port), family=family, type=_socket.SOCK_STREAM, flags=flags, loop=self
        )
        if not infos:
            raise OSError(f"getaddrinfo({host!r}) returned empty list")
        return infos

    async def create_server(
        self,
        protocol_factory: Any,
        host: Any = None,
        port: Any = None,
        *,
        family: int = _socket.AF_UNSPEC,
        flags: int = _socket.AI_PASSIVE,
        sock: Any = None,
        backlog: int = 100,
        ssl: Any = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        keep_alive: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
    ) -> Server:
        """Listens at ``host`` (one, or a sequence of them; None or "": everywhere) and ``port``, or with ``sock``.

        A host may have several addresses; each gets a socket of its own. ``protocol_factory`` makes a protocol for
        each connection.
        """
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        # Here, unlike elsewhere, an object that is false counts as TLS.
        check_tls_options(ssl is not None, ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            check_not_tls_socket(sock)

        if host is not None or port is not None:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            if reuse_address is None:
                reuse_address = base_events.os.name == "posix" and base_events.sys.platform != "cygwin"
            hosts: list[Any]
            if host == "":
                hosts = [None]
            elif isinstance(host, str) or not isinstance(host, Iterable):
                hosts = [host]
            else:
                hosts = list(host)
            found = await tasks.gather(
                *[self._create_server_getaddrinfo(one, port, family=family, flags=flags) for one in hosts]
            )
            # Names may lead to the same address.
            infos = set(itertools.chain.from_iterable(found))
            sockets = self._bind_all(infos, reuse_address, reuse_port, keep_alive)
        else:
            if sock is None:
                raise ValueError("Neither host/port nor sock were specified")
            if sock.type != _socket.SOCK_STREAM:
                raise ValueError(f"A Stream Socket was expected, got {sock!r}")
            sockets = [sock]

        for sock in sockets:
            sock.setblocking(False)
        server = Server(self, sockets, protocol_factory, ssl, backlog, ssl_handshake_timeout, ssl_shutdown_timeout)
        if start_serving:
            server._start_serving()
            await tasks.sleep(0)  # one pass of the loop, after which its selector knows the sockets
        if self._debug:
            base_events.logger.info("%r is serving", server)
        return server

    def _bind_all(self, infos: set[Any], reuse_address: Any, reuse_port: Any, keep_alive: Any) -> list[Any]:
        socket = base_events.socket
        logger = base_events.logger
        sockets: list[Any] = []
        try:
            for family, kind, proto, _, address in infos:
                try:
                    sock = socket.socket(family, kind, proto)
                except OSError:
                    # getaddrinfo offers families that the kernel has not.
                    if self._debug:
                        logger.warning(
                            "create_server() failed to create socket.socket(%r, %r, %r)",
                            family,
                            kind,
                            proto,
                            exc_info=True,
                        )
                    continue
                sockets.append(sock)
                if reuse_address:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
                # Linux allows it for these families only, since 6.12.9.
                if reuse_port and family in (socket.AF_INET, _socket.AF_INET6):
                    set_reuseport(sock)
                if keep_alive:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
                if base_events._HAS_IPv6 and family == _socket.AF_INET6 and hasattr(socket, "IPPROTO_IPV6"):
                    # IPv4 has its own socket at the same port, which a dual-stack socket would take.
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
                try:
                    sock.bind(address)
                except OSError as err:
                    message = f"error while attempting to bind on address {address!r}: {str(err).lower()}"
                    if err.errno == errno.EADDRNOTAVAIL and sys.version_info >= (3, 13):
                        # The family is switched off, most likely (bpo-30945).
                        sockets.pop()
                        sock.close()
                        if self._debug:
                            logger.warning(message)
                        continue
                    if sys.version_info < (3, 13):
                        message = f"error while attempting to bind on address {address!r}: {str(err.strerror).lower()}"
                    raise OSError(err.errno, message) from None
            # Before 3.13 a server may have no sockets: of no hosts, or of families that the kernel does not have.
            if not sockets and sys.version_info >= (3, 13):
                raise OSError(f"could not bind on any address out of {[info[4] for info in infos]!r}")
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        return sockets

    async def create_unix_server(
        self,
        protocol_factory: Any,
        path: Any = None,
        *,
        sock: Any = None,
        backlog: int = 100,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool = _CLEANUP_SOCKET,
    ) -> Server:
        """Listens at a unix socket: a new one at ``path``, in place of what socket is there, or ``sock``.

        ``cleanup_socket``: whether closing the server removes the file (the default since Python 3.13).
        """
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        check_tls_options(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        socket = unix_events.socket
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            path = unix_events.os.fspath(path)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            remove_stale_unix_socket(path, unix_events.os, unix_events.logger)
            try:
                sock.bind(path)
            except OSError as exc:
                sock.close()
                if exc.errno == errno.EADDRINUSE:
                    # Which address, the system does not say.
                    raise OSError(errno.EADDRINUSE, f"Address {path!r} is already in use") from None
                raise
            except BaseException:
                sock.close()
                raise
        else:
            if sock is None:
                raise ValueError("path was not specified, and no sock specified")
            if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
                raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")

        if cleanup_socket:
            path = sock.getsockname()
            if path and path[0] not in (0, "\x00"):
                try:
                    with no_running_loop():
                        self._unix_server_sockets[sock] = unix_events.os.stat(path).st_ino
                except FileNotFoundError:
                    pass

        sock.setblocking(False)
        server = Server(self, [sock], protocol_factory, ssl, backlog, ssl_handshake_timeout, ssl_shutdown_timeout)
        if start_serving:
            server._start_serving()
            await tasks.sleep(0)  # one pass of the loop, after which its selector knows the socket
        return server
