"""The life of the loop around its iterations: debug mode, asynchronous generators, and the exception handler.

Names, keys and texts that reach users (log lines, keys of an exception context) are those of
``asyncio.base_events``, and its logger is looked up there for each message, so that a
replaced logger is used.
"""

from __future__ import annotations

import sys
import threading
import traceback
import warnings
import weakref
from asyncio import base_events, constants, coroutines, events
from collections.abc import AsyncGenerator, Callable
from typing import Any

from ..recording.swallowed import note_unhandled
from .loop_part import LoopPart

ExceptionContext = dict[str, Any]
ExceptionHandler = Callable[[Any, ExceptionContext], object]


class LifecycleMixin(LoopPart):
    """Debug mode, asynchronous generators, exception handler. For the loop's own thread."""

    _closed: bool
    _debug: bool
    _checks_calls: bool
    _thread_id: int | None
    _exception_handler: ExceptionHandler | None
    _asyncgens: weakref.WeakSet[AsyncGenerator[Any, Any]]
    _asyncgens_shutdown_called: bool
    _old_agen_hooks: Any
    _coroutine_origin_tracking_enabled: bool
    _coroutine_origin_tracking_saved_depth: int | None
    slow_callback_duration: float

    def _init_lifecycle(self) -> None:
        self._closed = False
        self._stopping = False
        self._thread_id = None
        self._current_handle = None
        self._exception_handler = None
        # Seconds from which a callback counts as slow; users set it.
        self.slow_callback_duration = 0.1
        self._asyncgens = weakref.WeakSet()
        self._asyncgens_shutdown_called = False
        self._old_agen_hooks = None
        self._coroutine_origin_tracking_enabled = False
        self._coroutine_origin_tracking_saved_depth = None
        self.set_debug(coroutines._is_debug_mode())  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} running={self.is_running()} closed={self.is_closed()} debug={self.get_debug()}>"

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        # A constructor that raised leaves a loop that was never open.
        if not getattr(self, "_closed", True):
            _warn(f"unclosed event loop {self!r}", ResourceWarning, source=self)
            if not self.is_running():
                self.close()

    def is_running(self) -> bool:
        """True while ``run_forever`` is under way."""
        return self._thread_id is not None

    def is_closed(self) -> bool:
        """True once ``close()`` was called."""
        return self._closed

    def _check_closed(self) -> None:
        if self._closed:
            raise RuntimeError("Event loop is closed")

    def _check_running(self) -> None:
        if self.is_running():
            raise RuntimeError("This event loop is already running")
        if events._get_running_loop() is not None:
            raise RuntimeError("Cannot run the event loop while another loop is running")

    # -- around run_forever

    def _run_forever_setup(self) -> None:
        """Makes this loop the running one of its thread. Loops that drive a GUI call it themselves (since
        3.13)."""
        self._check_closed()
        self._check_running()
        self._set_coroutine_origin_tracking(self._debug)
        self._old_agen_hooks = sys.get_asyncgen_hooks()
        self._thread_id = threading.get_ident()
        sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)
        events._set_running_loop(self)  # type: ignore[arg-type]

    def _run_forever_cleanup(self) -> None:
        """Undoes ``_run_forever_setup``; also where that one raised half way."""
        self._stopping = False
        self._thread_id = None
        events._set_running_loop(None)
        self._set_coroutine_origin_tracking(False)
        if self._old_agen_hooks is not None:
            sys.set_asyncgen_hooks(*self._old_agen_hooks)
            self._old_agen_hooks = None

    # -- debug mode

    def get_debug(self) -> bool:
        """Whether the loop is in debug mode."""
        return self._debug

    def set_debug(self, enabled: bool) -> None:
        """Switches debug mode: threads and callbacks are checked, slow ones logged, tracebacks of origin
        kept."""
        self._debug = enabled
        self._checks_calls = bool(enabled) or self._closed
        if self.is_running():
            # The depth of origins belongs to the thread that runs the loop, which may not be this one.
            self.call_soon_threadsafe(self._set_coroutine_origin_tracking, enabled)

    def _set_coroutine_origin_tracking(self, enabled: bool) -> None:
        if bool(enabled) == bool(self._coroutine_origin_tracking_enabled):
            return
        if enabled:
            self._coroutine_origin_tracking_saved_depth = sys.get_coroutine_origin_tracking_depth()
            sys.set_coroutine_origin_tracking_depth(constants.DEBUG_STACK_DEPTH)
        else:
            sys.set_coroutine_origin_tracking_depth(self._coroutine_origin_tracking_saved_depth or 0)
        self._coroutine_origin_tracking_enabled = enabled

    # -- asynchronous generators

    def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        if self._asyncgens_shutdown_called:
            warnings.warn(
                f"asynchronous generator {agen!r} was scheduled after loop.shutdown_asyncgens() call",
                ResourceWarning,
                source=self,
                stacklevel=1,
            )
        self._asyncgens.add(agen)

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        # The collector calls this in whatever thread it happens to run in.
        self._asyncgens.discard(agen)
        if not self.is_closed():
            self.call_soon_threadsafe(self.create_task, agen.aclose())

    async def shutdown_asyncgens(self) -> None:
        """Closes every asynchronous generator that this loop has begun and not ended."""
        self._asyncgens_shutdown_called = True
        if not self._asyncgens:
            return
        closing = list(self._asyncgens)
        self._asyncgens.clear()
        results = await base_events.tasks.gather(  # type: ignore[attr-defined]
            *[agen.aclose() for agen in closing], return_exceptions=True
        )
        for agen, result in zip(closing, results, strict=True):
            if isinstance(result, Exception):
                self.call_exception_handler(
                    {
                        "message": f"an error occurred during closing of asynchronous generator {agen!r}",
                        "exception": result,
                        "asyncgen": agen,
                    }
                )

    # By this name pytest-asyncio ignores the warning that it was never awaited, where a test has closed its loop.
    shutdown_asyncgens.__qualname__ = "BaseEventLoop.shutdown_asyncgens"

    # -- the exception handler

    def get_exception_handler(self) -> ExceptionHandler | None:
        """The handler that was set, None where the default one is in use."""
        return self._exception_handler

    def set_exception_handler(self, handler: ExceptionHandler | None) -> None:
        """Sets ``handler(loop, context)`` as the handler of errors that no code awaits; None for the
        default one."""
        if handler is not None and not callable(handler):
            raise TypeError(f"A callable object or None is expected, got {handler!r}")
        self._exception_handler = handler

    def default_exception_handler(self, context: ExceptionContext) -> None:
        """Logs the error, with everything that ``context`` has to say about it."""
        exception = context.get("exception")
        if "source_traceback" not in context:
            handle = self._current_handle
            if handle is not None and handle._source_traceback:
                context["handle_traceback"] = handle._source_traceback
        lines = [context.get("message") or "Unhandled exception in event loop"]
        for key in sorted(context):
            if key in ("message", "exception"):
                continue
            value = context[key]
            if key in _ORIGINS:
                text = f"{_ORIGINS[key]} created at (most recent call last):\n"
                text += "".join(traceback.format_list(value)).rstrip()
            else:
                text = repr(value)
            lines.append(f"{key}: {text}")
        exc_info = False if exception is None else (type(exception), exception, exception.__traceback__)
        _log_error("\n".join(lines), exc_info=exc_info)

    def call_exception_handler(self, context: ExceptionContext) -> None:
        """Calls the exception handler with an error that no code awaits. Only SystemExit and
        KeyboardInterrupt pass.

        Keys of ``context``: ``message``, and where there are such ``exception``, ``future``, ``task``,
        ``handle``, ``protocol``, ``transport``, ``socket``, ``asyncgen``, ``source_traceback``,
        ``handle_traceback``.
        """
        note_unhandled(context)
        if self._recorder is not None and isinstance(context, dict) and "task" in context:
            self._recorder.tasks.destroyed(context["task"])
        if self._exception_handler is None:
            try:
                self.default_exception_handler(context)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException:
                # A subclass may have put its own in place of the default one.
                _log_error("Exception in default exception handler", exc_info=True)
            return
        try:
            _call_in_origin_context(self._exception_handler, self, context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            try:
                self.default_exception_handler(
                    {
                        "message": "Unhandled error in exception handler",
                        "exception": error,
                        "context": context,
                    }
                )
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException:
                _log_error(
                    "Exception in default exception handler while handling an unexpected error in custom "
                    "exception handler",
                    exc_info=True,
                )


_ORIGINS = {"source_traceback": "Object", "handle_traceback": "Handle"}


def _log_error(text: str, **options: Any) -> None:
    base_events.logger.error(text, **options)  # type: ignore[attr-defined]


def _call_in_origin_context(handler: ExceptionHandler, loop: Any, context: ExceptionContext) -> None:
    """Runs the handler in the context of the task or handle that failed; from 3.12 on, where these tell theirs."""
    if sys.version_info < (3, 12):
        handler(loop, context)
        return
    origin = context.get("task")
    if origin is None:
        # A task stands under "future" where the code that noticed knows only futures.
        origin = context.get("future")
    if origin is None:
        origin = context.get("handle")
    get_context = getattr(origin, "get_context", None)
    own_context = get_context() if get_context is not None else None
    if own_context is not None and hasattr(own_context, "run"):
        own_context.run(handler, loop, context)
    else:
        handler(loop, context)
