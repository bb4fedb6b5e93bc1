"""The self-pipe: how other threads and signals end the loop's poll."""

from __future__ import annotations

import socket

from ..core.standard import selector_events
from .loop_part import LoopPart

_READ_SIZE = 4096


class WakeupMixin(LoopPart):
    """A socket pair whose reading end is always polled. Only `_write_to_self` may be called from other threads."""

    _ssock: socket.socket | None
    _csock: socket.socket | None
    _internal_fds: int

    def _make_self_pipe(self) -> None:
        self._ssock, self._csock = socket.socketpair()
        self._ssock.setblocking(False)
        self._csock.setblocking(False)
        self._internal_fds += 1
        self._add_reader(self._ssock.fileno(), self._read_from_self)

    def _close_self_pipe(self) -> None:
        assert self._ssock is not None and self._csock is not None
        self._remove_reader(self._ssock.fileno())
        self._ssock.close()
        self._ssock = None
        self._csock.close()
        self._csock = None
        self._internal_fds -= 1

    def _read_from_self(self) -> None:
        assert self._ssock is not None
        while True:
            try:
                data = self._ssock.recv(_READ_SIZE)
            except InterruptedError:
                continue
            except BlockingIOError:
                return
            if not data:
                return
            self._process_self_data(data)
            # A short read has emptied the socket; what comes later makes it ready again. Asking once more would
            # cost a system call and an exception for each wake-up.
            if len(data) < _READ_SIZE:
                return

    def _process_self_data(self, data: bytes) -> None:
        """A zero byte only wakes; any other is the number of a signal that arrived (``signal.set_wakeup_fd``)."""
        for signum in data:
            if signum:
                self._handle_signal(signum)

    def _wake_loop(self) -> None:
        """Lets the loop look at its queue; the C core writes only where the loop polls (core/native/wakeup.c)."""
        self._write_to_self()

    def _write_to_self(self) -> None:
        # The loop may be closing at this moment in its own thread: the socket may be gone, or closed under us.
        csock = self._csock
        if csock is None:
            return
        try:
            csock.send(b"\0")
        except OSError:
            # A full pipe wakes the loop as well as one byte more would.
            if self._debug:
                selector_events.logger.debug("Fail to write a null byte into the self-pipe socket", exc_info=True)
