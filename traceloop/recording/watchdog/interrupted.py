"""Runs that the watchdog's thread could not see: the thread that ran them takes a note."""

from __future__ import annotations

import sys
from collections import deque
from time import monotonic

from .. import own_threads
from . import stacks

_MAX_INTERRUPTED = 64
_MAX_FORKED = 8


class Interrupted:
    """Any thread adds notes; the watchdog's thread takes them."""

    def __init__(self) -> None:
        #: Thread, moment (s), the run.
        self.found: deque[tuple[int, float, stacks.Run]] = deque(maxlen=_MAX_INTERRUPTED)
        self._forked: deque[tuple[int, stacks.Run]] = deque(maxlen=_MAX_FORKED)

    def note_collected(self) -> None:
        """Called when a long collection ends in this thread, or right after it. It held the GIL. On a busy machine the
        run that it interrupted is over before the watchdog's thread can look. So the run is noted here, and written
        later.
        """
        try:
            run = stacks.find_run(sys._getframe(1))
            if run is not None:
                self.found.append((own_threads.get_ident(), monotonic(), run))
        except Exception:
            pass  # nothing can be reported from within a collection

    def note_forked(self) -> None:
        """Called in a thread that has forked. There is no watchdog until its loop flushes next, and the run may wait
        for the child until then.
        """
        try:
            run = stacks.find_run(sys._getframe(1))
            if run is not None:
                self._forked.append((own_threads.get_ident(), run))
        except Exception:
            pass  # the program's fork must succeed

    def resumed(self) -> None:
        """Called when the watchdog starts again: now it is known how long the runs that forked took, to some ms."""
        while self._forked:
            thread, run = self._forked.popleft()
            self.found.append((thread, monotonic(), run))
