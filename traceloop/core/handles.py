"""Handles: one callback with its arguments and context, to be run once (or each time a descriptor is ready).

They are ``asyncio.Handle`` and ``asyncio.TimerHandle`` to everyone who looks: same attributes, same ``isinstance``.
The loop makes them with a constructor that does nothing (plain stores cost half as much as the standard one), which is
why ``call_soon`` in loop/scheduling.py and these classes know each other.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import events, format_helpers
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any


def _seldom(slot: Any, default: object = None) -> property:
    """An attribute that is ``default`` until it is set: a store less for each handle, 8 ns."""
    read, write = slot.__get__, slot.__set__

    def get(handle: Any) -> Any:
        try:
            return read(handle)
        except AttributeError:
            return default

    return property(get, write)


_repr = _seldom(asyncio.Handle._repr)  # type: ignore[attr-defined]
_source_traceback = _seldom(asyncio.Handle._source_traceback)  # type: ignore[attr-defined]


def _text_in_slot(handle: Any) -> str | None:
    value = getattr(handle, "_set_at", None)
    return value if isinstance(value, str) else None


class Handle(asyncio.Handle):
    """What ``call_soon`` returns. The loop runs it inline; ``_run`` is for code that drives the loop itself.

    Its constructor takes and sets nothing: who makes one stores what it is to have. That is a quarter faster than
    ``object.__new__``, which has to look whether the class may be made that way (169 against 258 ns on 3.13).
    """

    __slots__ = ()
    __init__: Any = object.__init__
    _repr: Any = _repr
    _source_traceback: Any = _source_traceback
    # The loop asks only for a handle whose callback is gone, which ``cancel`` takes away.
    _cancelled: Any = _seldom(asyncio.Handle._cancelled, False)  # type: ignore[misc]

    if TYPE_CHECKING:  # slots of the base that typeshed does not declare
        _callback: Any
        _args: Any
        _context: Any
        _loop: Any

    def _run(self) -> None:
        run_for_others(self)


class TimerHandle(asyncio.TimerHandle):
    """What ``call_later`` and ``call_at`` return.

    ``entry[0]`` is its due time and ``entry[2]`` itself: the shape of an entry of the timer heap, for the case that
    other code works on the heap (see timers.py). ``_set_at``: where the record stood when it was set (layout.py),
    0 or less where nothing ran or nothing is recorded.
    """

    __slots__ = ()
    __init__: Any = object.__init__
    # Both lie in one slot, which debug mode uses in a handle that was cancelled: a slot more makes a timer dearer.
    _set_at: Any = asyncio.Handle._repr  # type: ignore[attr-defined]
    _repr: Any = property(_text_in_slot, asyncio.Handle._repr.__set__)  # type: ignore[attr-defined]
    _source_traceback: Any = _source_traceback

    if TYPE_CHECKING:
        _callback: Any
        _args: Any
        _context: Any
        _cancelled: bool
        _loop: Any
        _when: float
        _scheduled: bool

    def __getitem__(self, index: int) -> Any:
        if index == 0:
            return self._when
        if index == 2:
            return self
        raise IndexError(index)

    def cancel(self) -> None:
        """Cancels the call; its entry stays in the heap until it is due or swept."""
        if not self._cancelled:
            loop = self._loop
            loop._timer_handle_cancelled(self)
            if loop._debug:
                asyncio.Handle.cancel(self)
            else:  # what that does but for debug mode, with two calls less
                self._cancelled = True
                self._callback = self._args = None

    def _run(self) -> None:
        run_for_others(self)


class _GuardedContext:
    """Stands where a handle has its context; runs the callback unless it was cancelled, one or the other at a time.

    So the loop runs such a handle as any other, without looking what kind it is. It does not refer to its handle,
    which would be a cycle.
    """

    __slots__ = ("cancelled", "context", "lock")

    def __init__(self, context: Context) -> None:
        self.context = context
        self.lock = threading.RLock()
        self.cancelled = False

    def run(self, callback: Callable[..., object], *args: Any) -> None:
        with self.lock:
            if not self.cancelled:
                self.context.run(callback, *args)

    def get(self, variable: ContextVar[Any], default: Any = None) -> Any:
        """As a context's own: the recorder and the watchdog look for the application's span in it."""
        return self.context.get(variable, default)

    def __getitem__(self, variable: ContextVar[Any]) -> Any:
        return self.context[variable]


class ThreadSafeHandle(getattr(events, "_ThreadSafeHandle", asyncio.Handle)):  # type: ignore[misc]
    """What ``call_soon_threadsafe`` returns from 3.14 on: ``cancel`` and ``cancelled`` may be called in any thread.

    Once the callback runs they wait until it is over (gh-130322); in the thread that runs it they do not.
    """

    __slots__ = ()
    __init__: Any = object.__init__
    _repr: Any = _repr
    _source_traceback: Any = _source_traceback

    def get_context(self) -> Context:
        """The context that the callback runs in."""
        context: Context = self._context.context
        return context

    def cancel(self) -> None:
        """Cancels the call if it has not begun."""
        with self._lock:
            self._context.cancelled = True
            asyncio.Handle.cancel(self)

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        with self._lock:
            return asyncio.Handle.cancelled(self)

    def _run(self) -> None:
        asyncio.Handle._run(self)


ThreadSafeHandle.__name__ = ThreadSafeHandle.__qualname__ = "_ThreadSafeHandle"  # in its repr, which is logged


def run_for_others(handle: Any) -> None:
    """Runs a handle that other code has taken out of the loop's queue (nest_asyncio does)."""
    recorder = getattr(handle._loop, "_recorder", None)
    if recorder is None:
        asyncio.Handle._run(handle)
    else:
        handle._loop._run_taken(recorder, handle)


def report_failure(handle: Any, error: BaseException) -> None:
    """Tells the loop's exception handler that ``handle``'s callback raised."""
    callback: Callable[..., object] = handle._callback
    text = format_helpers._format_callback_source(callback, handle._args)
    context = {"message": f"Exception in callback {text}", "exception": error, "handle": handle}
    if handle._source_traceback:
        context["source_traceback"] = handle._source_traceback
    handle._loop.call_exception_handler(context)


def nothing() -> None:
    """Does nothing: where it begins, the interpreter raises what another thread wants raised in this one."""
