"""Runs that were found while the watchdog's own thread could not look, by the thread that ran them."""

from __future__ import annotations

import sys
import threading
from collections import deque
from time import monotonic

from . import stacks

_MAX_INTERRUPTED = 64
_MAX_FORKED = 8


class Interrupted:
    """Notes are taken by any thread, and taken out by the watchdog's."""

    def __init__(self) -> None:
        #: Thread, moment (s), the run.
        self.found: deque[tuple[int, float, stacks.Run]] = deque(maxlen=_MAX_INTERRUPTED)
        self._forked: deque[tuple[int, stacks.Run]] = deque(maxlen=_MAX_FORKED)

    def note_collected(self) -> None:
        """A long collection ends in this thread. It held the GIL, and on a busy machine the run that it interrupted is
        over before the watchdog's own thread can look: so the look is taken here, and what it found written later.
        """
        try:
            run = stacks.find_run(sys._getframe(1))
            if run is not None:
                self.found.append((threading.get_ident(), monotonic(), run))
        except Exception:
            pass  # within a collection there is no way to report it

    def note_forked(self) -> None:
        """This thread has forked, and there is no watchdog until its loop flushes: what it runs may wait for the child
        all the while.
        """
        try:
            run = stacks.find_run(sys._getframe(1))
            if run is not None:
                self._forked.append((threading.get_ident(), run))
        except Exception:
            pass  # the fork is the program's

    def resumed(self) -> None:
        """The watchdog is to run again: how long what had forked ran is known now, to some milliseconds."""
        while self._forked:
            thread, run = self._forked.popleft()
            self.found.append((thread, monotonic(), run))
