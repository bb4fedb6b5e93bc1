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
  That start has no worker. Where the worker took notes (``process_pools``) it is recorded again at the end, with both.
* Writing to the process ring costs a few microseconds, an offload in all perhaps 50. Workers therefore leave their
  records in a list that the loop writes when it flushes, and write it themselves where no loop is about to: when it
  waits in its poll, or has not flushed for a while because something blocks it.
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
from collections.abc import Callable
from time import monotonic
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from ...core.choose import core
from ...core.site_of import code_of, site_of, site_of_code, unwrap
from ...record import layout
from ...record.families import Families
from .. import own_threads
from ..outbox import outbox_of
from ..process import Process
from . import process_pools
from .entry import ExecutorEntry, stored
from .functions import offloaded_function
from .offload import Offload, copy_state, note_ran
from .workers import REPEAT_SECONDS, RESULT, Workers

_futures: Any = base_events.futures  # type: ignore[attr-defined]
# Taken here: tests put mocks in place of the class.
_ThreadPool = concurrent.futures.ThreadPoolExecutor
_thread_submit = _ThreadPool.submit

_AUTOMATIC_PREFIX = re.compile(r"ThreadPoolExecutor-\d+$")


class Offloads:
    """The offloads of one process. Its methods say from which threads they may be called."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.outbox = outbox_of(process)
        self.workers = Workers(self.outbox)
        self.note = self.workers.note
        self._numbers = itertools.count(1)
        self._executors: dict[int, ExecutorEntry] = {}
        self._executor_numbers = itertools.count(1)
        self._labels: set[str] = set()
        # As the collector folds them: a task that waits for a call of theirs is told with the label of their metrics.
        self._families = Families()
        self._executors_lock = own_threads.allocate_lock()
        self._builtins: dict[int, tuple[Any, float]] = {}
        self._by_code = process.site_log.by_code
        self.next_number = self._numbers.__next__
        native = core().native
        self._native_offload: Any = None if native is None else native.Offload

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
        submit = executor.submit
        is_thread_pool = entry.in_threads and type(submit) is MethodType and submit.__func__ is _thread_submit
        if is_thread_pool and self._native_offload is not None:
            native = self._native_offload(self.workers, recorder, loop, number, entry, site)
            now = monotonic()
            source = submit(native, function, *args)
            self.note_submit(loop, recorder, entry, now, number, site)
            self._note_workers(loop, recorder, entry, executor)
            return native.connect(source)  # type: ignore[no-any-return]
        offload = Offload(self.workers, recorder, loop, entry, number, site)
        now = monotonic()
        source = submit(offload.run, function, *args) if is_thread_pool else submit(function, *args)
        self.note_submit(loop, recorder, entry, now, number, site)
        self._note_workers(loop, recorder, entry, executor)
        if not isinstance(source, concurrent.futures.Future):
            # asyncio futures are let through by wrap_future, other things refused: it shall say so itself.
            offload.finished = True
            end = monotonic()
            self.note((now, layout.R_START, number, end, layout.R_FINISH, number + RESULT))
            self.note((end, layout.R_DELIVER, number))
            future: asyncio.Future[Any] = _futures.wrap_future(source, loop=loop)
            return future
        if not is_thread_pool:
            try:
                offload.watch(source, now)
            except Exception:  # a future of the program's own class, which does as it likes: only its end is noted
                pass
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
            if now - entry.defined_at > REPEAT_SECONDS:
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
            if now - entry.defined_at > REPEAT_SECONDS:
                self.outbox.define([entry.number, layout.R_EXECUTOR, entry.limit], entry.label, now)
            self.note((now, layout.R_SUBMIT, number, entry.number, layout.R_SUBMIT_INFO, site))

    def _note_workers(self, loop: Any, recorder: Any, entry: ExecutorEntry, executor: Any) -> None:
        pool = stored(executor, "_threads")
        if pool is None:
            pool = stored(executor, "_processes")
        if type(pool) not in (set, dict):
            return
        workers = len(pool)
        if workers != entry.workers:
            entry.workers = workers
            self.note((entry.number, layout.R_WORKERS, workers))

    def site_number(self, function: Any, args: tuple[Any, ...]) -> float:
        """The site of the function that will run, looked for inside partials, ``Context.run`` and methods. Never raises
        for objects that lie about themselves.
        """
        try:
            return self._site_number(function, args)
        except Exception:
            return self.process.site_log.number(site_of(function))

    def _site_number(self, function: Any, args: tuple[Any, ...]) -> float:
        log = self.process.site_log
        if type(function) is not FunctionType:
            function = offloaded_function(function, args)
            if type(function) is MethodType:
                function = unwrap(function)
        if type(function) is FunctionType:
            number = log.by_code.get(id(function.__code__))
            if number is None:
                number = log.number(site_of_code(function.__code__, function.__module__))
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
        limit = stored(executor, "_max_workers")
        entry = self.add_entry(
            _label_of(loop, executor), limit if isinstance(limit, int) else 0, type(executor)
        )
        entry.in_threads = _runs_in_threads(entry.executor_type)
        try:
            entry.reference = weakref.ref(executor, functools.partial(self._forget, id(executor), entry))
        except TypeError:  # cannot be referred to weakly: it is known by its class from now on
            pass
        self._executors[id(executor)] = entry
        if process_pools.is_pool(entry.executor_type):
            module = sys.modules.get(process_pools.MODULE)
            process_pools.patch_worker(module)
            process_pools.patch_parent(module, note_ran)
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
            shared = self._families.take(unique)
            return ExecutorEntry(next(self._executor_numbers), unique, limit, executor_type, shared)

    def entries(self) -> list[ExecutorEntry]:
        """Those of the executors that are there; any thread."""
        return list(self._executors.values())

    def _forget(self, key: int, entry: ExecutorEntry, _: object) -> None:
        # In whichever thread the last reference went, perhaps within a collection: only dict and list operations.
        if self._executors.get(key) is entry:
            del self._executors[key]
        self.entry_gone(entry)

    def entry_gone(self, entry: ExecutorEntry) -> None:
        """The executor of ``entry`` is no more: its label is free. Any thread, a collection as well."""
        self._labels.discard(entry.label)
        self.outbox.pending.extend((entry.number, layout.R_WORKERS, -1.0))


def _runs_in_threads(executor_type: type) -> bool:
    """Whether a class with a thread pool's ``submit`` runs what it is given: that of interpreters (3.14) pickles it."""
    if not issubclass(executor_type, _ThreadPool):
        return False  # one that stands in for a pool, a mock of it: it may do anything
    plain = getattr(_ThreadPool, "prepare_context", None)
    own = getattr(executor_type, "prepare_context", None)
    return getattr(own, "__func__", None) is getattr(plain, "__func__", None)


def _label_of(loop: Any, executor: Any) -> str:
    if executor is getattr(loop, "_default_executor", None):
        return "default"
    prefix = stored(executor, "_thread_name_prefix")
    # The prefix that a pool without one makes up counts the pools ever made: no name to know one by.
    if isinstance(prefix, str) and prefix and not _AUTOMATIC_PREFIX.match(prefix):
        return prefix[:100]
    return type(executor).__name__


def offloads_of(process: Process) -> Offloads | None:
    """The offloads of ``process``, made at the first call; None where asyncio has changed what they rest upon."""
    if copy_state is None:
        return None
    attributes: dict[str, Any] = vars(process)
    offloads: Offloads | None = attributes.get("offloads")
    if offloads is None:
        offloads = attributes.setdefault("offloads", Offloads(process))
    return offloads
