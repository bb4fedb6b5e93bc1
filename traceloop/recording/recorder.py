"""The recorder of one loop: what the event loop calls to write its record.

The core's iteration appends the runs of handles to ``record`` and uses ``tasks`` and ``sites`` directly
(core/interface.py). Everything rarer is a method here. All of it runs in the loop's thread. A failure never reaches
the application: it is logged once to the ``traceloop`` logger, and the recording stops.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections import deque
from time import monotonic
from typing import Any

from .. import notices
from ..core.buffer import NOWHERE, Record
from ..core.choose import core, has_own_clock
from ..core.identify import Identifier
from ..record import layout
from ..record.proc import own_pid
from ..record.sites import OWN_WORK
from . import blocking_calls, failures, request_handlers
from .application_spans import ApplicationSpans
from .external_runs import ExternalRuns
from .gauges import write_gauges
from .heaps.sampler import LoopSamples, sampler_of
from .heaps.timer_origins import CreationSites
from .offloads import anyio_threads
from .offloads.executors import offloads_of
from .process import Process, current_process
from .server_spans import span_names_of
from .tasks import Tasks
from .thresholds import threshold_of
from .watchdog.process_watchdog import watchdog_of
from .watchdog.watchdog import Watchdog


class Recorder:
    """Records what one loop does. Made by ``make_recorder``; it takes a ring when the loop first runs."""

    def __init__(self, process: Process, record: Record | None = None, fresh: Any = None) -> None:
        """``record`` and ``fresh``: the core's own buffer, and its own queue of tasks; None where it has none."""
        self._begin(process, Record() if record is None else record, deque() if fresh is None else fresh)

    def _begin(self, process: Process, record: Record, fresh: Any) -> None:
        self.process = process
        process.recorders.add(self)
        self.record = record
        #: Tasks whose last reference was dropped in another thread; they are released in the loop's own thread.
        self.dropped_tasks: list[Any] = []
        #: By the id of a handle in the ready queue: when another thread or a signal queued it (monotonic s), and the
        #: signal's number (0: another thread), in order. The key 0 has an empty list while ``tasks.created`` is not
        #: empty, so that the loop has to look at one dict only before each run.
        self.stamps: dict[int, list[tuple[float, int]]] = {}
        self.tasks = Tasks(self.record, process.site_log, self.stamps, process.next_task, fresh)
        self.spans = ApplicationSpans(self.record)
        self.span_names = span_names_of(process)
        self.sites = process.site_log.by_code
        identifier = Identifier(process.site_log, self.tasks.define)
        self.identify = identifier.identify
        self.builtin_sites = identifier.builtin_sites
        self.ring = process.idle_ring
        self.words = self.ring.words
        self.number = process.next_loop_number()
        self.offloads = offloads_of(process)
        _arrange_imports(process)
        self.sampler = sampler_of(process)
        #: Runs that take this long (s) are slow, unless the program sets another threshold for its loop.
        self.general_threshold = process.settings.slow_threshold
        self._samples: LoopSamples | None = None
        self.timer_sites = CreationSites()
        self.external = ExternalRuns()
        #: True between the calls of ``loop_started`` and ``loop_stopped``.
        self.is_running = False
        #: Whether the record goes by the program's own clock, which the loop had when it began to run.
        self.has_own_clock = False
        self._watchdog: Watchdog | None = None
        self._broken = False

    def stamped(self, handle: Any) -> None:
        """Records when ``handle``, which is run next, was queued by another thread or by a signal."""
        waiting = self.stamps[id(handle)]
        when, signal_number = waiting.pop(0)
        if not waiting:
            del self.stamps[id(handle)]
        if signal_number:
            self.record.add(when, layout.R_SIGNAL, float(signal_number))
        else:
            self.record.add(when, layout.R_STAMP, 0.0)

    def own_work_ident(self, which: int) -> float:
        """The ident that is shown while the loop works for itself. ``which``: ``core.interface.DUE_TIMERS``, ..."""
        return self.process.site_log.number(OWN_WORK[which])

    def own_work(self, which: int, count: int, start: float, end: float) -> None:
        """Records work of the loop itself, from ``start`` to ``end`` (s), on ``count`` timers or descriptors."""
        try:
            work = {"kind": "own_work", "ident": self.own_work_ident(which), "start": start, "end": end, "count": count}
            self.record.add(end, layout.R_EVENT, float(self.process.next_event()))
            self.record.add_text(json.dumps(work))
        except Exception as error:
            self._fail(error)

    # -- the loop's life

    def now(self, loop: Any) -> float:
        """The record's time, s. A clock that was put on the loop while it runs (a test's) is not asked: the rest of the
        record goes by another.
        """
        if self.has_own_clock:
            try:
                return float(loop.time())
            except Exception:  # the iteration raises it; a loop can be closed nevertheless
                pass
        return monotonic()

    def external_iteration(self, loop: Any) -> None:
        """Called when code outside ``run_forever`` requests an iteration: starts the recording where it is stopped."""
        if not self.is_running:
            self.external.started = True
            self.loop_started(loop)

    def external_stopped(self, loop: Any) -> None:
        """Called when the code that drove the loop itself has ended, or when the loop is being closed."""
        if self.external.started:
            self.external.started = False
            self.loop_stopped(loop)

    def loop_started(self, loop: Any) -> None:
        """The loop begins to run in this thread."""
        if self.process.forked:
            self._move_to_child(loop)
        self.is_running = True
        try:
            self.has_own_clock = has_own_clock(loop)
            is_new = self.ring is self.process.idle_ring and not self._broken
            if is_new:
                self._take_ring(loop)
            self.record.base = 3 * self.ring.records
            now = self.now(loop)
            self.words[layout.W_THREAD] = threading.get_native_id()
            self.words[layout.W_STOPPED] = 0.0
            self.words[layout.W_THRESHOLD] = threshold_of(loop, self.general_threshold)
            self._samples = self.sampler.loop_started(loop, self._samples)
            self.spans.forget_current()
            if self.tasks.created:
                self.tasks.define_created(now)
            self.record.add(now, layout.R_RUN, float(len(loop._ready)))
            if is_new:  # written at once: the loop's first handle may block, and readers must know the loop by then
                self._write_gauges(loop)
                self.write(now)
            watchdog = watchdog_of(self.process)
            self._watchdog = watchdog
            if watchdog is not None:
                watchdog.watch(loop, self.ring, self.general_threshold)
        except Exception as error:
            self._fail(error)

    def _move_to_child(self, loop: Any) -> None:
        """The loop was made before a fork and runs in the child: it records into the child's own record from now on."""
        process = current_process()
        if process is None:
            return
        try:
            fresh, created, stamps = self.tasks.fresh, self.tasks.created, self.stamps
            self._begin(process, loop._new_record(), loop._new_queue())
            _look_for_blocking_calls(process)
            loop._recorder = self  # the C core takes the record from the recorder that is set here
            self.tasks.fresh.extend(fresh)
            self.tasks.created.extend(created)
            self.stamps.update(stamps)
            for task in asyncio.all_tasks(loop):
                # Its number belongs to the parent's record. The task is announced anew at its next step.
                if hasattr(task, "_loop_ident"):
                    del task._loop_ident
        except Exception as error:
            self._fail(error)

    def _take_ring(self, loop: Any) -> None:
        self.ring = self.process.take_ring()
        self.words = self.ring.words
        self.words[layout.W_OPEN] = 1.0
        self.words[layout.W_LOOP] = self.number
        name = threading.current_thread().name
        now = self.now(loop)
        self.ring.tell_owner(self.number, now, name)
        self.record.add(now, layout.R_LOOP, float(self.number))
        self.record.add_text(name)

    def loop_stopped(self, loop: Any) -> None:
        """The loop stopped running: writes all its waiting records into the ring."""
        self.is_running = False
        self.record.base = NOWHERE
        watchdog = watchdog_of(self.process)
        if watchdog is not None:
            watchdog.unwatch(loop)
        now = self.now(loop)
        self.record.add(now, layout.R_END, 0.0)
        try:
            self.flush(loop, now)
        finally:  # also where a signal's handler has ended the flush
            self.words[layout.W_RUNNING] = 0.0
            self.words[layout.W_STOPPED] = 1.0
        try:
            self.sampler.loop_stopped(self._samples)
        except Exception as error:
            self._fail(error)

    def loop_closed(self, loop: Any) -> None:
        """The loop was closed: writes what is left, and frees its ring for the next loop."""
        if self.ring is self.process.idle_ring:
            self.tasks.fresh.clear()
            self.tasks.created.clear()
            self.stamps.clear()
            return
        self._abandon_tasks(loop)
        now = self.now(loop)
        self._record_last_words(loop)
        self.record.add(now, layout.R_END, 1.0)
        self.dropped_tasks.clear()
        self.write(now)
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
            if self.tasks.created:
                self.tasks.define_created(self.now(loop))
            self.tasks.define_fresh()
            if self.tasks.pending:
                for task in asyncio.all_tasks(loop):
                    self.tasks.destroyed(task)
        except Exception as error:
            self._fail(error)
        self.tasks.count_lost()

    def _record_last_words(self, loop: Any) -> None:
        # A short-lived loop may end between two looks of a reader, which would then never see its gauges.
        try:
            self._write_gauges(loop)
            for index in layout.COUNTER_WORDS:
                if self.words[index]:
                    self.record.add(index, layout.R_WORD, self.words[index])
        except Exception as error:
            self._fail(error)

    def flush(self, loop: Any, now: float) -> None:
        """Writes the waiting records and the loop's gauges into the ring. ``now``: monotonic s."""
        if self.dropped_tasks:
            self.dropped_tasks.clear()
        if own_pid() != self.process.pid and not self.process.forked:
            self._leave_to_parent()
        if not self._broken:
            try:
                self.spans.refresh()
                if self._samples is not None:
                    self.sampler.flush(self._samples)
                if self.tasks.fresh:
                    self.tasks.forget_ended()
                self._write_gauges(loop)
                watchdog = self._watchdog
                if watchdog is not None and watchdog.paused:
                    watchdog.resume()
            except Exception as error:
                self._fail(error)
        self.write(now)

    def _leave_to_parent(self) -> None:
        """Stops recording in a child that a library forked without the interpreter's hooks.

        Ring and words are the parent's. A record of the child's own would take locks and threads, on which such a
        child cannot rely.
        """
        self._broken = True
        self.ring = self.process.idle_ring
        self.words = self.ring.words

    def write(self, now: float) -> None:
        """Writes the waiting records into the ring, without the gauges: a busy loop needs this more often than a flush.

        ``now``: monotonic s.
        """
        waiting = len(self.record)
        # A loop for which there was no memory has no ring of its own: its records are lost.
        has_ring = not self._broken and self.ring is not self.process.idle_ring
        try:
            if not (has_ring and self.record.write_to(self.ring, now)):
                try:
                    records, text = self.record.take()
                except MemoryError:
                    self.out_of_memory()
                    return
                waiting = len(records)
                if has_ring:
                    self.ring.write(records, text, now)
            if has_ring and self.is_running:
                self.record.base = 3 * self.ring.records
        except Exception as error:
            self._fail(error)
        self.spans.batch_written(waiting // 3, self.ring.capacity // (4 * 24))

    def out_of_memory(self) -> None:
        """Called when there is no memory for records: drops those that wait, and readers find a gap."""
        self.record.drop()

    def _write_gauges(self, loop: Any) -> None:
        write_gauges(self.words, loop, self.tasks, threshold_of(loop, self.general_threshold))

    def _fail(self, error: Exception) -> None:
        failures.pass_on(error)
        if failures.is_shortage(error):
            self.out_of_memory()  # not a fault of the recording, which goes on once there is memory again
            failures.report("recording failed", error)
        elif not self._broken:
            self._broken = True
            failures.report("recording failed and has stopped", error)


# What ``_arrange_imports`` last saw, and whether it looked for requests too.
_arranged: tuple[Any, bool] | None = None


def _imported() -> Any:
    """A value that changes whenever a module is imported: the number of modules, and the last one.

    The number alone is not enough: it is the same after one module was removed and imported anew.
    """
    modules = sys.modules
    try:
        name = next(reversed(modules))
        return len(modules), name, id(modules.get(name))
    except (RuntimeError, StopIteration):  # another thread imports
        return None


def _arrange_imports(process: Process) -> None:
    """Arranges the hooks for the libraries that we know.

    Does nothing where no module came or went since the last loop.
    """
    global _arranged
    wanted = process.settings.requests
    imported = _imported()
    if imported is not None and (imported, wanted) == _arranged:
        return
    anyio_threads.arrange()
    if wanted:
        request_handlers.arrange()
    _arranged = (_imported(), wanted)


def _look_for_blocking_calls(process: Process) -> None:
    if process.settings.find_blocking and blocking_calls.found_in(process) is None:
        sampler_of(process).at_samples.append(blocking_calls.find_in(process).write)


def make_recorder(loop: Any) -> Recorder | None:
    """The recorder of a new loop, None where this process does not record or recording cannot be set up."""
    try:
        process = current_process()
        if process is None:
            return None
        if problem := core().problem:
            notices.say_once(process.settings.run_dir, "core", problem)
        process.loops.add(loop)
        _look_for_blocking_calls(process)
        return Recorder(process, loop._new_record(), loop._new_queue())
    except Exception as error:
        failures.report("recording could not be started", error)
        return None
