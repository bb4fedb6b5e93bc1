"""Pipe transports: one direction of a pipe, a FIFO, a character device or a socket, on the loop's selector.

A pipe has no half-open state and no error to ask for. The reading end learns of the writer's close by an
empty read. The writing end learns of the reader's close because its own descriptor polls as readable then
(``_polls_on_close``); without that a writer with nothing to write would never know.
"""

from __future__ import annotations

import asyncio
import errno
import os
import selectors
import stat
import sys
import warnings
from asyncio import constants, selector_events, unix_events
from collections.abc import Callable
from typing import Any

from ..network.io_counters import IOCounters
from ..network.transports.base import FlowControl

_standard: Any = unix_events
_test_selector_event: Any = selector_events._test_selector_event  # type: ignore[attr-defined]

# What a Linux pipe holds. A larger buffer would be allocated and given back at each read for nothing.
_MAX_READ = 64 * 1024

# On these systems a named FIFO polls as readable while data is unread, and no event tells of the close
# (gh-145030).
_FALSE_CLOSE_OF_FIFOS = {"darwin", "ios", "tvos", "watchos", "sunos5"}


class _PipeTransport:
    """What both directions have in common: how they are set up, what they are called, how they end."""

    _loop: Any
    _pipe: Any
    _fileno: Any
    _protocol: Any
    _closing: bool
    _extra: dict[str, Any]
    _polled_event = selectors.EVENT_READ

    def _attach(self, loop: Any, pipe: Any, protocol: Any, refusal: str) -> os.stat_result:
        """Takes the pipe over and makes it non-blocking; ValueError with ``refusal`` if it is a regular
        file."""
        self._extra["pipe"] = pipe
        self._loop = loop
        self._pipe = pipe
        self._fileno = pipe.fileno()
        self._protocol = protocol
        self._closing = False
        status = os.fstat(self._fileno)
        mode = status.st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)):
            # Left to the caller, who opened it.
            self._pipe = self._fileno = self._protocol = None
            raise ValueError(refusal)
        os.set_blocking(self._fileno, False)
        # Another loop than ours has no counters; these then are not read.
        self._io: IOCounters = getattr(loop, "_io_counters", None) or IOCounters()
        self._io.pipe += 1
        return status

    def _describe(self) -> list[str]:
        return []

    def __repr__(self) -> str:
        info = [type(self).__name__]
        if self._pipe is None:
            info.append("closed")
        elif self._closing:
            info.append("closing")
        info.append(f"fd={self._fileno}")
        selector = getattr(self._loop, "_selector", None)
        if self._pipe is None:
            info.append("closed")
        elif selector is None:
            info.append("open")
        else:
            polling = _test_selector_event(selector, self._fileno, self._polled_event)
            info.append("polling" if polling else "idle")
            info += self._describe()
        return f"<{' '.join(info)}>"

    def set_protocol(self, protocol: Any) -> None:
        """Sets the protocol; from any callback of the loop."""
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """The protocol in use, None once the connection is lost."""
        return self._protocol

    def is_closing(self) -> bool:
        """True once the transport is closed or about to be."""
        return self._closing

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_pipe", None) is not None:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self._uncount()
            self._pipe.close()

    def _uncount(self) -> None:
        self._io.pipe -= 1

    def _is_ordinary_end(self, error: BaseException) -> bool:
        raise NotImplementedError

    def _fatal_error(self, error: BaseException, message: str = "Fatal error on pipe transport") -> None:
        """Ends the transport after an error. Called where the error is being handled."""
        if self._is_ordinary_end(error):
            if self._loop.get_debug():
                _standard.logger.debug("%r: %s", self, message, exc_info=True)
        else:
            self._loop.call_exception_handler(
                {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
            )
        self._close(error)

    def _close(self, error: BaseException | None = None) -> None:
        raise NotImplementedError

    def _call_connection_lost(self, error: BaseException | None) -> None:
        if self._pipe is None:
            # An abort() behind a close(): the protocol has been told.
            return
        try:
            self._protocol.connection_lost(error)
        finally:
            self._uncount()
            self._pipe.close()
            self._pipe = None
            self._protocol = None
            self._loop = None

    def _log_closed_by_peer(self) -> None:
        if self._loop.get_debug():
            _standard.logger.info("%r was closed by peer", self)

    def _wake(self, waiter: asyncio.Future[None] | None) -> None:
        # Queued behind connection_made, which must have run when the waiter goes on.
        if waiter is not None:
            self._loop.call_soon(_standard.futures._set_result_unless_cancelled, waiter, None)


class _UnixReadPipeTransport(_PipeTransport, asyncio.ReadTransport):
    """The reading end of a pipe. Data goes to ``protocol.data_received``, the end to ``eof_received``."""

    max_size = _MAX_READ

    def __init__(
        self,
        loop: Any,
        pipe: Any,
        protocol: Any,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(extra)
        self._paused = False
        status = self._attach(loop, pipe, protocol, "Pipe transport is for pipes/sockets only.")
        if stat.S_ISSOCK(status.st_mode):
            self.max_size = 256 * 1024  # as the standard loop: what is not read of a message is lost
        loop.call_soon(protocol.connection_made, self)
        # Nothing may be received before connection_made has run.
        loop.call_soon(self._add_reader, self._fileno, self._read_ready)
        self._wake(waiter)

    def _add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        # connection_made may have paused or closed the transport.
        if self.is_reading():
            self._loop._add_reader(fd, callback)

    def is_reading(self) -> bool:
        """True unless paused or closing."""
        return not self._paused and not self._closing

    def _read_ready(self) -> None:
        try:
            data = os.read(self._fileno, self.max_size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fatal_error(error, "Fatal read error on pipe transport")
            return
        if data:
            self._io.bytes_in += len(data)
            self._protocol.data_received(data)
            return
        self._log_closed_by_peer()
        self._closing = True
        self._loop._remove_reader(self._fileno)
        self._loop.call_soon(self._protocol.eof_received)
        self._loop.call_soon(self._call_connection_lost, None)

    def pause_reading(self) -> None:
        """Stops ``data_received``; no error where it is stopped already."""
        if not self.is_reading():
            return
        self._paused = True
        self._loop._remove_reader(self._fileno)
        if self._loop.get_debug():
            _standard.logger.debug("%r pauses reading", self)

    def resume_reading(self) -> None:
        """Goes on after ``pause_reading``; does nothing on a closing transport."""
        if self._closing or not self._paused:
            return
        self._paused = False
        self._loop._add_reader(self._fileno, self._read_ready)
        if self._loop.get_debug():
            _standard.logger.debug("%r resumes reading", self)

    def close(self) -> None:
        """Closes the pipe; ``connection_lost(None)`` follows."""
        if not self._closing:
            self._close(None)

    def _is_ordinary_end(self, error: BaseException) -> bool:
        # What reading the master of a pseudo-terminal gives once the other side has gone.
        return isinstance(error, OSError) and error.errno == errno.EIO

    def _close(self, error: BaseException | None = None) -> None:
        self._closing = True
        self._loop._remove_reader(self._fileno)
        self._loop.call_soon(self._call_connection_lost, error)


class _UnixWritePipeTransport(_PipeTransport, FlowControl, asyncio.WriteTransport):
    """The writing end of a pipe, with flow control: what the pipe does not take at once waits in a buffer."""

    _polled_event = selectors.EVENT_WRITE

    def __init__(
        self,
        loop: Any,
        pipe: Any,
        protocol: Any,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(extra, loop)
        self._buffer = bytearray()
        self._conn_lost = 0
        status = self._attach(loop, pipe, protocol, "Pipe transport is only for pipes, sockets and character devices")
        loop.call_soon(protocol.connection_made, self)
        if _polls_on_close(status):
            loop.call_soon(loop._add_reader, self._fileno, self._read_ready)
        self._wake(waiter)

    def _describe(self) -> list[str]:
        return [f"bufsize={self.get_write_buffer_size()}"]

    def _uncount(self) -> None:
        super()._uncount()
        self._end_pause()

    def get_write_buffer_size(self) -> int:
        """Bytes that wait to be written."""
        return len(self._buffer)

    def _read_ready(self) -> None:
        """The reader has closed its end."""
        self._log_closed_by_peer()
        self._close(BrokenPipeError() if self._buffer else None)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Writes what the pipe takes now, and the rest as it takes it. Never blocks, never raises for the
        pipe."""
        assert isinstance(data, (bytes, bytearray, memoryview)), repr(data)
        if isinstance(data, bytearray):
            data = memoryview(data)
        if not data:
            return
        if self._conn_lost or self._closing:
            if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                _standard.logger.warning("pipe closed by peer or os.write(pipe, data) raised exception.")
            self._conn_lost += 1
            return
        if not self._buffer:
            try:
                written = os.write(self._fileno, data)
            except (BlockingIOError, InterruptedError):
                written = 0
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._conn_lost += 1
                self._fatal_error(error, "Fatal write error on pipe transport")
                return
            self._io.bytes_out += written
            if written == len(data):
                return
            if written > 0:
                data = memoryview(data)[written:]
            self._loop._add_writer(self._fileno, self._write_ready)
        self._buffer += data
        self._maybe_pause_protocol()

    def _write_ready(self) -> None:
        assert self._buffer, "Data should not be empty"
        try:
            written = os.write(self._fileno, self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._buffer.clear()
            self._conn_lost += 1
            # _close takes the writer out only while there is something in the buffer.
            self._loop._remove_writer(self._fileno)
            self._fatal_error(error, "Fatal write error on pipe transport")
            return
        self._io.bytes_out += written
        if written < len(self._buffer):
            del self._buffer[:written]
            return
        self._buffer.clear()
        self._loop._remove_writer(self._fileno)
        # The protocol may write again at once.
        self._maybe_resume_protocol()
        if self._closing:
            self._loop._remove_reader(self._fileno)
            self._call_connection_lost(None)

    def can_write_eof(self) -> bool:
        """True: closing a pipe is its end of file."""
        return True

    def write_eof(self) -> None:
        """Closes the pipe once what was written has gone out."""
        if self._closing:
            return
        assert self._pipe
        self._closing = True
        if not self._buffer:
            self._loop._remove_reader(self._fileno)
            self._loop.call_soon(self._call_connection_lost, None)

    def close(self) -> None:
        """The same as ``write_eof``."""
        if self._pipe is not None and not self._closing:
            self.write_eof()

    def abort(self) -> None:
        """Closes at once; what waits in the buffer is dropped."""
        self._close(None)

    def _is_ordinary_end(self, error: BaseException) -> bool:
        # A reader that goes away is everyday life for a pipe.
        return isinstance(error, OSError)

    def _close(self, error: BaseException | None = None) -> None:
        self._closing = True
        if self._buffer:
            self._loop._remove_writer(self._fileno)
        self._buffer.clear()
        self._loop._remove_reader(self._fileno)
        self._loop.call_soon(self._call_connection_lost, error)


def _polls_on_close(status: os.stat_result) -> bool:
    """Whether the writing end of such a file polls as readable when, and only when, its reader is gone."""
    if stat.S_ISSOCK(status.st_mode):
        return True
    if not stat.S_ISFIFO(status.st_mode) or sys.platform.startswith("aix"):
        return False
    # Of os.pipe() it has no name, and no false alarms anywhere.
    return not (sys.platform in _FALSE_CLOSE_OF_FIFOS and status.st_nlink > 0)
