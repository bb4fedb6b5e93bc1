"""The plain iteration: what an event loop does, without a record of it.

It runs loops that do not record, and it is the reference of the recorded one (recorded_iteration.py), which has to run
the same callbacks in the same order. One iteration:

1. sweep cancelled timers, and see how long the poll may wait;
2. poll the selector;
3. put the handles of ready descriptors into the ready queue;
4. move the timers that are due there too;
5. run what is in the queue now; what these handles add waits for the next iteration.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from .standard import base_events
from .timers import Timers

MAX_POLL_SECONDS = 24 * 3600.0
NAN_IS_REFUSED = sys.version_info >= (3, 13)


def iterate(loop: Any, *, once: bool) -> None:
    """Runs one iteration, or iterations until ``loop.stop()`` was called. In the loop's thread."""
    ready = loop._ready
    timers: Timers = loop._timer_heap
    while True:
        if timers.cancelled:
            timers.sweep()
        timeout = 0.0 if ready or loop._stopping else poll_timeout(timers, loop.time()) if timers else None
        loop._process_events(loop._selector.select(timeout))
        if timers:
            _move_due(loop, timers, loop.time() + loop._clock_resolution)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                if loop._debug:
                    run_debugged(loop, handle)
                else:
                    asyncio.Handle._run(handle)
            # A handle must not outlive its run.
            handle = None
        if once or loop._stopping:
            return


def poll_timeout(timers: Timers, now: float) -> float | None:
    """How long the poll may wait with an empty ready queue: seconds, None for ever."""
    due = timers.next_due()
    if due is None:
        return None
    wait = due - now
    return 0.0 if wait < 0.0 else float(wait) if wait <= MAX_POLL_SECONDS else beyond_poll(wait)


def beyond_poll(wait: float) -> float:
    """The poll's timeout for a timer that is due in more than the longest poll, or at NaN (``call_later(nan)``).

    From 3.13 on the standard loop hands NaN to the selector, which raises ValueError out of ``run_forever``. Before
    that it polls without waiting, and then takes such a timer for one that is due.
    """
    if wait == wait:
        return MAX_POLL_SECONDS
    if NAN_IS_REFUSED:
        raise ValueError("cannot convert float NaN to integer")
    return 0.0


def _move_due(loop: Any, timers: Timers, end: float) -> None:
    # "Not later" and not "earlier": NaN is due, as it is for the standard loop.
    while (due := timers.next_due()) is not None and not due >= end:
        timer = timers.pop()
        if timer._cancelled:
            timers.cancelled -= 1
        else:
            loop._ready.append(timer)


def run_debugged(loop: Any, handle: Any) -> None:
    """Runs a handle in debug mode: the loop knows which one runs, and logs it if it was slow."""
    try:
        loop._current_handle = handle
        start = loop.time()
        asyncio.Handle._run(handle)
        duration = loop.time() - start
        if duration >= loop.slow_callback_duration:
            base_events.logger.warning(
                "Executing %s took %.3f seconds", base_events._format_handle(handle), duration
            )
    finally:
        loop._current_handle = None
        # A traceback of what ran keeps this frame, and with it all that its names still stand for.
        handle = None
