"""A file of ours that stays open in the program's process.

The program does not know our descriptor. A program that becomes a daemon closes all descriptors, and the files that it
opens then may get the number of ours. So we choose a high number, which leaves the program's own numbers as they would
be without us. Before each use we check that device and inode behind the descriptor are still ours (1 us). Where they
are not, we neither write to it nor close it.
"""

from __future__ import annotations

import fcntl
import os
import time

_HIGH_DESCRIPTOR = 200

# Bound here, because tests and tools that replace these functions mean the application's calls, not ours.
_open, _write, _fstat, _close = os.open, os.write, os.fstat, os.close


class OwnFile:
    """A file that is appended to, and opened again where the program has closed it. Not thread-safe.

    Raises OSError where it cannot be opened at first. The file is closed when the object is freed.
    """

    __slots__ = ("__weakref__", "_descriptor", "_identity", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1
        self._identity = (0, 0)
        self._open()

    def _open(self) -> None:
        # O_NONBLOCK has no effect on a file in memory. It tells tools that look for blocking calls to ignore this one.
        flags = os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        low = _open(self._path, flags, 0o600)
        try:
            self._descriptor = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _HIGH_DESCRIPTOR)
        except OSError:  # a low limit on descriptors
            self._descriptor = os.dup(low)
        finally:
            _close(low)
        status = _fstat(self._descriptor)
        self._identity = (status.st_dev, status.st_ino)

    def fileno(self) -> int:
        """The descriptor, for code that writes to it directly (faulthandler)."""
        return self._descriptor

    def flush(self) -> None:
        """Does nothing; faulthandler requires the method."""

    def size(self) -> int | None:
        """Bytes in the file; None where the descriptor was closed, or now belongs to another file."""
        if self._descriptor < 0:
            return None
        try:
            status = _fstat(self._descriptor)
        except OSError:
            return None
        return status.st_size if (status.st_dev, status.st_ino) == self._identity else None

    def age(self) -> float | None:
        """Seconds since it was last written to (to some 10 ms); None where it is empty or no longer ours."""
        if not self.size():
            return None
        try:
            return time.time() - _fstat(self._descriptor).st_mtime
        except OSError:
            return None

    def reopen(self) -> None:
        """Opens the file again where the descriptor is not ours any more. Raises OSError."""
        if self.size() is None:
            self._open()

    def append(self, data: bytes) -> bool:
        """Writes ``data`` at the end; False where not all of it could be written. Never raises OSError."""
        try:
            self.reopen()
            return _write(self._descriptor, data) == len(data)
        except OSError:
            return False

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset`` on; b"" where the descriptor is not ours any more."""
        try:
            return os.pread(self._descriptor, size, offset) if self.size() is not None else b""
        except OSError:
            return b""

    def close(self) -> None:
        """Closes the descriptor, if it is still ours."""
        if self.size() is not None:
            _close(self._descriptor)
        self._descriptor = -1

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:  # the interpreter is going down
            pass
