"""What surrounds a blocked loop: the other threads of its process, and the one that holds what it waits for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from ...record.frames import Frame
from ...record.holders import OWN_SERVER, Holder
from .. import own_threads
from ..current_frames import current_frames
from .holders import Look, gil_holder
from .other_threads import Standing, ThreadClocksOfAll, as_recorded, threads_now
from .own_connections import is_network_call, waits_for_own_server
from .stacks import find_run
from .watched_loop import Stall, Watched

_logger = logging.getLogger("traceloop")
# So many of the innermost frames show whether the blocked call waits for the network.
_INNERMOST: Final = 8


class Surroundings:
    """Looks at the threads of one process. For the watchdog's thread, or the holder of its ``_looking``."""

    def __init__(self) -> None:
        self._clocks = ThreadClocksOfAll()
        self._failed = False

    def poll(self, now: float) -> None:
        """Called once a turn: CPU times from before a stall show what each thread computed during it."""
        self._clocks.poll(now)

    def look(
        self, watched: Watched, stall: Stall, frames: Sequence[Frame], now: float
    ) -> tuple[list[list[Any]], Holder | None]:
        """The other threads, as ``other_threads.as_recorded`` gives them, and the holder. ``frames``: of the blocked
        run. A failure is reported once; from then on there are neither.
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
    """The other threads, and the holder. Does all that needs frames and objects of the program, and keeps none of them.

    On a busy machine much time may have passed since ``frames`` were taken. Returns None if the run that began at
    ``start`` is over. There is no holder if the run stands at another line by now, where it waits for something else.
    """
    tops = current_frames()
    try:
        run = find_run(tops.get(watched.thread), watched.loop)
        if run is None or run.start != start:
            return None
        threads = threads_now(tops, (watched.thread, own_threads.get_ident()))
        if run.frames[-1:] != frames[-1:]:
            return threads, None
        return threads, Look(tops, threads, watched.loop, watched.thread).holder()
    finally:
        del tops
