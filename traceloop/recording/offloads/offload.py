"""One call handed to an executor: when it started, where it ran, when it ended, when its result reached the loop.

The C core has a twin of it for plain thread pools (core/native/offload.c).

The delivery does what ``asyncio.wrap_future`` does, with the delivery's time noted on the way.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import weakref
from asyncio import base_events
from collections.abc import Callable
from time import monotonic
from typing import Any

from ...record import layout
from .. import failures
from ..outbox import LIMIT, UNATTENDED_SECONDS
from . import process_pools
from .entry import ExecutorEntry
from .workers import CANCELLED, EXCEPTION, RESULT, Workers

_futures: Any = base_events.futures  # type: ignore[attr-defined]
#: None where asyncio has changed what all this rests upon.
copy_state: Any = getattr(_futures, "_copy_future_state", None)


# A watched future's attributes.
_OFFLOAD = "_traceloop_offload"
_RAN = "_traceloop_ran"


class Offload:
    """One call handed to an executor. ``site``: of its function."""

    __slots__ = (
        "_loop",
        "_recorder",
        "_watched_at",
        "_workers",
        "entry",
        "finished",
        "future",
        "number",
        "ran",
        "site",
        "source",
        "started",
    )

    def __init__(
        self, workers: Workers, recorder: Any, loop: Any, entry: ExecutorEntry, number: int, site: float
    ) -> None:
        self._workers = workers
        self._recorder = recorder
        self._loop = loop
        self.entry = entry
        self.number = number
        self.site = site
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
        workers = self._workers
        outbox = workers.outbox
        local = workers.local
        try:
            worker = local.number if now < local.until else workers.worker_number()
        except AttributeError:
            worker = workers.worker_number()
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
            self.note_finish(EXCEPTION)
            raise
        self.finished = True
        now = monotonic()
        outbox.pending.extend((now, layout.R_FINISH, self.number + RESULT))
        if now - outbox.drained > UNATTENDED_SECONDS or len(outbox.pending) > LIMIT:
            outbox.drain(now)
        return result

    def note_start(self, now: float, *, worker: bool = True) -> None:
        """The call starts, in this thread if ``worker``."""
        workers = self._workers
        local = workers.local
        number: float = self.number
        if worker:
            try:
                number += local.number if now < local.until else workers.worker_number()
            except AttributeError:
                number += workers.worker_number()
        self.started = True
        outbox = workers.outbox
        outbox.pending.extend((now, layout.R_START, number))
        if now - outbox.drained > UNATTENDED_SECONDS or self._recorder.words[layout.W_RUNNING] == 0.0:
            outbox.drain(now)

    def note_finish(self, outcome: float) -> None:
        """The call ended."""
        self.finished = True
        outbox = self._workers.outbox
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
        if not self.started and outcome != CANCELLED and not isinstance(error, concurrent.futures.BrokenExecutor):
            # Its worker was about to begin when it came to be watched.
            self.note_start(self._watched_at or monotonic(), worker=False)
        ran = self.ran
        if ran is not None:
            end = min(ran.end, monotonic())
            start = min(ran.start, end)
            self.finished = True
            number = self.number + self._workers.process_number(ran)
            self._workers.note((start, layout.R_START, number, end, layout.R_FINISH, self.number + outcome))
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
                    self._finish_watched(CANCELLED)
                else:
                    # Not ``exception()``: a subclass's own may do anything.
                    error: BaseException | None = source._exception
                    self._finish_watched(RESULT if error is None else EXCEPTION, error)
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
            copy_state(source, future)

    def note_deliver(self) -> None:
        """The result reached the loop, in whose thread this is."""
        self._recorder.record.add(monotonic(), layout.R_DELIVER, self.number)


def note_ran(future: Any, ran: process_pools.Ran) -> None:
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
        except Exception as error:  # the record's fault, never the application's
            failures.report_once("the start of a call in an executor could not be noted", error)
    return runs
