"""What stream and datagram transports have in common: flow control of writing, pausing of reading, closing.

The classes keep the standard transports' names, because these stand in reprs, log messages and warnings that people
search for, and their attributes' names (`_sock`, `_buffer`, `_conn_lost`, ...), because libraries look at them.
"""

from __future__ import annotations

import asyncio
import collections
import selectors
import sys
import warnings
from asyncio import sslproto, transports, trsock
from contextvars import Context
from time import monotonic
from typing import Any, Literal

from ....core.standard import selector_events
from ..io_counters import IOCounters

_PASS_CONTEXT = sys.version_info >= (3, 15)
_SERVERS_HAVE_CLIENTS = sys.version_info >= (3, 13)
_DEFAULT_HIGH_WATER = 64 * 1024


class FlowControl(transports._FlowControlMixin):
    """Asks the protocol to pause writing above the high-water mark, and to resume at the low one. Sizes in bytes.

    The base is there for `isinstance` alone: the standard sendfile fallback and TLS protocol insist on it.
    """

    _protocol: Any
    _loop: Any
    _extra: dict[str, Any]
    _io: IOCounters

    def __init__(self, extra: dict[str, Any] | None, loop: Any) -> None:
        asyncio.BaseTransport.__init__(self, extra)
        assert loop is not None
        self._loop = loop
        self._protocol_paused = False
        self._paused_at = 0.0  # since when, monotonic s
        self._low_water = _DEFAULT_HIGH_WATER // 4
        self._high_water = _DEFAULT_HIGH_WATER

    def _maybe_pause_protocol(self) -> None:
        if not self._protocol_paused and self.get_write_buffer_size() > self._high_water:
            self._protocol_paused = True
            self._paused_at = monotonic()
            self._io.pause(self, self._paused_at)
            self._tell_protocol("pause_writing")

    def _maybe_resume_protocol(self) -> None:
        if self._protocol_paused and self.get_write_buffer_size() <= self._low_water:
            self._protocol_paused = False
            self._end_pause()
            self._tell_protocol("resume_writing")

    def _end_pause(self) -> None:
        """The pause counts up to now; also for a transport that is closed in it."""
        since, self._paused_at = self._paused_at, 0.0
        if since:
            self._io.resume(self, since, monotonic())

    def _tell_protocol(self, method: Literal["pause_writing", "resume_writing"]) -> None:
        try:
            getattr(self._protocol, method)()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._loop.call_exception_handler(
                {
                    "message": f"protocol.{method}() failed",
                    "exception": exc,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The low and the high mark."""
        return self._low_water, self._high_water

    def _set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _DEFAULT_HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high_water = high
        self._low_water = low

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Sets the marks; one left out follows from the other (high is four times low)."""
        self._set_write_buffer_limits(high=high, low=low)
        self._maybe_pause_protocol()

    def get_write_buffer_size(self) -> int:
        raise NotImplementedError


class _SelectorTransport(FlowControl):
    """A transport over a non-blocking socket of which it is the only owner."""

    # The standard loop reads into buffers of 256 KiB, for which the allocator maps and unmaps memory at each read.
    max_size = 64 * 1024

    _sock: Any
    _kind: Literal["stream", "tls", "datagram"] = "stream"
    _counted = False

    def __init__(
        self,
        loop: Any,
        sock: Any,
        protocol: Any,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(extra, loop)
        extra = self._extra
        extra["socket"] = trsock.TransportSocket(sock)
        try:
            extra["sockname"] = sock.getsockname()
        except OSError:
            extra["sockname"] = None
        if "peername" not in extra:
            try:
                extra["peername"] = sock.getpeername()
            except OSError:
                extra["peername"] = None
        self._sock = sock
        self._sock_fd = sock.fileno()
        self._context = context

        # A loop that is not ours (tests make such) counts nothing that anybody reads.
        self._io: IOCounters = getattr(loop, "_io_counters", None) or IOCounters()
        self._protocol_connected = False
        self.set_protocol(protocol)

        self._server = server
        self._buffer: collections.deque[Any] = collections.deque()
        self._buffer_size = 0
        self._conn_lost = 0  # above 0 once connection_lost is under way; then the writes that came too late
        self._closing = False
        self._paused = False

        if server is not None:
            server._attach(*self._as_client_of(server))
        loop._transports[self._sock_fd] = self
        setattr(self._io, self._kind, getattr(self._io, self._kind) + 1)
        self._counted = True

    def __repr__(self) -> str:
        info = [type(self).__name__]
        if getattr(self, "_sock", None) is None:
            info.append("closed")
        elif self._closing:
            info.append("closing")
        info.append(f"fd={self._sock_fd}")
        loop = self._loop
        if loop is not None and not loop.is_closed():
            info.append("read=polling" if self._polled(selectors.EVENT_READ) else "read=idle")
            state = "polling" if self._polled(selectors.EVENT_WRITE) else "idle"
            info.append(f"write=<{state}, bufsize={self.get_write_buffer_size()}>")
        return "<{}>".format(" ".join(info))

    def _polled(self, event: int) -> bool:
        try:
            key = self._loop._selector.get_key(self._sock_fd)
        except KeyError:
            return False
        return bool(key.events & event)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self._protocol_connected = True
        if self._kind == "stream" and isinstance(protocol, sslproto.SSLProtocol):
            # Also when start_tls turns a plain connection into TLS; there is no way back but the sendfile fallback,
            # which takes the protocol's place only for a while.
            if self._counted:
                self._io.stream -= 1
                self._io.tls += 1
            self._kind = "tls"

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        """Stops reading until `resume_reading`. May be called at any time, also twice."""
        if self._closing or self._paused:
            return
        self._paused = True
        self._loop._remove_reader(self._sock_fd)
        if self._loop.get_debug():
            selector_events.logger.debug("%r pauses reading", self)

    def resume_reading(self) -> None:
        """Undoes `pause_reading`. May be called at any time, also twice."""
        if self._closing or not self._paused:
            return
        self._paused = False
        self._add_reader(self._sock_fd, self._read_ready)
        if self._loop.get_debug():
            selector_events.logger.debug("%r resumes reading", self)

    def _read_ready(self) -> None:
        raise NotImplementedError

    def get_write_buffer_size(self) -> int:
        return self._buffer_size

    def close(self) -> None:
        """Closes when everything written has been sent; reads no more from now on."""
        if self._closing:
            return
        self._closing = True
        self._loop._remove_reader(self._sock_fd)
        if not self._buffer:
            self._conn_lost += 1
            self._loop._remove_writer(self._sock_fd)
            self._call_soon(self._call_connection_lost, None)

    def abort(self) -> None:
        """Closes now; what has not been sent is lost."""
        self._force_close(None)

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if getattr(self, "_sock", None) is not None:  # there is none where the constructor failed
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self._sock.close()
            if self._counted:
                self._uncount()
            if self._server is not None:
                self._server._detach(*self._as_client_of(self._server))

    def _as_client_of(self, server: Any) -> tuple[Any, ...]:
        """What a server is told of us. That of asyncio, which its own ``create_server`` makes here too (replaced.py),
        counts its clients before 3.13, and has none.
        """
        return (self,) if _SERVERS_HAVE_CLIENTS or type(server) is not asyncio.Server else ()

    def _uncount(self) -> None:
        setattr(self._io, self._kind, getattr(self._io, self._kind) - 1)
        self._counted = False
        self._end_pause()

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        """Reports and closes. To be called while ``exc`` is being handled."""
        if isinstance(exc, OSError):
            # The network's faults are no faults of the program.
            if self._loop.get_debug():
                selector_events.logger.debug("%r: %s", self, message, exc_info=True)
        else:
            self._loop.call_exception_handler(
                {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
            )
        self._force_close(exc)

    def _force_close(self, exc: BaseException | None) -> None:
        if self._conn_lost:
            return
        if self._buffer:
            self._buffer.clear()
            self._buffer_size = 0
            self._loop._remove_writer(self._sock_fd)
        if not self._closing:
            self._closing = True
            self._loop._remove_reader(self._sock_fd)
        self._conn_lost += 1
        self._call_soon(self._call_connection_lost, exc)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            if self._protocol_connected:
                self._protocol.connection_lost(exc)
        finally:
            self._sock.close()
            self._sock = None
            self._protocol = None
            self._loop = None
            if self._counted:
                self._uncount()
            server = self._server
            if server is not None:
                server._detach(*self._as_client_of(server))
                self._server = None

    # From 3.15 on a transport's callbacks run in one context, given when it was made; before, each in a copy of the
    # context that scheduled it.
    if _PASS_CONTEXT:

        def _add_reader(self, fd: int, callback: Any, *args: Any) -> None:
            if self._closing or self._paused:
                return
            self._loop._add_reader(fd, callback, *args, context=self._context)

        def _add_writer(self, fd: int, callback: Any, *args: Any) -> None:
            self._loop._add_writer(fd, callback, *args, context=self._context)

        def _call_soon(self, callback: Any, *args: Any) -> None:
            self._loop.call_soon(callback, *args, context=self._context)

    else:

        def _add_reader(self, fd: int, callback: Any, *args: Any) -> None:
            if self._closing or self._paused:
                return
            self._loop._add_reader(fd, callback, *args)

        def _add_writer(self, fd: int, callback: Any, *args: Any) -> None:
            self._loop._add_writer(fd, callback, *args)

        def _call_soon(self, callback: Any, *args: Any) -> None:
            self._loop.call_soon(callback, *args)
