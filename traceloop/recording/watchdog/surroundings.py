"""What is around a blocked loop: the other threads of its process, and who has what it waits for."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final

from ...record.frames import Frame
from ...record.holders import OWN_SERVER, Holder
from .holders import Look, gil_holder
from .other_threads import Standing, ThreadClocksOfAll, as_recorded, threads_now
from .own_connections import is_network_call, waits_for_own_server
from .stacks import find_run
from .watched_loop import Stall, Watched

_logger = logging.getLogger("traceloop")
# The innermost frames of the blocked call that tell whether it waits for the network.
_INNERMOST: Final = 8


class Surroundings:
    """Of one process. For the watchdog's thread, or the holder of its ``_looking``."""

    def __init__(self) -> None:
        self._clocks = ThreadClocksOfAll()
        self._failed = False

    def poll(self, now: float) -> None:
        """Once a turn: what threads compute is to be known from before a stall."""
        self._clocks.poll(now)

    def look(
        self, watched: Watched, stall: Stall, frames: Sequence[Frame], now: float
    ) -> tuple[list[list[Any]], Holder | None]:
        """The other threads, as ``other_threads.as_recorded``, and the holder. frames: of the blocked run. Nothing
        where it fails, which is reported once.
        """
        if self._failed:
            return [], None
        try:
            return self._look(watched, stall, frames, now)
        except Exception as error:
            self._failed = True
            _logger.error("traceloop: looking for holders failed and has stopped", exc_info=error)
            return [], None

    def _look(
        self, watched: Watched, stall: Stall, frames: Sequence[Frame], now: float
    ) -> tuple[list[list[Any]], Holder | None]:
        found = _at_this_moment(watched, stall.start, frames)
        if found is None:
            return [], None
        threads, holder = found
        since, computed = self._clocks.computed(now)
        samples = ([stall.before] if stall.before is not None else []) + stall.samples
        network = holder is None and is_network_call(frames[-_INNERMOST:], samples)
        if network and waits_for_own_server(watched.loop):
            holder = Holder(OWN_SERVER, guess=True)
        if holder is None:
            holder = gil_holder(samples, threads, since, computed, now - stall.start)
        return as_recorded(threads, computed), holder


def _at_this_moment(
    watched: Watched, start: float, frames: Sequence[Frame]
) -> tuple[list[Standing], Holder | None] | None:
    """All that needs the program's frames and objects: none of them is held when this returns.

    On a busy machine much time may have passed since ``frames`` were taken. None where the run that began at ``start``
    is over; no holder where the run stands at another line by now: it would be what something else waits for.
    """
    tops = sys._current_frames()
    try:
        run = find_run(tops.get(watched.thread), watched.loop)
        if run is None or run.start != start:
            return None
        threads = threads_now(tops, (watched.thread, threading.get_ident()))
        if run.frames[-1:] != frames[-1:]:
            return threads, None
        return threads, Look(tops, threads, watched.loop, watched.thread).holder()
    finally:
        del tops
