"""The pipe in the run directory that ends the collector's wait, and takes the notices of other processes."""

from __future__ import annotations

import os
import select
from collections import deque

from traceloop.record import files

_MAX_LINES = 100


class WakePipe:
    """The named pipe by which the processes of a run end the collector's wait. For one reader.

    An empty line only wakes. Any other is a notice of a process that has another stderr than the root's
    (`traceloop.notices`): see `take_lines`.
    """

    def __init__(self, run_dir: str) -> None:
        path = os.path.join(run_dir, files.WAKE)
        self._lines: deque[str] = deque(maxlen=_MAX_LINES)
        self._rest = b""
        try:
            os.mkfifo(path, 0o600)
        except OSError:
            pass
        try:
            self._read = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            # A writer of our own, or the pipe would be at its end whenever no other process has it open.
            self._write = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)

    def wake(self) -> None:
        """Ends the current wait, or the next; from any thread and from signal handlers."""
        try:
            os.write(self._write, b"\n")
        except OSError:
            pass  # full: it will wake

    @property
    def descriptor(self) -> int:
        """What can be read when there is something to wake for."""
        return self._read

    def wait(self, seconds: float, handle: int = -1) -> bool:
        """Waits for a byte, or for the end of the process of this pidfd; whether either came."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        if handle >= 0:
            poll.register(handle, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        try:
            data = self._rest + os.read(self._read, 65536)
        except OSError:
            return True  # it was the process
        *lines, rest = data.split(b"\n")
        self._rest = rest[: select.PIPE_BUF]
        self._lines.extend(line.decode("utf-8", "replace") for line in lines if line)
        return True

    def take_lines(self) -> list[str]:
        """The notices that have come since the last time, the last 100 at most."""
        lines = list(self._lines)
        self._lines.clear()
        return lines
