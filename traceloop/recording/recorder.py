"""The recorder of one loop: the seam between the event loop and the record.

The loop's inner iteration appends to ``records`` and looks into ``tasks`` and ``sites`` itself; everything rarer is a
method here. All of it runs in the loop's thread. A failure in here never reaches the application: it is logged once
to the ``traceloop`` logger, and the recording stops.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from . import layout
from .naming import code_of, site_of, site_of_code, site_of_coroutine, unwrap
from .offloads import offloads_of
from .process import Process, current_process
from .watchdog import watchdog_of

_logger = logging.getLogger("traceloop")

_PYTHON_STEPS = frozenset(("_Task__step", "__step", "_Task__wakeup", "__wakeup"))
_RESULT = layout.OUTCOME * layout.OUTCOME_RESULT
_EXCEPTION = layout.OUTCOME * layout.OUTCOME_EXCEPTION
_CANCELLED = layout.OUTCOME * layout.OUTCOME_CANCELLED


class _NoStep:
    """Stands for the type of a C task's step where tasks are written in Python."""


def _find_step_type() -> type:
    """The type of the callable by which a task of the C implementation schedules its step."""

    class Probe:
        step: Any = None

        def get_debug(self) -> bool:
            return False

        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> None:
            self.step = callback

        def is_running(self) -> bool:
            return False

    async def nothing() -> None:
        pass

    probe = Probe()
    coro = nothing()
    try:
        task = asyncio.Task(coro, loop=probe)  # type: ignore[arg-type]
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        coro.close()
        kind = type(probe.step)
        return kind if hasattr(probe.step, "__self__") and kind is not MethodType else _NoStep
    except Exception:
        coro.close()
        return _NoStep


STEP_TYPE = _find_step_type()


class _TaskReference(weakref.ref[Any]):
    """Tells when a task is gone without having ended: its ident must not outlive it."""

    __slots__ = ("key",)
    key: int


