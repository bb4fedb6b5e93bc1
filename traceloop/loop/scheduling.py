"""Putting callbacks, timers, futures and tasks on the loop."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from asyncio import coroutines, format_helpers
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from heapq import heappush
from time import monotonic
from typing import Any

from ..core.buffer import Record
from ..core.handles import Handle, ThreadSafeHandle, TimerHandle, _GuardedContext
from ..core.standard import base_events
from ..core.timers import Timers
from ..recording.heaps.timer_origins import NOTED_TIMERS
from .loop_part import LoopPart

# 3.14 deprecates the public name, and warns at each call.
_is_coroutine_function: Callable[[object], bool] = (
    getattr(coroutines, "_iscoroutinefunction", None) or coroutines.iscoroutinefunction
)


def _drop_last_frame(task: Any) -> None:
    """Takes ``create_task`` out of the traceback that says where a task was made; not all tasks have one."""
    if task._source_traceback:
        del task._source_traceback[-1]


class SchedulingMixin(LoopPart):
    """call_soon and its family. All but call_soon_threadsafe are for the loop's own thread."""

    _ready: deque[asyncio.Handle]
    _closed: bool
    _debug: bool
    _checks_calls: bool  # closed or in debug mode: every call is checked
    _thread_id: int | None
    _task_factory: Any
    _recorder: Any
    _timer_heap: Timers

    # What a loop is made of; the C core has its own (core/accelerated.py).
    _new_queue: Any = deque
    _new_record: Any = Record
    _new_timers: Any = Timers

    def time(self) -> float:
        """The loop's clock: seconds of ``time.monotonic()``."""
        return time.monotonic()

    #: What ``time`` is where no program has replaced it; the C core has its own.
    _original_time = time

    @property
    def _scheduled(self) -> list[Any]:
        return self._timer_heap.as_list()

    @_scheduled.setter
    def _scheduled(self, handles: list[Any]) -> None:
        self._timer_heap.replace(handles)

    @property
    def _timer_cancelled_count(self) -> int:
        return self._timer_heap.cancelled

    @_timer_cancelled_count.setter
    def _timer_cancelled_count(self, count: int) -> None:
        self._timer_heap.cancelled = count

    def _timer_handle_cancelled(self, handle: Any) -> None:
        self._timer_heap.note_cancelled(handle)

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:
        """Runs ``callback(*args)`` in the next iteration, in ``context`` or a copy of the current one."""
        if self._checks_calls:
            return self._call_soon_guarded(callback, args, context)
        handle: Handle = Handle()
        handle._callback = callback
        handle._args = args
        handle._context = copy_context() if context is None else context
        handle._loop = self
        self._ready.append(handle)
        return handle

    def _call_soon_guarded(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> Handle:
        self._check_closed()
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_soon")
        handle = self._call_soon(callback, args, context)
        if self._debug and handle._source_traceback:
            # Where the user called is what it shall end with: neither this frame nor call_soon's.
            del handle._source_traceback[-2:]
        return handle

    def _call_soon(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> Handle:
        handle = self._new_handle(callback, args, context)
        if self._debug and handle._source_traceback:
            del handle._source_traceback[-1]
        self._ready.append(handle)
        return handle

    def _new_handle(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None = None
    ) -> Handle:
        handle: Handle = Handle()
        handle._callback = callback
        handle._args = args
        handle._context = copy_context() if context is None else context
        handle._cancelled = False  # a reader's is asked each time
        handle._loop = self
        if self._debug:
            handle._source_traceback = format_helpers.extract_stack(sys._getframe(1))
        return handle

    if sys.version_info >= (3, 14):

        def _new_threadsafe_handle(
            self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
        ) -> Handle:
            handle = ThreadSafeHandle()
            handle._callback = callback
            handle._args = args
            handle._context = guarded = _GuardedContext(copy_context() if context is None else context)
            handle._lock = guarded.lock
            handle._cancelled = False
            handle._loop = self
            if self._debug:
                handle._source_traceback = format_helpers.extract_stack(sys._getframe(1))
            return handle

    else:
        _new_threadsafe_handle = _new_handle

    def _add_callback(self, handle: asyncio.Handle) -> None:
        """Puts a handle that exists already (a reader's, a timer's) into the ready queue."""
        if not handle._cancelled:
            self._ready.append(handle)

    def _add_callback_signalsafe(self, handle: asyncio.Handle) -> None:
        self._add_callback(handle)
        self._write_to_self()

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        """``call_soon`` from any thread; wakes the loop."""
        self._check_closed()
        if self._debug:
            self._check_callback(callback, "call_soon_threadsafe")
        handle = self._new_threadsafe_handle(callback, args, context)
        if self._debug and handle._source_traceback:
            del handle._source_traceback[-1]
        if self._recorder is not None and threading.get_ident() != self._thread_id:
            # Its place in the queue would credit it to whatever runs just now. Noted before it can be run.
            self._recorder.stamps[id(handle)] = [(monotonic(), 0)]
        self._ready.append(handle)
        self._wake_loop()
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> TimerHandle:
        """Runs ``callback(*args)`` once ``delay`` seconds have passed."""
        if delay is None:
            raise TypeError("delay must not be None")
        # Who replaces ``call_at`` or ``time``, in a class or on the loop itself, is asked for these timers too.
        kind, own, timers = type(self), self.__dict__, self._timer_heap
        if (
            self._checks_calls
            or timers.shared
            or kind.call_at is not _call_at
            or kind.time is not kind._original_time
            or "call_at" in own
            or "time" in own
        ):
            timer = self.call_at(self.time() + delay, callback, *args, context=context)
            if self._debug and timer._source_traceback:
                del timer._source_traceback[-1]
            return timer
        # What ``call_at`` and ``time`` do, written out: two calls, one with its star arguments, are a sixth of a timer.
        when = time.monotonic() + delay
        handle: TimerHandle = TimerHandle()
        handle._callback = callback
        handle._args = args
        handle._context = copy_context() if context is None else context
        handle._cancelled = False
        handle._loop = self
        handle._when = when
        handle._scheduled = True
        recorder = self._recorder
        handle._set_at = 0 if recorder is None else recorder.record.position
        timers.sequence = sequence = timers.sequence + 1
        heappush(timers.heap, (when, sequence, handle))
        if not sequence & NOTED_TIMERS:
            self._note_timer(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> TimerHandle:
        """Runs ``callback(*args)`` when the loop's clock passes ``when``."""
        if when is None:
            raise TypeError("when cannot be None")
        handle: TimerHandle = TimerHandle()
        handle._callback = callback
        handle._args = args
        handle._context = copy_context() if context is None else context
        handle._cancelled = False
        handle._loop = self
        handle._when = when
        handle._scheduled = True
        recorder = self._recorder
        handle._set_at = 0 if recorder is None else recorder.record.position
        if self._checks_calls:
            self._check_closed()
            if self._debug:
                self._check_thread()
                self._check_callback(callback, "call_at")
                handle._source_traceback = format_helpers.extract_stack(sys._getframe(1))
        timers = self._timer_heap
        timers.sequence = sequence = timers.sequence + 1
        heappush(timers.heap, handle if timers.shared else (when, sequence, handle))
        if not sequence & NOTED_TIMERS:
            self._note_timer(handle)
        return handle

    def _note_timer(self, handle: TimerHandle) -> None:
        """A sample of the timers: who sets this one is remembered while it waits."""
        recorder = self._recorder
        if recorder is not None:
            # The numbers only have to rise. Leaps keep the sample apart from anything that comes in turns.
            self._timer_heap.sequence += recorder.timer_sites.note(handle, sys._getframe(1))

    def _check_callback(self, callback: Any, method: str) -> None:
        if coroutines.iscoroutine(callback) or _is_coroutine_function(callback):
            raise TypeError(f"coroutines cannot be used with {method}()")
        if not callable(callback):
            raise TypeError(f"a callable object was expected by {method}(), got {callback!r}")

    def _check_thread(self) -> None:
        if self._thread_id is None:
            return
        if threading.get_ident() != self._thread_id:
            raise RuntimeError("Non-thread-safe operation invoked on an event loop other than the current one")

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        future: asyncio.Future[Any] = base_events.futures.Future(loop=self)
        return future

    if sys.version_info >= (3, 14):

        def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:
            """Makes a task of ``coro``; keyword arguments go to the task factory or to ``asyncio.Task``."""
            if self._checks_calls:
                self._check_closed()
            recorder = self._recorder
            if self._task_factory is None and "eager_start" not in kwargs:
                task: asyncio.Task[Any] = base_events.tasks.Task(coro, loop=self, **kwargs)
                if self._debug:
                    _drop_last_frame(task)
                if recorder is not None:
                    recorder.tasks.fresh.append(task)
                return task
            if self._task_factory is not None:
                task = self._task_factory(self, coro, **kwargs)
            else:
                task: asyncio.Task[Any] = base_events.tasks.Task(coro, loop=self, **kwargs)
            if recorder is not None:
                recorder.tasks.factory_made(task)
            try:
                return task
            finally:
                # The traceback of an eager task's exception reaches this frame, which must not lead back to the task.
                del task

    else:

        def create_task(
            self, coro: Coroutine[Any, Any, Any], *, name: Any = None, context: Context | None = None, **kwargs: Any
        ) -> asyncio.Task[Any]:
            """Makes a task of ``coro``. From 3.13.3 on further keyword arguments go to the task factory or to
            ``asyncio.Task``.
            """
            if kwargs and sys.version_info < (3, 13, 3):
                raise TypeError(f"create_task() got an unexpected keyword argument {next(iter(kwargs))!r}")
            if self._checks_calls:
                self._check_closed()
            if self._task_factory is not None:
                return self._factory_task(coro, name, context, kwargs)
            if kwargs:
                task: asyncio.Task[Any] = base_events.tasks.Task(coro, loop=self, name=name, context=context, **kwargs)
            elif context is None:  # a call with a dict of arguments is 5 % of making a task and running it
                task = base_events.tasks.Task(coro, loop=self, name=name)
            else:
                task = base_events.tasks.Task(coro, loop=self, name=name, context=context)
            if self._debug:
                _drop_last_frame(task)
            recorder = self._recorder
            if recorder is not None:
                recorder.tasks.fresh.append(task)
            return task

        def _factory_task(
            self, coro: Coroutine[Any, Any, Any], name: Any, context: Context | None, kwargs: dict[str, Any]
        ) -> asyncio.Task[Any]:
            if context is not None:
                kwargs["context"] = context
            task: asyncio.Task[Any] = self._task_factory(self, coro, **kwargs)
            # A factory need not know of names: it is set afterwards. Up to 3.12 with a warning where it can't be.
            set_name = getattr(base_events.tasks, "_set_task_name", None)
            if set_name is not None:
                set_name(task, name)
            elif name is not None:
                task.set_name(name)
            if self._recorder is not None:
                self._recorder.tasks.factory_made(task)
            try:
                return task
            finally:
                # The traceback of an eager task's exception reaches this frame, which must not lead back to the task.
                del task

    def set_task_factory(self, factory: Any) -> None:
        """Sets what makes tasks; None for ``asyncio.Task``."""
        if factory is not None and not callable(factory):
            raise TypeError("task factory must be a callable or None")
        self._task_factory = factory

    def get_task_factory(self) -> Any:
        """The task factory, None where ``asyncio.Task`` is used."""
        return self._task_factory


_call_at = SchedulingMixin.call_at
