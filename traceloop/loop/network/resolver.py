"""Names to addresses: getaddrinfo and getnameinfo in the executor, and the short way for literal addresses."""

from __future__ import annotations

import socket as _socket
from typing import Any

from ...core.standard import base_events
from ..loop_part import LoopPart

# The standard loop's module is asked for `socket` and `logger` at each call, here as in the other parts: tests (those
# of CPython and of others) put theirs into `asyncio.base_events`, and mean every loop by it.

AddrInfo = tuple[Any, Any, int, str, Any]


def literal_addrinfo(
    host: Any, port: Any, family: int, type_: int, proto: int, flowinfo: int = 0, scopeid: int = 0
) -> AddrInfo | None:
    """What getaddrinfo would answer for a numeric address, or None where it has to be asked.

    Spares a thread's round trip to those who resolved the name themselves.
    """
    socket = base_events.socket
    if not hasattr(socket, "inet_pton"):
        return None
    # A set: a protocol that cannot be hashed raises here.
    if proto not in {0, socket.IPPROTO_TCP, socket.IPPROTO_UDP} or host is None:
        return None
    if type_ == socket.SOCK_STREAM:
        proto = socket.IPPROTO_TCP
    elif type_ == socket.SOCK_DGRAM:
        proto = socket.IPPROTO_UDP
    else:
        return None

    if port is None or (isinstance(port, (str, bytes)) and not port):
        port = 0
    else:
        try:
            port = int(port)
        except (TypeError, ValueError):
            return None  # the name of a service

    if isinstance(host, bytes):
        host = host.decode("idna")
    if "%" in host:
        return None  # inet_pton knows no zone

    ipv6 = _socket.AF_INET6 if base_events._HAS_IPv6 else None
    families: list[Any] = [family]
    if family == socket.AF_UNSPEC:
        families = [socket.AF_INET] if ipv6 is None else [socket.AF_INET, ipv6]
    for candidate in families:
        try:
            socket.inet_pton(candidate, host)
        except OSError:
            continue
        if candidate == ipv6:
            return candidate, type_, proto, "", (host, port, flowinfo, scopeid)
        return candidate, type_, proto, "", (host, port)
    return None


class ResolverMixin(LoopPart):
    """getaddrinfo and getnameinfo; both wait for a thread of the default executor."""

    def _getaddrinfo_debug(
        self, host: Any, port: Any, family: int, type: int, proto: int, flags: int
    ) -> list[AddrInfo]:
        query = f"{host}:{port!r}"
        for name, value in (("family", family), ("type", type), ("proto", proto), ("flags", flags)):
            if value:
                query += f", {name}={value!r}"
        logger = base_events.logger
        logger.debug("Get address info %s", query)
        begin = self.time()
        infos: list[AddrInfo] = base_events.socket.getaddrinfo(host, port, family, type, proto, flags)
        took = self.time() - begin
        message = f"Getting address info {query} took {took * 1e3:.3f}ms: {infos!r}"
        if took >= self.slow_callback_duration:
            logger.info(message)
        else:
            logger.debug(message)
        return infos

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        """``socket.getaddrinfo`` without blocking the loop."""
        function = self._getaddrinfo_debug if self._debug else base_events.socket.getaddrinfo
        infos: list[Any] = await self.run_in_executor(None, function, host, port, family, type, proto, flags)
        return infos

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """``socket.getnameinfo`` without blocking the loop."""
        name: tuple[str, str] = await self.run_in_executor(None, base_events.socket.getnameinfo, sockaddr, flags)
        return name

    async def _ensure_resolved(
        self,
        address: Any,
        *,
        family: int = 0,
        type: int = _socket.SOCK_STREAM,
        proto: int = 0,
        flags: int = 0,
        loop: Any,
    ) -> list[Any]:
        host, port = address[:2]
        info = literal_addrinfo(host, port, family, type, proto, *address[2:])
        if info is not None:
            return [info]
        infos: list[Any] = await loop.getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)
        return infos
