"""Reads keys as they are pressed, and leaves the terminal as it was."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from typing import Any


class Keys:
    """``with Keys() as keys``: ``keys.wait`` returns what is pressed.

    It only waits where stdin is not a terminal, or where the terminal belongs to another job.
    """

    def __init__(self) -> None:
        self._before: list[Any] | None = None
        self._descriptor = -1

    def __enter__(self) -> Keys:
        try:
            descriptor = sys.stdin.fileno()
            if os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp():
                self._before = termios.tcgetattr(descriptor)
                tty.setcbreak(descriptor)
                self._descriptor = descriptor
        except (OSError, ValueError, AttributeError, termios.error):
            pass  # stdin is closed, or only looks like a terminal
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            try:
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
            except (OSError, termios.error):
                pass  # the terminal has gone

    @property
    def are_read(self) -> bool:
        """Whether a key that is pressed will be seen."""
        return self._descriptor >= 0

    def wait(self, seconds: float) -> str:
        """The keys pressed within that time; "" for none. The keys of an escape sequence are returned together."""
        readable, _, _ = select.select([self._descriptor] if self.are_read else [], [], [], seconds)
        if not readable:
            return ""
        data = os.read(self._descriptor, 64)
        if not data:
            self._descriptor = -1  # the other side has hung up
        return data.decode("utf-8", "replace")
