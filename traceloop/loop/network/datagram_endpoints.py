"""create_datagram_endpoint: UDP and unix datagram sockets."""

from __future__ import annotations

import asyncio
import socket as _socket
import sys
from typing import Any

from ...core.standard import base_events
from ..loop_part import LoopPart
from .listening import remove_stale_unix_socket, set_reuseport
from .transports.datagram import _SelectorDatagramTransport

_ANY_DATAGRAM = sys.version_info >= (3, 13)  # before, only SOCK_DGRAM


class DatagramEndpointsMixin(LoopPart):
    """For the loop's own thread."""

    def _make_datagram_transport(
        self,
        sock: Any,
        protocol: Any,
        address: Any = None,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Any:
        if sys.version_info >= (3, 12):
            self._ensure_fd_no_transport(sock)
        return _SelectorDatagramTransport(self, sock, protocol, address, waiter, extra)

    async def create_datagram_endpoint(
        self,
        protocol_factory: Any,
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: Any = None,
    ) -> tuple[Any, Any]:
        """A datagram socket bound to ``local_addr``, connected to ``remote_addr``, or ``sock`` as it is."""
        remote = None
        if sock is not None:
            if _ANY_DATAGRAM:
                if sock.type == _socket.SOCK_STREAM:
                    raise ValueError(f"A datagram socket was expected, got {sock!r}")
            elif sock.type != _socket.SOCK_DGRAM:
                raise ValueError(f"A UDP Socket was expected, got {sock!r}")
            given = {
                "local_addr": local_addr,
                "remote_addr": remote_addr,
                "family": family,
                "proto": proto,
                "flags": flags,
                "reuse_port": reuse_port,
                "allow_broadcast": allow_broadcast,
            }
            if any(given.values()):
                problems = ", ".join(f"{name}={value}" for name, value in given.items() if value)
                raise ValueError(
                    f"socket modifier keyword arguments can not be used when sock is specified. ({problems})"
                )
            sock.setblocking(False)
        else:
            pairs = await self._datagram_addresses(local_addr, remote_addr, family, proto, flags)
            sock, remote = await self._open_datagram(
                pairs, bool(local_addr), bool(remote_addr), reuse_port, allow_broadcast
            )

        protocol = protocol_factory()
        waiter = self.create_future()
        transport = self._make_datagram_transport(sock, protocol, remote, waiter)
        if self._debug:
            if local_addr:
                base_events.logger.info(
                    "Datagram endpoint local_addr=%r remote_addr=%r created: (%r, %r)",
                    local_addr,
                    remote_addr,
                    transport,
                    protocol,
                )
            else:
                base_events.logger.debug(
                    "Datagram endpoint remote_addr=%r created: (%r, %r)", remote_addr, transport, protocol
                )
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    async def _datagram_addresses(
        self, local_addr: Any, remote_addr: Any, family: int, proto: int, flags: int
    ) -> list[tuple[tuple[Any, Any], tuple[Any, Any]]]:
        """What to try: (family, protocol) with (local, remote) address."""
        if not (local_addr or remote_addr):
            if family == 0:
                raise ValueError("unexpected address family")
            return [((family, proto), (None, None))]
        socket = base_events.socket
        if hasattr(socket, "AF_UNIX") and family == socket.AF_UNIX:
            for address in (local_addr, remote_addr):
                if address is not None and not isinstance(address, str):
                    raise TypeError("string is expected")
            if local_addr:
                remove_stale_unix_socket(local_addr, base_events.os, base_events.logger)
            return [((family, proto), (local_addr, remote_addr))]

        found: dict[tuple[Any, Any], list[Any]] = {}
        for index, address in enumerate((local_addr, remote_addr)):
            if address is None:
                continue
            if not (isinstance(address, tuple) and len(address) == 2):
                raise TypeError("2-tuple is expected")
            infos = await self._ensure_resolved(
                address, family=family, type=_socket.SOCK_DGRAM, proto=proto, flags=flags, loop=self
            )
            if not infos:
                raise OSError("getaddrinfo() returned empty list")
            for each_family, _, each_proto, _, resolved in infos:
                found.setdefault((each_family, each_proto), [None, None])[index] = resolved
        # A family is of use only if each address that was given has one in it.
        pairs = [
            (key, (local, remote))
            for key, (local, remote) in found.items()
            if not (local_addr and local is None) and not (remote_addr and remote is None)
        ]
        if not pairs:
            raise ValueError("can not get address information")
        return pairs

    async def _open_datagram(
        self, pairs: Any, bind: bool, connect: bool, reuse_port: Any, allow_broadcast: Any
    ) -> tuple[Any, Any]:
        socket = base_events.socket
        errors: list[OSError] = []
        try:
            for (family, proto), (local, remote) in pairs:
                sock = None
                try:
                    sock = socket.socket(family=family, type=_socket.SOCK_DGRAM, proto=proto)
                    if reuse_port:
                        set_reuseport(sock)
                    if allow_broadcast:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                    sock.setblocking(False)
                    if bind:
                        sock.bind(local)
                    if connect and not allow_broadcast:
                        # One that broadcasts hears many, and a connected socket hears one.
                        await self.sock_connect(sock, remote)
                    return sock, remote if connect else None
                except OSError as exc:
                    if sock is not None:
                        sock.close()
                    errors.append(exc)
                except BaseException:
                    if sock is not None:
                        sock.close()
                    raise
            raise errors[0]
        finally:
            del errors
