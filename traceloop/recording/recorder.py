"""The recorder of one loop: the seam between the event loop and the record.

The loop's inner iteration appends to ``records`` and looks into ``tasks`` and ``sites`` itself; everything rarer is a
method here. All of it runs in the loop's thread. A failure in here never reaches the application: it is logged once
to the ``traceloop`` logger, and the recording stops.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections import deque
from functools import partial
from gc import get_referents
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from ..core.site_of import code_of, inner_coroutine, site_of, site_of_coroutine, spelled_out, unwrap
from ..record import layout
from .application_spans import ApplicationSpans
from .external_runs import ForeignRuns
from .heaps.sampler import LoopSamples, sampler_of
from .heaps.timer_origins import CreationSites
from .offloads import anyio_threads
from .offloads.executors import offloads_of
from .process import Process, current_process
from .thresholds import threshold_of
from .watchdog.watchdog import Watchdog, watchdog_of

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE

_logger = logging.getLogger("traceloop")

_PYTHON_STEPS = frozenset(("_Task__step", "__step", "_Task__wakeup", "__wakeup"))
_RESULT = layout.OUTCOME * layout.OUTCOME_RESULT
_EXCEPTION = layout.OUTCOME * layout.OUTCOME_EXCEPTION
_CANCELLED = layout.OUTCOME * layout.OUTCOME_CANCELLED


_NOWHERE = -(1 << 52)

# A site of 0 means "not found" to the loop's look-up; a callback that has none runs under this one.
UNKNOWN = 1e-9


class _NoStep:
    """Stands for the type of a C task's step where tasks are written in Python."""


def _look_at_tasks() -> tuple[type, Any, int]:
    """How tasks of the C implementation look: the type of the callable by which they schedule their step; their own
    type; and where ``gc.get_referents`` shows their name, which from 3.12 on is an integer until somebody asks for the
    text (0: not looked for there). Where tasks are written in Python there is no such type.
    """

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
        # Named, since a name made up would be missing from the names of the program's own tasks.
        task = asyncio.Task(coro, loop=probe, name="probe")  # type: ignore[arg-type]
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        coro.close()
        kind = type(probe.step)
        if not hasattr(probe.step, "__self__") or kind is MethodType:
            return _NoStep, None, 0
        referents = get_referents(task) if sys.version_info >= (3, 12) else []
        # Behind its type, its context and its coroutine.
        return kind, asyncio.Task, 3 if referents[3:4] == ["probe"] else 0
    except Exception:
        coro.close()
        return _NoStep, None, 0


STEP_TYPE, PLAIN_TASK, NAME_PLACE = _look_at_tasks()

# The type of C methods that are given their defining class too, as a future's ``set_result`` is from 3.12 on.
C_METHOD_TYPE: type = next((kind for kind in BuiltinMethodType.__subclasses__() if kind is not STEP_TYPE), _NoStep)


