"""The program's stderr, which the collector has as its own: how long it keeps it, and who prints the summary there."""

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
    """Of one run; for the collector's own thread."""

    def __init__(self, run_dir: str, root: Root, *, report: bool) -> None:
        """``report``: whether a report was asked for."""
        self._run_dir = run_dir
        self._root = root
        self._report = report
        self._released = False
        self._next_look = 0.0
        self._gone_at = 0.0

    def root_listens(self) -> bool:
        """Whether the program's process still waits for the summary, and will print it. Once asked, it is settled."""
        if files.settle_who_prints(self._run_dir):
            return self._root.alive
        return False

    def is_owed_a_report(self) -> bool:
        """Whether the program's process has ended before the report that was asked for was there: who reads its stderr
        waits for it, though not without an end.
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
        """Whether the program has closed what was its stderr at the start, or made it something else: its readers may
        wait for the end.
        """
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
        """Lets go of it where it is a pipe. Whether this was the first time."""
        if self._released:
            return False
        self._released = True
        release_stderr()
        return True
