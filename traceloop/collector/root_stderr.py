"""The program's stderr, which the collector has inherited: how long it keeps it, and who prints the summary there."""

from __future__ import annotations

import os
import time
from typing import Final

from traceloop import notices

from ..record import files, proc
from .files import release_stderr
from .traced_processes import Root

#: How long the collector keeps a pipe for a report that was asked for after the program has ended, s.
OWED_SECONDS: Final = 60.0


class RootStderr:
    """The program's stderr in one run. Used in the collector's thread only."""

    def __init__(self, run_dir: str, root: Root, *, report: bool) -> None:
        """``report``: whether a report was asked for."""
        self._run_dir = run_dir
        self._root = root
        self._report = report
        self._released = False
        self._next_look = 0.0
        self._gone_at = 0.0

    def root_listens(self) -> bool:
        """Whether the program's process still waits for the summary and will print it. The first answer is final.

        It asks /proc as well. When a process is killed, its first thread may be a zombie already, which is how its end
        was seen. Its pidfd reports the end only when the last thread has gone.
        """
        if files.settle_who_prints(self._run_dir):
            return self._root.alive and proc.is_alive(self._root.pid, self._root.start_ticks)
        return False

    def is_owed_a_report(self) -> bool:
        """Whether the program's process has ended before the requested report was ready.

        The reader of its stderr then waits for the report, for ``OWED_SECONDS`` at most.
        """
        if not self._report:
            return False
        try:
            if files.read_file(os.path.join(self._run_dir, files.UNHEARD), 100) != files.LATE.encode():
                return False
        except OSError:
            return False
        self._gone_at = self._gone_at or time.monotonic()
        return time.monotonic() - self._gone_at < OWED_SECONDS

    def let_go(self) -> bool:
        """Whether the program has closed or replaced the stderr of its start. Readers of that may wait for its end."""
        now = time.monotonic()
        if now < self._next_look or not notices.usable():
            return False
        self._next_look = now + 1.0
        try:
            return not os.path.samestat(os.stat(f"/proc/{self._root.pid}/fd/2"), os.fstat(2))
        except PermissionError:  # it has changed its user
            return False
        except OSError:  # closed; or the program ends, closes its files, and there is something to say about its end
            stat = proc.stat_of(self._root.pid)
            return stat is not None and not stat.is_exiting and self._root.alive

    def release(self) -> bool:
        """Closes our copy where it is a pipe. Returns whether this was the first time."""
        if self._released:
            return False
        self._released = True
        release_stderr()
        return True
