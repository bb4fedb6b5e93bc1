"""Handles: one callback with its arguments and context, to be run once (or each time a descriptor is ready).

They are ``asyncio.Handle`` and ``asyncio.TimerHandle`` to everyone who looks: same attributes, same ``isinstance``.
The loop makes them without calling a constructor (``object.__new__`` and plain stores cost half as much), which is
why ``new_handle`` in scheduling.py and these classes know each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from asyncio import format_helpers


class Handle(asyncio.Handle):
    """What ``call_soon`` returns. ``_run`` runs it as the standard handle does; the loop itself runs it inline."""

    __slots__ = ()


class TimerHandle(asyncio.TimerHandle):
    """What ``call_later`` and ``call_at`` return.

    ``entry[0]`` is its due time and ``entry[2]`` itself: the shape of an entry of the timer heap, for the case that
    somebody else works on the heap (see timers.py).
    """

    __slots__ = ()

    def __getitem__(self, index: int) -> Any:
        if index == 0:
            return self._when
        if index == 2:
            return self
        raise IndexError(index)

    def cancel(self) -> None:
        """Cancels the call; its entry stays in the heap until it is due or swept."""
        if not self._cancelled:
            self._loop._timer_handle_cancelled(self)
            asyncio.Handle.cancel(self)


def report_failure(handle: asyncio.Handle, error: BaseException) -> None:
    """Tells the loop's exception handler that ``handle``'s callback raised."""
    callback: Callable[..., object] = handle._callback
    text = format_helpers._format_callback_source(callback, handle._args)
    context = {"message": f"Exception in callback {text}", "exception": error, "handle": handle}
    if handle._source_traceback:
        context["source_traceback"] = handle._source_traceback
    handle._loop.call_exception_handler(context)