class Recorder:
    """Records what one loop does. Made by ``make_recorder``; the ring is had when the loop first runs."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.records: list[float] = []
        #: Tasks of which another thread held the last reference: let go of in the loop's own thread.
        self.dropped_tasks: list[Any] = []
        #: What the records' text is; an integer stands for the automatic name of that number.
        self.text: list[str | int] = []
        #: Tasks that ``create_task`` made, until their first step: in the order in which these will be run.
        self.fresh: deque[Any] = deque()
        #: Tasks that a task factory made in the present run, announced at its end.
        self.created: list[Any] = []
        #: By the id of a handle in the ready queue: when other threads or a signal put it in, and the signal's number
        #: (0: another thread), first come first. Under 0, an empty list while there is something in ``created``: the
        #: loop looks at one thing only before each run.
        self.stamps: dict[int, list[tuple[float, int]]] = {}
        self.spans = ApplicationSpans(self.records, self.text)
        self.next_task = process.next_task
        self.sites = process.site_log.by_code
        self.step_type = STEP_TYPE
        self.ring = process.idle_ring
        self.words = self.ring.words
        #: Doubles written to the ring, ever: with those in ``records`` the place where the record stands. Far below 0
        #: while the loop does not run.
        self.written = _NOWHERE
        self.number = process.next_loop_number()
        self.offloads = offloads_of(process)
        anyio_threads.arrange()
        self.sampler = sampler_of(process)
        #: Seconds from which runs are slow, where the program does not say otherwise of its loop.
        self.general_threshold = process.settings.slow_threshold
        self._samples: LoopSamples | None = None
        self.timer_sites = CreationSites()
        self.foreign_runs = ForeignRuns()
        #: Whether ``loop_started`` was called, and not yet ``loop_stopped``.
        self.is_running = False
        self.tasks_created = 0  # besides those in ``fresh``
        self.tasks_finished = 0
        # Of ``tasks_finished``.
        self._tasks_failed = 0
        self._tasks_cancelled = 0
        self._tasks_abandoned = 0
        self.builtin_sites: dict[type, dict[str, float]] = {}
        self._watchdog: Watchdog | None = None
        self._broken = False

    # -- tasks

    def factory_task_created(self, task: Any) -> None:
        """A task factory made ``task``, which may have run, and ended, already."""
        try:
            if not task.done():
                self.created.append(task)
                self.stamps[0] = []
                return
        except Exception:  # what a task factory made need not be a task
            return
        self.tasks_created += 1
        self._task_ended_unseen(task)

    def _task_ended_unseen(self, task: Any) -> None:
        """``task`` ended in no run of its own."""
        self.tasks_finished += 1
        self.outcome_of(task)

    def first_step_done(self, task: Any, ident: float) -> float:
        """``task`` has made its first step, in a way that the loop does not settle by itself: it failed, was cancelled,
        or is no task of the usual type. Returns what is added to the length of the queue in the run's record.
        """
        flags = layout.FIRST
        try:
            if not task.done():
                task._loop_ident = ident
            else:
                self.tasks_finished += 1
                flags += self.outcome_of(task)
        except Exception:  # something task-like that cannot carry a number
            flags = layout.FIRST
        try:
            name = task.get_name() or " "
        except Exception:
            name = " "
        self.text.append(name)
        return flags

    def define_created(self) -> None:
        """Announces the tasks that a task factory made in the run just ended; by now they have their names."""
        for task in self.created:
            self.define_task(task, 1.0)
        self.created.clear()
        self.stamps.pop(0, None)

    def define_task(self, task: Any, made_by: float = 0.0) -> float:
        """Gives ``task`` a number and announces it; called for those made directly at their first step."""
        if task in self.fresh:
            # Not in its turn: whoever runs handles in an order of his own. Those before it may come, or never.
            made_by = 2.0
            while True:
                other = self.fresh.popleft()
                if other is task:
                    break
                self._define(other, made_by)
        return self._define(task, made_by)

    def _define(self, task: Any, made_by: float) -> float:
        try:
            try:
                site = self.sites[id(task.get_coro().cr_code)]
            except (AttributeError, KeyError):
                site = self.coroutine_site(task)
            ident = self.next_task() + site
            task._loop_ident = ident
            self.records += (ident, layout.R_TASK, made_by)
            self.text.append(task.get_name())
            self.tasks_created += 1
            return ident
        except Exception:  # something task-like that cannot carry a number
            return UNKNOWN

    def _forget_strangers(self) -> None:
        # Run to their end by somebody else (nest_asyncio): kept here they would keep their results alive.
        while self.fresh and self.fresh[0].done():
            task = self.fresh.popleft()
            self._define(task, 2.0)
            self._task_ended_unseen(task)

    def _define_fresh(self) -> None:
        """Announces the tasks that will not make a step, or none that is recorded."""
        while self.fresh:
            self._define(self.fresh.popleft(), 2.0)

    def task_destroyed(self, task: Any) -> None:
        """``task`` was destroyed while it was pending, as the exception handler is told."""
        ident = getattr(task, "_loop_ident", 0.0)
        if ident and not task.done():
            self._tasks_abandoned += 1
            self.records += (ident, layout.R_ABANDONED, 0.0)

    def coroutine_site(self, task: Any) -> float:
        """The site of a task whose coroutine's code is met for the first time, or has none."""
        try:
            coro = task.get_coro()
            inner = inner_coroutine(coro)
            site = self.process.site_log.number(site_of_coroutine(inner))
            code = getattr(coro, "cr_code", None)
            if isinstance(code, CodeType) and inner is coro:
                self.process.site_log.remember(code, site)
            return site
        except Exception:
            return 0.0

    def outcome_of(self, task: Any) -> float:
        """The outcome of a task whose step has just been its last, as it is added to the run's record.

        Asked for once a task, where it is not a result: it is counted here.
        """
        try:
            # Not ``exception()``: that would mark it as retrieved.
            if task._exception is not None:
                self._tasks_failed += 1
                return _EXCEPTION
            if task.cancelled():
                self._tasks_cancelled += 1
                return _CANCELLED
        except Exception:  # something task-like
            pass
        return _RESULT

    # -- who runs

    def identify(self, callback: Any) -> float:
        """The ident of a callback that the loop did not find at once; never 0."""
        try:
            return self._identify(callback) or UNKNOWN
        except Exception:
            return UNKNOWN

    def _identify(self, callback: Any) -> float:
        kind = type(callback)
        if kind is self.step_type:
            task = callback.__self__
            return getattr(task, "_loop_ident", 0.0) or self.define_task(task)
        if kind is BuiltinMethodType or kind is C_METHOD_TYPE:
            return self.identify_builtin(callback, callback.__self__)
        if kind is partial:
            function = callback.func
            number = self.sites.get(id(function.__code__)) if type(function) is FunctionType else None
            if number is not None:
                return number
        elif kind is MethodType:
            function = callback.__func__
            if type(function) is FunctionType:
                number = self.sites.get(id(function.__code__))
                if number is not None and function.__name__ not in _PYTHON_STEPS:
                    return number
                task = callback.__self__
                if function.__name__ in _PYTHON_STEPS and isinstance(task, asyncio.Future):
                    return getattr(task, "_loop_ident", 0.0) or self.define_task(task)
        function = unwrap(callback)
        code = code_of(function)
        if code is None:
            return self.process.site_log.number(site_of(function))
        number = self.sites.get(id(code))
        if number is None:
            number = self.process.site_log.number(site_of(function))
            self.process.site_log.remember(code, number)
        return number

    def identify_builtin(self, callback: Any, owner: Any) -> float:
        """The ident of a C function or of a C method of ``owner``; never 0."""
        name = callback.__name__
        names = self.builtin_sites.get(type(owner))
        if names is not None and name in names:
            return names[name]
        try:
            return self._name_builtin(callback, owner, name)
        except Exception:
            return UNKNOWN

    def _name_builtin(self, callback: Any, owner: Any, name: str) -> float:
        if name == "task_wakeup":
            return getattr(owner, "_loop_ident", 0.0) or self.define_task(owner)
        number = self.process.site_log.number(site_of(callback)) or UNKNOWN
        kind = type(owner)
        # Types that live as long as the interpreter; a user's own must not be kept alive from here. Not modules: those
        # of one name in two of them are two functions.
        if kind is not ModuleType and (not kind.__flags__ & _HEAP_TYPE or kind.__module__ in sys.stdlib_module_names):
            self.builtin_sites.setdefault(kind, {})[name] = number
        return number

    def stamped(self, handle: Any) -> None:
        """``handle``, which has a stamp, is run next: it was put in by another thread or by a signal."""
        waiting = self.stamps[id(handle)]
        when, signal_number = waiting.pop(0)
        if not waiting:
            del self.stamps[id(handle)]
        if signal_number:
            self.records += (when, layout.R_SIGNAL, float(signal_number))
        else:
            self.records += (when, layout.R_STAMP, 0.0)

    # -- the loop's life

    def others_turn(self, loop: Any) -> None:
        """Somebody asks the loop for one iteration; perhaps nobody has said that it runs."""
        if not self.is_running:
            self.foreign_runs.started = True
            self.loop_started(loop)

    def others_stopped(self, loop: Any) -> None:
        """Whoever turned the loop by himself has ended, or the loop is being closed."""
        if self.foreign_runs.started:
            self.foreign_runs.started = False
            self.loop_stopped(loop)

    def loop_started(self, loop: Any) -> None:
        """The loop begins to run in this thread."""
        self.is_running = True
        try:
            is_new = self.ring is self.process.idle_ring
            if is_new:
                self._take_ring(loop)
            self.written = 3 * self.ring.records
            now = loop.time()
            self.words[layout.W_THREAD] = threading.get_native_id()
            self.words[layout.W_THRESHOLD] = threshold_of(loop, self.general_threshold)
            self._samples = self.sampler.loop_started(loop)
            self.spans.forget_current()
            if self.created:
                self.define_created()
            self.records += (now, layout.R_RUN, float(len(loop._ready)))
            if is_new:  # written at once: its first handle may block, and who it is must be known then
                self.flush(loop, now)
            watchdog = watchdog_of(self.process)
            self._watchdog = watchdog
            if watchdog is not None:
                watchdog.watch(self, loop)
        except Exception as error:
            self._fail(error)

    def _take_ring(self, loop: Any) -> None:
        self.ring = self.process.take_ring()
        self.words = self.ring.words
        self.words[layout.W_OPEN] = 1.0
        self.words[layout.W_LOOP] = self.number
        name = threading.current_thread().name
        now = loop.time()
        self.ring.tell_owner(self.number, now, name)
        self.records += (now, layout.R_LOOP, float(self.number))
        self.text.append(name)

    def loop_stopped(self, loop: Any) -> None:
        """The loop stopped running; what it recorded is in the ring afterwards."""
        self.is_running = False
        self.written = _NOWHERE
        watchdog = watchdog_of(self.process)
        if watchdog is not None:
            watchdog.unwatch(loop)
        now = loop.time()
        self.records += (now, layout.R_END, 0.0)
        self.flush(loop, now)
        try:
            self.words[layout.W_RUNNING] = 0.0
            self.sampler.settle()
        except Exception as error:
            self._fail(error)

    def loop_closed(self, loop: Any) -> None:
        """The loop was closed: its ring is free for the next one."""
        if self.ring is self.process.idle_ring:
            self.fresh.clear()
            self.created.clear()
            self.stamps.clear()
            return
        self._abandon_tasks(loop)
        now = loop.time()
        self._record_last_words(loop)
        self.records += (now, layout.R_END, 1.0)
        self.flush(loop, now)
        if self._samples is not None:
            self.sampler.loop_closed(self._samples)
            self._samples = None
        self.stamps.clear()
        ring = self.ring
        self.ring = self.process.idle_ring
        self.words = self.ring.words
        try:
            ring.words[layout.W_RUNNING] = 0.0
            ring.words[layout.W_OPEN] = ring.words[layout.W_LOOP] = 0.0
            for index in layout.COUNTER_WORDS:
                ring.words[index] = 0.0
            self.process.give_ring(ring)
            watchdog = watchdog_of(self.process)
            if watchdog is not None:
                watchdog.loop_closed()
        except Exception as error:
            self._fail(error)

    def _abandon_tasks(self, loop: Any) -> None:
        try:
            if self.created:
                self.define_created()
            self._define_fresh()
            for task in asyncio.all_tasks(loop):
                self.task_destroyed(task)
        except Exception as error:
            self._fail(error)
        # Some went without a word (those whose maker asked that no warning be logged).
        ended = self.tasks_finished + self._tasks_abandoned
        self._tasks_abandoned += max(0, self.tasks_created - ended)

    def _record_last_words(self, loop: Any) -> None:
        # A reader that looks now and then may never see the words of a short-lived loop.
        try:
            self._write_gauges(loop)
            for index in layout.COUNTER_WORDS:
                if self.words[index]:
                    self.records += (index, layout.R_WORD, self.words[index])
        except Exception as error:
            self._fail(error)

    def flush(self, loop: Any, now: float) -> None:
        """Writes the waiting records into the ring, and the loop's gauges into its words."""
        if self.dropped_tasks:
            self.dropped_tasks.clear()
        if not self._broken:
            try:
                self.spans.refresh()
                if self._samples is not None:
                    self.sampler.flush(self._samples)
                if self.fresh:
                    self._forget_strangers()
                self._write_gauges(loop)
                watchdog = self._watchdog
                if watchdog is not None and watchdog.paused:
                    watchdog.resume()
            except Exception as error:
                self._fail(error)
        self.write(now)

    def write(self, now: float) -> None:
        """Writes the waiting records into the ring: what of a flush a busy loop needs more often than its gauges."""
        records = self.records
        text = self.text
        if not self._broken:
            try:
                self.ring.write(records, spelled_out(text), now)
                if self.is_running:
                    self.written = 3 * self.ring.records
            except Exception as error:
                self._fail(error)
        written = len(records) // 3
        records.clear()
        text.clear()
        self.spans.batch_written(written, self.ring.capacity // (4 * 24))

    def _write_gauges(self, loop: Any) -> None:
        words = self.words
        words[layout.W_THRESHOLD] = threshold_of(loop, self.general_threshold)
        words[layout.W_TIMERS] = len(loop._timer_heap)
        words[layout.W_TIMERS_CANCELLED] = loop._timer_cancelled_count
        words[layout.W_COMPACTIONS] = loop._timer_compactions
        words[layout.W_TASKS_CREATED] = self.tasks_created + len(self.fresh)
        words[layout.W_TASKS_RESULT] = self.tasks_finished - self._tasks_failed - self._tasks_cancelled
        words[layout.W_TASKS_EXCEPTION] = self._tasks_failed
        words[layout.W_TASKS_CANCELLED] = self._tasks_cancelled
        words[layout.W_TASKS_ABANDONED] = self._tasks_abandoned
        io = getattr(loop, "_io", None)
        if io is not None:
            words[layout.W_BYTES_IN] = io.bytes_in
            words[layout.W_BYTES_OUT] = io.bytes_out
            words[layout.W_TRANSPORTS] = io.open_transports
            words[layout.W_STREAMS] = io.stream
            words[layout.W_TLS] = io.tls
            words[layout.W_DATAGRAMS] = io.datagram
            words[layout.W_PIPES] = io.pipe
            words[layout.W_ACCEPTED] = io.accepted
            words[layout.W_REFUSED] = io.refused
            words[layout.W_PAUSED_SECONDS] = io.paused_s
            words[layout.W_PAUSED] = io.paused
            words[layout.W_PAUSED_SINCE] = io.paused_since
            words[layout.W_TLS_HANDSHAKES] = io.tls_handshakes
            words[layout.W_TLS_SECONDS] = io.tls_handshake_s

    def _fail(self, error: Exception) -> None:
        if not self._broken:
            self._broken = True
            _logger.error("traceloop: recording failed and has stopped; the application runs on", exc_info=error)


def make_recorder(loop: Any) -> Recorder | None:
    """The recorder of a new loop, None where this process does not record or recording cannot be set up."""
    try:
        process = current_process()
        return Recorder(process) if process is not None else None
    except Exception as error:
        _logger.error("traceloop: recording could not be started; the application runs on", exc_info=error)
        return None
