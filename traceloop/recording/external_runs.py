"""Handles that other code runs: a library that drives the loop itself (nest_asyncio) takes them out of ``_ready``
and calls their ``_run``.

Each is recorded as any other. The time between two of them is recorded as a poll, since nothing tells what the library
does there. A handle that is run inside another one (nest_asyncio is made for that) is recorded too, and its time is
also part of the outer one's, as that of a called function is.
"""

from __future__ import annotations

from asyncio import TimerHandle
from itertools import islice
from typing import Any

from ..record import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..core.interface import Recorder

# Handles that follow each other sooner than this (s) belong to one iteration.
_SAME_ITERATION = 50e-6


class ExternalRuns:
    """The runs of one loop's handles by others; for the loop's thread."""

    def __init__(self) -> None:
        #: How many such runs are under way, each inside the one before.
        self.depth = 0
        self._ended = 0.0
        self._length = 0
        #: Whether the loop was recorded as started; the code that closes it has to record that it stopped.
        self.started = False

    def begin(self, recorder: Recorder, loop: Any, handle: Any) -> float:
        """A handle that was just taken out of the loop's queue is about to run; returns the start of its run, s."""
        record = recorder.record
        if not recorder.is_running:
            recorder.external_iteration(loop)
            self._ended = 0.0
        now = recorder.now(loop)
        recorder.words[layout.W_RUNNING] = now
        if now - self._ended > _SAME_ITERATION:
            if self._ended:
                record.add(self._ended, layout.R_POLL, -1.0)
            # Handles that were queued since the last run, this one included, are attributed to the poll.
            length = len(loop._ready) + 1
            new = max(0, length - self._length)
            timers = [each for each in islice(reversed(loop._ready), max(0, new - 1)) if isinstance(each, TimerHandle)]
            timers.reverse()
            if new >= length and isinstance(handle, TimerHandle):
                timers.insert(0, handle)
            for timer in timers:
                # A handle of another class does not know where it was set; neither does one cancelled in debug mode.
                place = getattr(timer, "_set_at", 0)
                record.add(timer.when(), layout.R_TIMER, place if isinstance(place, int) else 0)
            record.add(now, layout.R_ACTIVE, float(new - len(timers)))
            record.add(float(length - new), layout.R_DUE, float(len(timers)))
            start = now
        else:
            start = self._ended
        if id(handle) in recorder.stamps:
            recorder.stamped(handle)
        self._ended = now  # for what runs inside this one
        return start

    def end(self, recorder: Recorder, loop: Any, callback: Any, ident: float, start: float) -> None:
        """The handle has run. ``start``: what ``begin`` returned, s."""
        outcome = 0.0
        if ident >= layout.SITE_LIMIT and callback.__self__.done():
            recorder.tasks.finished += 1
            outcome = recorder.tasks.outcome_of(callback.__self__)
        self._length = len(loop._ready)
        recorder.record.add(start, ident, self._length + outcome)
        self._ended = recorder.now(loop)
        if recorder.tasks.created:
            recorder.tasks.define_created(self._ended)
        full = len(recorder.record) > 3000
        if self.depth > 1:
            # The outer one goes on, or the library waits inside it: nothing tells which.
            recorder.words[layout.W_RUNNING] = self._ended
            if full:
                recorder.flush(loop, self._ended)
        elif full or not self._length:
            # The library is going to wait now, and it does not call us when its loop ends.
            recorder.record.add(self._ended, layout.R_POLL, -1.0)
            recorder.flush(loop, self._ended)
            recorder.words[layout.W_RUNNING] = 0.0
            self._ended = 0.0
