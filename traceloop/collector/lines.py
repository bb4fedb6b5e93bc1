"""The lines that a collector prints: its own, and those of processes with another stderr than the root's."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Final

from traceloop import notices

from .files import say

#: So many lines a minute are printed for other processes.
MAX_LINES_A_MINUTE: Final = 30
_MAX_AT_END: Final = 100


class Lines:
    """Prints lines on the root's stderr. For the collector's thread."""

    def __init__(self) -> None:
        #: Lines that the root prints at its end, above the summary.
        self.at_end: list[str] = []
        self._printed: deque[float] = deque(maxlen=MAX_LINES_A_MINUTE)
        self._left_out = 0

    def tell(self, line: str) -> None:
        """Prints the line at once. If that is not possible, the root prints it at the end."""
        if notices.usable():
            say(line)
        elif len(self.at_end) < _MAX_AT_END:
            self.at_end.append(line)

    def tell_for_others(self, lines: Iterable[str]) -> None:
        """Prints lines of processes with another stderr than the root's, at most ``MAX_LINES_A_MINUTE``."""
        notices.release()
        now = time.monotonic()
        for line in lines:
            if len(self._printed) == MAX_LINES_A_MINUTE and now - self._printed[0] < 60:
                self._left_out += 1
                continue
            more = f" ({self._left_out} more lines were left out)" if self._left_out else ""
            self._left_out = 0
            self._printed.append(now)
            self.tell(line + more)