class Recorder:
    """Records what one loop does. Made by ``make_recorder``; the ring is had when the loop first runs."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.records: list[float] = []
        self.text: list[str] = []
        self.tasks: dict[int, float] = {}
        self._references: dict[int, _TaskReference] = {}
        self._gone: list[_TaskReference] = []
        self.sites = process.site_log.by_code
        self.step_type = STEP_TYPE
        self.ring = process.idle_ring
        self.words = self.ring.words
        self.number = process.next_loop_number()
        self.offloads = offloads_of(process)
        self._tasks_created = 0
        self._tasks_eager_finished = 0
        self._tasks_abandoned = 0
        self._named_sites: dict[Any, float] = {}
        self._broken = False

    # -- tasks

    def task_created(self, task: Any) -> None:
        """``create_task`` made ``task``. An eager one may have ended already."""
        self._tasks_created += 1
        try:
            if task.done():
                self._tasks_eager_finished += 1
            else:
                # Also overwrites what an earlier task at this address may have left.
                self.tasks[id(task)] = 0.0
        except Exception:  # what a task factory made need not be a task
            pass

    def _define_task(self, task: Any) -> float:
        if self._gone:
            self._retire()
        key = id(task)
        made_by_loop = key in self.tasks
        coro = task.get_coro()
        # Most coroutines come from an ``async def``: one look-up finds their site.
        code = getattr(coro, "cr_code", None)
        number = self.sites.get(id(code)) if code is not None else None
        if number is None:
            number = self.process.site_log.number(site_of_coroutine(coro))
            if code is not None:
                self.process.site_log.remember(code, number)
        ident = self.process.next_task_number() * layout.SITES + number
        self.tasks[key] = ident
        reference = _TaskReference(task, self._gone.append)
        reference.key = key
        self._references[key] = reference
        if not made_by_loop:
            self._tasks_created += 1
        self.records += (ident, layout.R_TASK, 1.0 if made_by_loop else 0.0)
        self.text.append(task.get_name() if hasattr(task, "get_name") else "")
        return ident

    def task_finished(self, task: Any) -> float:
        """The outcome of a task whose step has just been its last, as it is added to the run's record."""
        key = id(task)
        self.tasks.pop(key, None)
        self._references.pop(key, None)
        if task.cancelled():
            return _CANCELLED
        # Not ``exception()``: that would mark it as retrieved.
        return _RESULT if task._exception is None else _EXCEPTION

    def _retire(self) -> None:
        """Forgets tasks that were destroyed while pending."""
        while self._gone:
            reference = self._gone.pop()
            key = reference.key
            if self._references.get(key) is reference:
                del self._references[key]
                ident = self.tasks.pop(key, 0.0)
                self._tasks_abandoned += 1
                self.records += (ident, layout.R_ABANDONED, 0.0)

    # -- who runs

    def identify(self, callback: Any, args: Any) -> float:
        """The ident of a callback that the loop did not find at once."""
        try:
            return self._identify(callback)
        except Exception:
            return 0.0 + layout.SITES * 0 or self.process.site_log.number(site_of(callback))

    def _identify(self, callback: Any) -> float:
        kind = type(callback)
        if kind is self.step_type:
            task = callback.__self__
            return self.tasks.get(id(task)) or self._define_task(task)
        if kind is BuiltinMethodType:
            owner = callback.__self__
            if callback.__name__ == "task_wakeup":
                return self.tasks.get(id(owner)) or self._define_task(owner)
            key = (callback.__name__, type(owner) if not isinstance(owner, type) else owner)
            number = self._named_sites.get(key)
            if number is None:
                number = self._named_sites[key] = self.process.site_log.number(site_of(callback)) or 1e-9
            return number
        if kind is MethodType:
            function = callback.__func__
            if type(function) is FunctionType:
                if isinstance(callback.__self__, asyncio.Task) and function.__name__ in _PYTHON_STEPS:
                    task = callback.__self__
                    return self.tasks.get(id(task)) or self._define_task(task)
                number = self.sites.get(id(function.__code__))
                if number is not None:
                    return number
        function = unwrap(callback)
        code = code_of(function)
        if code is None:
            return self.process.site_log.number(site_of(function)) or UNKNOWN
        number = self.sites.get(id(code))
        if number is None:
            if type(function) is FunctionType:
                module = function.__module__
                site = site_of_code(code, module if isinstance(module, str) else "")
            else:
                site = site_of(function)
            number = self.process.site_log.number(site) or UNKNOWN
            self.process.site_log.remember(code, number)
        return number

    def stamped(self, stamp: tuple[float, int], handle: Any) -> None:
        """The run that follows was put in by another thread (signal number 0) or by a signal."""
        when, signal_number = stamp
        if signal_number:
            self.records += (when, layout.R_SIGNAL, float(signal_number))
        else:
            self.records += (when, layout.R_STAMP, 0.0)

    # -- the loop's life

    def loop_started(self, loop: Any) -> None:
        """The loop begins to run in this thread."""
        try:
            if self.ring is self.process.idle_ring:
                self._take_ring(loop)
            now = loop.time()
            self.words[layout.W_THREAD] = threading.get_native_id()
            self.words[layout.W_THRESHOLD] = loop.slow_callback_duration
            self.records += (now, layout.R_RUN, float(len(loop._ready)))
            watchdog = watchdog_of(self.process)
            if watchdog is not None:
                watchdog.watch(self, loop)
        except Exception as error:
            self._fail(error)

    def _take_ring(self, loop: Any) -> None:
        self.ring = self.process.take_ring()
        self.words = self.ring.words
        self.words[layout.W_OPEN] = 1.0
        name = threading.current_thread().name
        self.records += (loop.time(), layout.R_LOOP, float(self.number))
        self.text.append(name)

    def loop_stopped(self, loop: Any) -> None:
        """The loop stopped running; what it recorded is in the ring afterwards."""
        watchdog = watchdog_of(self.process)
        if watchdog is not None:
            watchdog.unwatch(loop)
        now = loop.time()
        self.records += (now, layout.R_END, 0.0)
        self.flush(loop, now)
        try:
            self.words[layout.W_RUNNING] = 0.0
        except Exception as error:
            self._fail(error)

    def loop_closed(self, loop: Any) -> None:
        """The loop was closed: its ring is free for the next one."""
        if self.ring is self.process.idle_ring:
            return
        self._retire()
        for ident in self.tasks.values():
            self._tasks_abandoned += 1
            if ident:
                self.records += (ident, layout.R_ABANDONED, 0.0)
        self.tasks.clear()
        self._references.clear()
        now = loop.time()
        self.records += (now, layout.R_END, 1.0)
        self.flush(loop, now)
        ring = self.ring
        self.ring = self.process.idle_ring
        self.words = self.ring.words
        try:
            ring.words[layout.W_RUNNING] = 0.0
            ring.words[layout.W_OPEN] = 0.0
            self.process.give_ring(ring)
        except Exception as error:
            self._fail(error)

    def flush(self, loop: Any, now: float) -> None:
        """Writes the waiting records into the ring, and the loop's gauges into its words."""
        records = self.records
        text = self.text
        if not self._broken:
            try:
                if self._gone:
                    self._retire()
                if self.offloads is not None and self.offloads.pending:
                    self.offloads.drain(now, wait=False)
                self._write_gauges(loop)
                self.ring.write(records, text, now)
            except Exception as error:
                self._fail(error)
        records.clear()
        text.clear()

    def _write_gauges(self, loop: Any) -> None:
        words = self.words
        words[layout.W_THRESHOLD] = loop.slow_callback_duration
        words[layout.W_TIMERS] = len(loop._timer_heap)
        words[layout.W_TIMERS_CANCELLED] = loop._timer_cancelled_count
        words[layout.W_COMPACTIONS] = loop._timer_compactions
        words[layout.W_TASKS_CREATED] = self._tasks_created
        words[layout.W_TASKS_EAGER_FINISHED] = self._tasks_eager_finished
        words[layout.W_TASKS_ABANDONED] = self._tasks_abandoned

    def _fail(self, error: Exception) -> None:
        if not self._broken:
            self._broken = True
            _logger.error("traceloop: recording failed and has stopped; the application runs on", exc_info=error)


# A site number of 0 means "not found" to the loop's look-up; a callback that has no site runs under this one.
UNKNOWN = 1e-9


def make_recorder(loop: Any) -> Recorder | None:
    """The recorder of a new loop, None where this process does not record or recording cannot be set up."""
    try:
        process = current_process()
        return Recorder(process) if process is not None else None
    except Exception as error:
        _logger.error("traceloop: recording could not be started; the application runs on", exc_info=error)
        return None
