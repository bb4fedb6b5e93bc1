"""What is handed to executors: submit, start in the worker, end, and the delivery to the loop.

The facts that shape it:

* A plain thread pool runs ``work_item.fn(*args)``. There the function is run by ``Offload.run``, in the worker, which
  notes start and end. It takes itself out of the traceback of an exception: a bare ``raise`` in an ``except`` block
  does not add the frame again.
* A process pool pickles the function, and a custom executor or a subclass with a ``submit`` of its own may look at it:
  these get what the caller gave. Their start is the moment the concurrent future turns to running, their end the
  moment it is done.
* A process pool's future turns to running when its call is put into the queue that the processes share, which takes
  one more than there are processes. So no more than ``max_workers`` of them count as started at a time, in order.
  That start has no worker. Where the worker took notes (``process_pools``) it is told again at the end, with both.
* Writing to the process ring costs a few microseconds, an offload in all perhaps 50. Workers therefore leave their
  records in a list that the loop writes when it flushes, and write it themselves where no loop is about to: when it
  waits in its poll, or has not flushed for a while because something blocks it.

The delivery does what ``asyncio.wrap_future`` does, with the delivery's time noted on the way.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import re
import sys
import threading
import weakref
from asyncio import base_events
from collections import deque
from collections.abc import Callable
from contextvars import Context
from time import monotonic
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from ...core.site_of import code_of, inner_function, site_of, site_of_code, unwrap
from ...record import layout
from ..outbox import LIMIT, UNATTENDED_SECONDS, outbox_of
from ..process import Process
from . import process_pools

_futures: Any = base_events.futures  # type: ignore[attr-defined]
_copy_state: Any = getattr(_futures, "_copy_future_state", None)
_thread_submit = concurrent.futures.ThreadPoolExecutor.submit

_RESULT = layout.OUTCOME * layout.OUTCOME_RESULT
_EXCEPTION = layout.OUTCOME * layout.OUTCOME_EXCEPTION
_CANCELLED = layout.OUTCOME * layout.OUTCOME_CANCELLED

# Definitions of executors and workers are repeated, since the ring that holds them is overwritten in time.
_REPEAT_SECONDS = 30.0
_MAX_PROCESSES = 1000
# A watched future's attribute.
_OFFLOAD = "_traceloop_offload"
_RAN = "_traceloop_ran"
_AUTOMATIC_PREFIX = re.compile(r"ThreadPoolExecutor-\d+$")


class ExecutorEntry:
    """What is known of one executor. ``workers``: as last told."""

    __slots__ = (
        "active_numbers",
        "defined_at",
        "executor_type",
        "in_call_queue",
        "label",
        "limit",
        "lock",
        "number",
        "reference",
        "workers",
    )

    def __init__(self, number: int, label: str, limit: int, executor_type: type) -> None:
        self.number = number
        self.label = label
        self.limit = limit
        self.executor_type = executor_type
        self.reference: weakref.ref[Any] | None = None
        self.defined_at = -1e9
        self.workers = 0
        self.lock = threading.Lock()
        # Calls of a process pool: those that a process has, and those that wait in the shared queue.
        self.active_numbers: set[int] = set()
        self.in_call_queue: deque[Offload] = deque()


class Offloads:
    """The offloads of one process. Its methods say from which threads they may be called."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.outbox = outbox_of(process)
        self._numbers = itertools.count(1)
        self._worker_numbers = itertools.count(1)
        self._local = threading.local()
        self._worker_processes: dict[int, tuple[float, float]] = {}
        self._executors: dict[int, ExecutorEntry] = {}
        self._executor_numbers = itertools.count(1)
        self._labels: set[str] = set()
        self._executors_lock = threading.Lock()
        self._builtins: dict[int, tuple[Any, float]] = {}
        self._by_code = process.site_log.by_code
        self.next_number = self._numbers.__next__

    # -- submitting: in the thread that calls run_in_executor

    def submit(
        self, loop: Any, recorder: Any, executor: Any, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> asyncio.Future[Any]:
        """Hands ``function(*args)`` to ``executor``; returns the loop's future of it.

        Raises what ``executor.submit`` raises; nothing is recorded then.
        """
        entry = self._executors.get(id(executor))
        if entry is None or entry.executor_type is not type(executor):
            entry = self._new_entry(loop, executor)
        number = self.next_number()
        site = self._by_code.get(id(function.__code__)) if type(function) is FunctionType else None
        if site is None:
            site = self.site_number(function, args)
        offload = Offload(self, recorder, loop, entry, number)
        now = monotonic()
        if type(executor).submit is _thread_submit:
            source = executor.submit(offload.run, function, *args)
        else:
            source = executor.submit(function, *args)
        self.note_submit(loop, recorder, entry, now, number, site)
        self._note_workers(loop, recorder, entry, executor)
        if not isinstance(source, concurrent.futures.Future):
            # asyncio futures are let through by wrap_future, other things refused: it shall say so itself.
            offload.finished = True
            end = monotonic()
            self.note((now, layout.R_START, number, end, layout.R_FINISH, number + _RESULT))
            self.note((end, layout.R_DELIVER, number))
            future: asyncio.Future[Any] = _futures.wrap_future(source, loop=loop)
            return future
        if type(executor).submit is not _thread_submit:
            offload.watch(source, now)
        future = loop.create_future()
        offload.future = future
        offload.source = source
        future.add_done_callback(offload.future_done)
        source.add_done_callback(offload.source_done)
        return future

    def note_submit(
        self, loop: Any, recorder: Any, entry: ExecutorEntry, now: float, number: int, site: float
    ) -> None:
        """Notes that an offload was handed over at ``now`` (s); in any thread."""
        if threading.get_ident() == loop._thread_id:
            if now - entry.defined_at > _REPEAT_SECONDS:
                entry.defined_at = now
                recorder.record.add(entry.number, layout.R_EXECUTOR, entry.limit)
                recorder.record.add_text(entry.label)
            # Not the one of the handle's context: mostly it was opened in the very step that hands this over.
            before = recorder.spans.enter_active()
            recorder.record.add(now, layout.R_SUBMIT, number)
            recorder.record.add(entry.number, layout.R_SUBMIT_INFO, site)
            if before is not None:
                recorder.spans.leave_active(before)
        else:
            if now - entry.defined_at > _REPEAT_SECONDS:
                self.outbox.define([entry.number, layout.R_EXECUTOR, entry.limit], entry.label, now)
            self.note((now, layout.R_SUBMIT, number, entry.number, layout.R_SUBMIT_INFO, site))

    def _note_workers(self, loop: Any, recorder: Any, entry: ExecutorEntry, executor: Any) -> None:
        try:
            workers = len(executor._threads)
        except (AttributeError, TypeError):
            try:
                workers = len(executor._processes or ())
            except (AttributeError, TypeError):
                return
        if workers != entry.workers:
            entry.workers = workers
            self.note((entry.number, layout.R_WORKERS, workers))

    def site_number(self, function: Any, args: tuple[Any, ...]) -> float:
        """The site of the function that will run, looked for inside partials, ``Context.run`` and methods."""
        log = self.process.site_log
        if type(function) is not FunctionType:
            function = offloaded_function(function, args)
            if type(function) is MethodType:
                function = unwrap(function)
        if type(function) is FunctionType:
            number = log.by_code.get(id(function.__code__))
            if number is None:
                module = function.__module__
                number = log.number(site_of_code(function.__code__, module if isinstance(module, str) else ""))
                log.remember(function.__code__, number)
            return number
        if type(function) is BuiltinFunctionType:
            known = self._builtins.get(id(function))
            if known is not None and known[0]() is function:
                return known[1]
            number = log.number(site_of(function))
            if len(self._builtins) < 1000:
                self._builtins[id(function)] = (weakref.ref(function), number)
            return number
        code = code_of(function)
        number = log.by_code.get(id(code)) if code is not None else None
        return log.number(site_of(function)) if number is None else number

    # -- executors

    def _new_entry(self, loop: Any, executor: Any) -> ExecutorEntry:
        limit = getattr(executor, "_max_workers", 0)
        entry = self.add_entry(
            _label_of(loop, executor), limit if isinstance(limit, int) else 0, type(executor)
        )
        try:
            entry.reference = weakref.ref(executor, functools.partial(self._forget, id(executor), entry))
        except TypeError:  # cannot be referred to weakly: it is known by its class from now on
            pass
        self._executors[id(executor)] = entry
        if process_pools.is_pool(entry.executor_type):
            module = sys.modules.get(process_pools.MODULE)
            process_pools.patch_worker(module)
            process_pools.patch_parent(module, _note_ran)
        return entry

    def add_entry(self, label: str, limit: int, executor_type: type) -> ExecutorEntry:
        """An entry for one more executor, under a label that no living one has; any thread."""
        with self._executors_lock:
            unique = label
            for number in itertools.count(2):
                if unique not in self._labels:
                    break
                unique = f"{label}-{number}"
            self._labels.add(unique)
            return ExecutorEntry(next(self._executor_numbers), unique, limit, executor_type)

    def _forget(self, key: int, entry: ExecutorEntry, _: object) -> None:
        # In whichever thread the last reference went, perhaps within a collection: only dict and list operations.
        if self._executors.get(key) is entry:
            del self._executors[key]
        self.entry_gone(entry)

    def entry_gone(self, entry: ExecutorEntry) -> None:
        """The executor of ``entry`` is no more: its label is free. Any thread, a collection as well."""
        self._labels.discard(entry.label)
        self.outbox.pending.extend((entry.number, layout.R_WORKERS, -1.0))

    # -- workers: in any thread

    def worker_number(self) -> float:
        """This thread's number times OUTCOME, as it is added to an offload's number; the worker is announced."""
        local = self._local
        now = monotonic()
        try:
            number: float = local.number
        except AttributeError:
            number = local.number = next(self._worker_numbers) * layout.OUTCOME
        local.until = now + _REPEAT_SECONDS
        self.outbox.define(
            [number / layout.OUTCOME, layout.R_THREAD, threading.get_native_id()],
            threading.current_thread().name,
            now,
        )
        return number

    def process_number(self, ran: process_pools.Ran) -> float:
        """The number of a worker process times OUTCOME; the worker is announced. Any thread."""
        now = monotonic()
        number, until = self._worker_processes.get(ran.pid, (0.0, 0.0))
        if now >= until:
            number = number or next(self._worker_numbers) * layout.OUTCOME
            self._worker_processes.pop(ran.pid, None)
            self._worker_processes[ran.pid] = number, now + _REPEAT_SECONDS
            if len(self._worker_processes) > _MAX_PROCESSES:
                del self._worker_processes[next(iter(self._worker_processes))]
            self.outbox.define([number / layout.OUTCOME, layout.R_THREAD, ran.pid], ran.name, now)
        return number

    def note(self, records: tuple[float, ...]) -> None:
        """Leaves records for the process ring; any thread."""
        outbox = self.outbox
        outbox.pending.extend(records)
        if len(outbox.pending) > LIMIT:
            outbox.drain(monotonic())


class Offload:
    """One call handed to an executor."""

    __slots__ = (
        "_loop",
        "_offloads",
        "_recorder",
        "_watched_at",
        "entry",
        "finished",
        "future",
        "number",
        "ran",
        "source",
        "started",
    )

    def __init__(self, offloads: Offloads, recorder: Any, loop: Any, entry: ExecutorEntry, number: int) -> None:
        self._offloads = offloads
        self._recorder = recorder
        self._loop = loop
        self.entry = entry
        self.number = number
        self.source: concurrent.futures.Future[Any] | None = None
        self.future: Any = None
        self.started = False
        self.finished = False
        self._watched_at = 0.0
        self.ran: process_pools.Ran | None = None

    # -- in the worker

    def run(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Runs the function in the worker, and notes when it started and ended."""
        # ``note_start`` and ``note_finish``, written out: together they were a twentieth of a short offload's cost.
        now = monotonic()
        offloads = self._offloads
        outbox = offloads.outbox
        local = offloads._local
        try:
            worker = local.number if now < local.until else offloads.worker_number()
        except AttributeError:
            worker = offloads.worker_number()
        self.started = True
        outbox.pending.extend((now, layout.R_START, self.number + worker))
        if now - outbox.drained > UNATTENDED_SECONDS or self._recorder.words[layout.W_RUNNING] == 0.0:
            outbox.drain(now)
        try:
            result = function(*args)
        except BaseException as error:
            trace = error.__traceback__
            if trace is not None:
                error.__traceback__ = trace.tb_next
            del trace
            self.note_finish(_EXCEPTION)
            raise
        self.finished = True
        now = monotonic()
        outbox.pending.extend((now, layout.R_FINISH, self.number + _RESULT))
        if now - outbox.drained > UNATTENDED_SECONDS or len(outbox.pending) > LIMIT:
            outbox.drain(now)
        return result

    def note_start(self, now: float, *, worker: bool = True) -> None:
        """The call starts, in this thread if ``worker``."""
        offloads = self._offloads
        local = offloads._local
        number: float = self.number
        if worker:
            try:
                number += local.number if now < local.until else offloads.worker_number()
            except AttributeError:
                number += offloads.worker_number()
        self.started = True
        outbox = offloads.outbox
        outbox.pending.extend((now, layout.R_START, number))
        if now - outbox.drained > UNATTENDED_SECONDS or self._recorder.words[layout.W_RUNNING] == 0.0:
            outbox.drain(now)

    def note_finish(self, outcome: float) -> None:
        """The call ended."""
        self.finished = True
        outbox = self._offloads.outbox
        now = monotonic()
        outbox.pending.extend((now, layout.R_FINISH, self.number + outcome))
        if now - outbox.drained > UNATTENDED_SECONDS or len(outbox.pending) > LIMIT:
            outbox.drain(now)

    # -- executors that are only watched

    def watch(self, source: Any, submitted: float) -> None:
        """Notices when the concurrent future of an executor that is not wrapped turns to running."""
        condition = getattr(source, "_condition", None)
        if condition is None:
            self.note_running()
            return
        self._watched_at = monotonic()
        with condition:
            waiting = source._state == "PENDING"
            if waiting:
                # Weakly: a future that is dropped without being run must not live on as a cycle.
                hook = functools.partial(_turned_running, weakref.ref(source), self)
                source.set_running_or_notify_cancel = hook
            if process_pools.is_pool(self.entry.executor_type):
                self.ran = source.__dict__.pop(_RAN, None)
                source.__dict__[_OFFLOAD] = self
        if not waiting and not source.cancelled():
            # It began while submit() was under way.
            self.note_running(submitted, worker=False)

    def note_running(self, now: float = 0.0, *, worker: bool = True) -> None:
        """The concurrent future turned to running: the call starts, or waits in a process pool's queue."""
        entry = self.entry
        if not process_pools.is_pool(entry.executor_type):
            self.note_start(now or monotonic(), worker=worker)
            return
        with entry.lock:
            if len(entry.active_numbers) >= entry.limit:
                entry.in_call_queue.append(self)
                return
            entry.active_numbers.add(self.number)
        self.note_start(now or monotonic(), worker=False)

    def _finish_watched(self, outcome: float, error: BaseException | None = None) -> None:
        entry = self.entry
        successor: Offload | None = None
        if process_pools.is_pool(entry.executor_type):
            with entry.lock:
                if self.number in entry.active_numbers:
                    entry.active_numbers.discard(self.number)
                    if entry.in_call_queue:
                        successor = entry.in_call_queue.popleft()
                        entry.active_numbers.add(successor.number)
                elif self in entry.in_call_queue:
                    # Ended out of turn: the pool broke, or its start was missed.
                    entry.in_call_queue.remove(self)
        if not self.started and outcome != _CANCELLED and not isinstance(error, concurrent.futures.BrokenExecutor):
            # Its worker was about to begin when it came to be watched.
            self.note_start(self._watched_at or monotonic(), worker=False)
        ran = self.ran
        if ran is not None:
            end = min(ran.end, monotonic())
            start = min(ran.start, end)
            self.finished = True
            number = self.number + self._offloads.process_number(ran)
            self._offloads.note((start, layout.R_START, number, end, layout.R_FINISH, self.number + outcome))
        else:
            self.note_finish(outcome)
        if successor is not None:
            successor.note_start(monotonic(), worker=False)

    # -- the two futures

    def future_done(self, future: asyncio.Future[Any]) -> None:
        """The loop's future is done, in the loop's thread: a cancellation is passed on."""
        source = self.source
        self.source = None
        if source is not None and future.cancelled():
            source.cancel()

    def source_done(self, source: concurrent.futures.Future[Any]) -> None:
        """The concurrent future is done, in the thread that did it: its state goes to the loop."""
        if not self.finished:
            try:
                if source.cancelled():
                    self._finish_watched(_CANCELLED)
                else:
                    # Not ``exception()``: a subclass's own may do anything.
                    error: BaseException | None = source._exception
                    self._finish_watched(_RESULT if error is None else _EXCEPTION, error)
                    error = None
            except Exception:  # the record's fault, never the application's
                self.finished = True
        loop = self._loop
        if loop.is_closed():
            return
        loop.call_soon_threadsafe(self.deliver, source)

    def deliver(self, source: concurrent.futures.Future[Any]) -> None:
        """Gives the loop's future the state of the concurrent one, in the loop's thread."""
        self.note_deliver()
        future = self.future
        self.future = self.source = None
        if future is not None and not future.cancelled():
            # It has nothing to pass on any more: one handle less to run than the standard chain has.
            future.remove_done_callback(self.future_done)
            _copy_state(source, future)


    def note_deliver(self) -> None:
        """The result reached the loop, in whose thread this is."""
        self._recorder.record.add(monotonic(), layout.R_DELIVER, self.number)


def _note_ran(future: Any, ran: process_pools.Ran) -> None:
    with future._condition:
        offload = future.__dict__.pop(_OFFLOAD, None)
        if offload is not None:
            offload.ran = ran
        elif not future.done():
            # The call is over before submit() has returned its future: ``watch`` takes it from there.
            future.__dict__[_RAN] = ran


def _turned_running(reference: Any, offload: Offload) -> Any:
    """Stands in for ``set_running_or_notify_cancel`` of one future, once."""
    source = reference()
    source.__dict__.pop("set_running_or_notify_cancel", None)
    runs = source.set_running_or_notify_cancel()
    if runs:
        try:
            offload.note_running()
        except Exception:  # the record's fault, never the application's
            pass
    return runs


def offloaded_function(function: Any, args: tuple[Any, ...]) -> Any:
    """The function that a call of ``function(*args)`` is about: what a partial, ``Context.run``, a framework calls."""
    keywords: dict[str, Any] = {}
    for _ in range(8):  # bounded, since a callable may answer with itself
        if type(function) is functools.partial or isinstance(function, functools.partial):
            args = function.args + args
            keywords = function.keywords
            function = function.func
        elif (
            type(function) is BuiltinFunctionType
            and type(function.__self__) is Context
            and function.__name__ == "run"
            and args
        ):
            function, args = args[0], args[1:]
        elif type(function) is FunctionType and "function" in keywords and function.__module__.startswith("fastapi."):
            function, keywords = keywords["function"], {}  # a synchronous endpoint
        elif type(function) is MethodType and type(function.__self__).__module__ == "asgiref.sync":
            function = getattr(function.__self__, "func", function.__func__)  # sync_to_async
        elif (inner := inner_function(function)) is not function:
            function = inner
        else:
            break
    return function


def _label_of(loop: Any, executor: Any) -> str:
    if executor is getattr(loop, "_default_executor", None):
        return "default"
    prefix = getattr(executor, "_thread_name_prefix", None)
    # The prefix that a pool without one makes up counts the pools ever made: no name to know one by.
    if isinstance(prefix, str) and prefix and not _AUTOMATIC_PREFIX.match(prefix):
        return prefix[:100]
    return type(executor).__name__


def offloads_of(process: Process) -> Offloads | None:
    """The offloads of ``process``, made at the first call; None where asyncio has changed what they rest upon."""
    if _copy_state is None:
        return None
    attributes: dict[str, Any] = vars(process)
    offloads: Offloads | None = attributes.get("offloads")
    if offloads is None:
        offloads = attributes.setdefault("offloads", Offloads(process))
    return offloads
