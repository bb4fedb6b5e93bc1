"""Handles that other code runs: a library that drives the loop itself (nest_asyncio) takes them out of ``_ready``
and calls their ``_run``.

Each is recorded as any other. What such a library does between them is its poll, as far as anyone can tell; a handle
that it runs inside of another one (which is what nest_asyncio is for) belongs to that one, as a called function does.
"""

from __future__ import annotations

from asyncio import TimerHandle
from itertools import islice
from typing import Any

from ..record import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..core.interface import Recorder

# Handles that follow each other sooner than this, s, are of one iteration.
_SAME_ITERATION = 50e-6


class ExternalRuns:
    """The runs of one loop's handles by others; for the loop's thread."""

    def __init__(self) -> None:
        #: Whether one is under way.
        self.inside = False
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
        now: float = loop.time()
        recorder.words[layout.W_RUNNING] = now
        if now - self._ended > _SAME_ITERATION:
            if self._ended:
                record.add(self._ended, layout.R_POLL, -1.0)
            # What has come into the queue since the last run, this handle included, came by the poll.
            length = len(loop._ready) + 1
            new = max(0, length - self._length)
            timers = [each for each in islice(reversed(loop._ready), max(0, new - 1)) if isinstance(each, TimerHandle)]
            timers.reverse()
            if new >= length and isinstance(handle, TimerHandle):
                timers.insert(0, handle)
            for timer in timers:
                # A handle of another class has no such place, nor has one that was cancelled in debug mode.
                place = getattr(timer, "_set_at", 0)
                record.add(timer.when(), layout.R_TIMER, place if isinstance(place, int) else 0)
            record.add(now, layout.R_ACTIVE, float(new - len(timers)))
            record.add(float(length - new), layout.R_DUE, float(len(timers)))
            start = now
        else:
            start = self._ended
        if id(handle) in recorder.stamps:
            recorder.stamped(handle)
        return start

    def end(self, recorder: Recorder, loop: Any, callback: Any, ident: float, start: float) -> None:
        """It has run."""
        outcome = 0.0
        if ident >= layout.SITE_LIMIT and callback.__self__.done():
            recorder.tasks.finished += 1
            outcome = recorder.tasks.outcome_of(callback.__self__)
        self._length = len(loop._ready)
        recorder.record.add(start, ident, self._length + outcome)
        if recorder.tasks.created:
            recorder.tasks.define_created()
        self._ended = loop.time()
        if not self._length or len(recorder.record) > 3000:
            # It is going to wait now, and no call comes when the loop ends.
            recorder.record.add(self._ended, layout.R_POLL, -1.0)
            recorder.flush(loop, self._ended)
            recorder.words[layout.W_RUNNING] = 0.0
            self._ended = 0.0
