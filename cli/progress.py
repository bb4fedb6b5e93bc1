"""A line on stderr that tells how far a record has been read, where stderr is a terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from traceloop.record import layout

if TYPE_CHECKING:
    from traceloop.reading.follower import RunFollower

#: Work that takes less than this shows nothing, s.
_AFTER_SECONDS = 0.5
_EVERY_SECONDS = 0.2


class Progress:
    """Shows a percentage. Without a terminal it shows nothing."""

    def __init__(self) -> None:
        self._shown = False
        self._began = time.monotonic()
        self._next = self._began + _AFTER_SECONDS if sys.stderr.isatty() else float("inf")

    def show(self, follower: RunFollower) -> None:
        """Shows how much of the present rings has been read. Costs little while no update is due."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_SECONDS
        written = read = 0.0
        for process in follower.processes.values():
            for ring in process.rings.values():
                word = ring.reader.word(layout.W_RECORDS)
                done = float(ring.reader.records + ring.reader.dropped)
                written += max(word, done) if word == word else done  # a ring that was closed has no words
                read += done
        if written > 0.0:
            share = min(1.0, read / written)
            left = f", {(now - self._began) * (1.0 - share) / share:.0f} s left" if share > 0.02 else ""
            sys.stderr.write(f"\r\x1b[Ktraceloop: {share:4.0%} of {written:,.0f} records{left}")
            sys.stderr.flush()
            self._shown = True

    def close(self) -> None:
        """Removes the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
