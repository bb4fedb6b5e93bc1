"""TLS over a stream transport: glue to ``asyncio.sslproto``.

The protocol machine of TLS is the standard library's `SSLProtocol`, which knows nothing of a loop's implementation;
a second one would be a second place for security faults, and no better. So a TLS connection is our stream transport
with an `SSLProtocol` on it, and what the user gets is that protocol's application transport.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from time import monotonic
from typing import Any

from ....core.standard import base_events, sslproto

_StandardProtocol: Any = sslproto.SSLProtocol


class SSLProtocol(_StandardProtocol):  # type: ignore[misc]
    """The standard one, with the time of its handshake counted, however that ends."""

    def _start_handshake(self) -> None:
        self._handshake_begun_at = monotonic()
        super()._start_handshake()

    def _on_handshake_complete(self, handshake_exc: BaseException | None) -> None:
        self._count_handshake()
        try:
            super()._on_handshake_complete(handshake_exc)
        finally:
            # Its traceback leads to the frame above, and that one to this (CPython issue 159049).
            handshake_exc = None

    def connection_lost(self, exc: BaseException | None) -> None:
        # A handshake that takes too long, or whose peer goes away, ends with the connection and is never complete.
        self._count_handshake()
        try:
            super().connection_lost(exc)
        finally:
            exc = None  # as above

    def _count_handshake(self) -> None:
        io = getattr(self._loop, "_io_counters", None)
        begun = self.__dict__.pop("_handshake_begun_at", None)
        if io is not None and begun is not None:
            io.tls_handshakes += 1
            io.tls_handshake_s += monotonic() - begun


def _protocol_class() -> Any:
    # A program may have put another class into the standard module, for every loop to use.
    return SSLProtocol if sslproto.SSLProtocol is _StandardProtocol else sslproto.SSLProtocol


def make_tls_transport(
    loop: Any,
    rawsock: Any,
    protocol: Any,
    sslcontext: Any,
    waiter: asyncio.Future[Any] | None,
    *,
    server_side: bool,
    server_hostname: str | None,
    extra: dict[str, Any] | None,
    server: Any,
    ssl_handshake_timeout: float | None,
    ssl_shutdown_timeout: float | None,
    context: Context | None,
) -> Any:
    """Begins the handshake on a connected socket; ``waiter`` is set when it is over, and then the protocol knows."""
    tls = _protocol_class()(
        loop,
        protocol,
        sslcontext,
        waiter,
        server_side,
        server_hostname,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
    )
    loop._stream_transport(loop, rawsock, tls, extra=extra, server=server, context=context)
    return tls._app_transport


async def upgrade(
    loop: Any,
    transport: Any,
    protocol: Any,
    sslcontext: Any,
    *,
    server_side: bool,
    server_hostname: str | None,
    ssl_handshake_timeout: float | None,
    ssl_shutdown_timeout: float | None,
) -> Any:
    """``loop.start_tls``: puts TLS between a transport in use and its protocol."""
    ssl: Any = base_events.ssl  # None where Python was built without it
    if ssl is None:
        raise RuntimeError("Python ssl module is not available")
    if not isinstance(sslcontext, ssl.SSLContext):
        raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
    if not getattr(transport, "_start_tls_compatible", False):
        raise TypeError(f"transport {transport!r} is not supported by start_tls()")

    waiter = loop.create_future()
    tls = _protocol_class()(
        loop,
        protocol,
        sslcontext,
        waiter,
        server_side,
        server_hostname,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
        call_connection_made=False,
    )
    # No data for the TLS protocol before it knows its transport.
    transport.pause_reading()
    transport.set_protocol(tls)
    made = loop.call_soon(tls.connection_made, transport)
    resumed = loop.call_soon(transport.resume_reading)
    if server_side:
        _hand_over_read_ahead(protocol, tls)
    try:
        await waiter
    except BaseException:
        transport.close()
        made.cancel()
        resumed.cancel()
        # Its exception refers to this frame.
        waiter = None
        raise
    return tls._app_transport


def _hand_over_read_ahead(protocol: Any, tls: Any) -> None:
    # A client that does not wait for the answer to STARTTLS has sent its first handshake message behind it, and a
    # stream reader may have read both (CPython issue 142352).
    if isinstance(protocol, asyncio.StreamReaderProtocol):
        reader = getattr(protocol, "_stream_reader", None)
        if reader is not None and reader._buffer:
            tls._incoming.write(reader._buffer)
            reader._buffer.clear()
