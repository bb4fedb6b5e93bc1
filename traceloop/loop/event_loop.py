"""The event loop: its iteration, and its life.

One iteration, as ``_run_once`` and the two inner loops do it:

1. sweep cancelled timers, and see how long the poll may wait;
2. poll the selector;
3. put the handles of ready descriptors into the ready queue;
4. move the timers that are due there too;
5. run what is in the queue now (what these handles add waits for the next iteration).

The inner loop exists twice: ``_iterate`` plain, and ``_iterate_recorded`` with the recorder's work in it. They are
written out, with their names bound to locals, because this is the hot path: a call costs 40 to 60 ns, an attribute
of ``self`` 5 to 20 ns, where a whole handle costs 600 to 900 ns. ``recording/recorder.py`` is the seam's other side.
"""

from __future__ import annotations

import asyncio
import select
import selectors
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from gc import get_referents
from itertools import islice, repeat, starmap
from time import monotonic
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from ..core.handles import report_failure
from ..core.standard import base_events
from ..core.timers import TimersMixin
from ..record import layout
from ..recording.recorder import C_METHOD_TYPE, NAME_PLACE, PLAIN_TASK, Recorder, make_recorder
from .descriptors import PollerMixin
from .executors import ExecutorsMixin
from .lifecycle import LifecycleMixin
from .network.connections import ConnectionsMixin
from .network.datagram_endpoints import DatagramEndpointsMixin
from .network.listening import ListeningMixin
from .network.resolver import ResolverMixin
from .network.sendfile import SendfileMixin
from .network.servers import ServersMixin
from .network.sockets import SocketsMixin
from .processes.subprocesses import SubprocessesMixin
from .scheduling import SchedulingMixin
from .signals import SignalsMixin
from .wakeup import WakeupMixin

# Anything but "writable" makes a reader ready, and the other way round: errors and hang-ups wake both.
_READABLE = ~getattr(select, "EPOLLOUT", 0)
_WRITABLE = ~getattr(select, "EPOLLIN", 0)

_MAX_POLL_SECONDS = 24 * 3600.0

# Records wait in a list until there are this many (each three doubles), or the loop has been quiet for _LINGER.
_BATCH = 3 * 1024
_CHUNK = 1024
# A busy loop writes its gauges no more often than this (2 us), however many batches it fills.
_GAUGES_SECONDS = 0.005
# How long the first part of a waiting poll may last before records are flushed and the loop is published as idle:
# a busy server comes back within it, and then pays for neither.
_LINGER_SECONDS = 0.01



def _taken_from(ready: deque[Any]) -> Iterator[Any]:
    """Takes a handle from the ready queue whenever it is asked for one, by C code alone (25 instead of 32 ns each)."""
    return starmap(ready.popleft, repeat(()))


# Untyped: what it inherits is to be nothing, and our signatures hold for five versions of it.
_StandardLoop: Any = asyncio.SelectorEventLoop


class EventLoop(
    SchedulingMixin,
    TimersMixin,
    LifecycleMixin,
    PollerMixin,
    WakeupMixin,
    SignalsMixin,
    ExecutorsMixin,
    ResolverMixin,
    SocketsMixin,
    SendfileMixin,
    ConnectionsMixin,
    DatagramEndpointsMixin,
    ListeningMixin,
    ServersMixin,
    SubprocessesMixin,
    _StandardLoop,  # type: ignore[misc]  # for isinstance alone: tests/loop/test_inherited.py
):
    """An asyncio event loop on selectors that records every handle it runs.

    ``selector``: as for ``asyncio.SelectorEventLoop``, a new default selector if None.
    ``recorder``: what records; by default that of the process (see ``traceloop.recording``). False records nothing.
    """

    def __init__(self, selector: Any = None, *, recorder: Recorder | bool | None = None) -> None:
        self._recorder: Recorder | None = None
        self._ready: deque[Any] = deque()
        self._task_factory = None
        self._internal_fds = 0
        self._clock_resolution: float = time.get_clock_info("monotonic").resolution
        self._init_timers()
        self._init_lifecycle()
        self._init_signals()
        self._init_executors()
        self._init_subprocesses()
        self._init_poller(selector)
        if recorder is None or recorder is True:
            self._recorder = make_recorder(self)
        elif recorder:
            self._recorder = recorder

    # -- the life of the loop

    def run_forever(self) -> None:
        """Runs until ``stop()`` is called."""
        self._run_forever_setup()
        try:
            self._run_until_stopped()
        finally:
            self._run_forever_cleanup()

    def _run_until_stopped(self) -> None:
        if type(self)._run_once is not EventLoop._run_once or "_run_once" in self.__dict__:
            self._run_others_iterations()
            return
        recorder = self._recorder
        if recorder is None:
            self._iterate(once=False)
            return
        recorder.loop_started(self)
        try:
            self._iterate_recorded(recorder, once=False)
        finally:
            recorder.loop_stopped(self)

    def _run_others_iterations(self) -> None:
        """Somebody else's iteration (nest_asyncio, a subclass) is asked for one at a time."""
        try:
            while True:
                self._run_once()
                if self._stopping:
                    return
        finally:
            if self._recorder is not None:
                self._recorder.others_stopped(self)

    def _run_once(self) -> None:
        """One iteration, for those who turn the loop by themselves."""
        recorder = self._recorder
        if recorder is None:
            self._iterate(once=True)
        else:
            recorder.others_turn(self)
            self._iterate_recorded(recorder, once=True)

    def run_until_complete(self, future: Any) -> Any:
        """Runs until ``future`` (a future, a coroutine or an awaitable) is done; returns its result."""
        self._check_closed()
        self._check_running()
        is_new_task = not base_events.futures.isfuture(future)
        future = base_events.tasks.ensure_future(future, loop=self)
        if is_new_task:
            # An exception of a task made here is raised here: nothing to warn of if it is destroyed pending.
            future._log_destroy_pending = False
        future.add_done_callback(base_events._run_until_complete_cb)
        try:
            self.run_forever()
        except BaseException:
            if is_new_task and future.done() and not future.cancelled():
                # Retrieved, so that it is not logged as lost: the caller has a worse one.
                future.exception()
            raise
        finally:
            future.remove_done_callback(base_events._run_until_complete_cb)
        if not future.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        return future.result()

    def stop(self) -> None:
        """Ends ``run_forever`` after the current iteration."""
        self._stopping = True

    def close(self) -> None:
        """Closes the loop; it must not be running. What is still in its queues is dropped."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self._closed:
            return
        if self._debug:
            base_events.logger.debug("Close %r", self)
        self._closed = self._guarded = True
        self._ready.clear()
        self._timer_heap.clear()
        self._close_executors()
        # Before the self-pipe goes, into which the interpreter writes them.
        self._close_signals()
        self._close_poller()
        if self._recorder is not None:
            self._recorder.others_stopped(self)
            self._recorder.loop_closed(self)

    # -- the iteration

    def _ask_time(self) -> float:
        now: float = self.time()
        return now

    def _poll_timeout(self, now: float) -> float | None:
        """How long the poll may wait with an empty ready queue: seconds, None for ever."""
        heap = self._timer_heap
        if not heap:
            return None
        # Entry [0] is the due time: of a tuple, or of a handle that has taken its place (timers.py).
        timeout: float = heap[0][0] - now
        return min(max(0.0, timeout), _MAX_POLL_SECONDS)

    def _move_due_timers(self, now: float) -> None:
        end = now + self._clock_resolution
        heap = self._timer_heap
        ready = self._ready
        while heap and heap[0][0] < end:
            handle = base_events.heapq.heappop(heap)[2]
            handle._scheduled = False
            if handle._cancelled:
                self._timer_cancelled_count -= 1
            else:
                ready.append(handle)

    def _direct_poll(self) -> tuple[Any, dict[int, Any]]:
        """The poll method of the epoll object itself and the selector's keys by descriptor, where both are as the
        standard library makes them; else None, and the selector is asked.

        ``EpollSelector.select`` builds a list of keys and masks that the loop takes apart again: 0.7 us a poll.
        """
        selector = self._selector
        if (
            type(selector) is getattr(selectors, "EpollSelector", None)
            and "select" not in selector.__dict__
            and "_process_events" not in self.__dict__
            and type(self)._process_events is EventLoop._process_events
        ):
            epoll = getattr(selector, "_selector", None)
            keys = getattr(selector, "_fd_to_key", None)
            if type(epoll) is select.epoll and type(keys) is dict and keys:
                return epoll.poll, keys
        return None, {}

    def _iterate(self, *, once: bool) -> None:
        ready = self._ready
        handles = _taken_from(ready)
        heap = self._timer_heap
        ask = self._selector.select
        process_events = self._process_events
        poll, keys = (None, {}) if once else self._direct_poll()
        while True:
            if self._timer_cancelled_count:
                self._sweep_timers()
            timeout = 0.0 if ready or self._stopping else self._poll_timeout(self.time()) if heap else None
            if poll is None:
                process_events(ask(timeout))
            else:
                for fd, event in poll(timeout, len(keys)):
                    key = keys.get(fd)
                    if key is not None:
                        self._queue_ready(key, event & _READABLE, event & _WRITABLE)
            if heap:
                self._move_due_timers(self.time())
            if self._debug:
                self._run_debugged(len(ready))
            else:
                count = len(ready)
                # One alone is taken without the machinery for many, which costs 50 ns to make.
                for handle in islice(handles, count) if count != 1 else (ready.popleft(),):
                    callback = handle._callback
                    if callback is None and handle._cancelled:
                        continue
                    args = handle._args
                    try:
                        if not args:
                            handle._context.run(callback)
                        elif len(args) == 1:
                            handle._context.run(callback, args[0])
                        else:
                            handle._context.run(callback, *args)
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as error:
                        report_failure(handle, error)
            # Neither the last handle nor its arguments may outlive their run.
            handle = callback = args = key = None
            if once or self._stopping:
                return

    def _run_debugged(self, count: int) -> None:
        """Step 5 in debug mode: the running handle is known, and slow ones are logged."""
        for _ in range(count):
            handle = self._ready.popleft()
            if not handle._cancelled:
                self._run_handle_debugged(handle)
            handle = None

    def _run_handle_debugged(self, handle: Any) -> None:
        try:
            self._current_handle = handle
            start = self.time()
            asyncio.Handle._run(handle)
            duration = self.time() - start
            if duration >= self.slow_callback_duration:
                base_events.logger.warning(
                    "Executing %s took %.3f seconds", base_events._format_handle(handle), duration
                )
        finally:
            self._current_handle = None
            # A traceback of what ran keeps this frame, and with it all that its names still stand for.
            handle = None

    def _iterate_recorded(self, recorder: Recorder, *, once: bool) -> None:
        ready = self._ready
        handles = _taken_from(ready)
        # A test may put a clock of its own on the loop while it runs: its timers then go by that, the record does not.
        own = self.__dict__
        has_own_clock = type(self).time is not SchedulingMixin.time or "time" in own
        clock = self._ask_time if has_own_clock else monotonic
        heap = self._timer_heap
        heappop = base_events.heapq.heappop
        ask = self._selector.select
        process_events = self._process_events
        poll, keys = (None, {}) if once else self._direct_poll()
        resolution = self._clock_resolution
        stamps = recorder.stamps
        records = recorder.records
        text = recorder.text
        site_of = recorder.sites
        identify = recorder.identify
        builtin_sites = recorder.builtin_sites
        define_task = recorder.define_task
        fresh = recorder.fresh
        next_task = recorder.next_task
        first_step_done = recorder.first_step_done
        created = recorder.created
        define_created = recorder.define_created
        spans = recorder.spans
        span_variable = spans.refresh()
        seen: Any = spans
        last_code: Any = None
        last_ident = 0.0
        last_coroutine: Any = None
        last_site = 0.0
        outcome_of = recorder.outcome_of
        outcome_result = layout.OUTCOME * layout.OUTCOME_RESULT
        first_step = layout.FIRST
        only_step = first_step + outcome_result
        publish = recorder.words
        step_type = recorder.step_type
        task_type: Any = asyncio.Task
        plain_task = PLAIN_TASK
        name_place = NAME_PLACE
        sites = layout.SITES
        # Stands for the task that will make its first step next, where there is none.
        nobody: Any = recorder
        nothing = ()
        now = clock()
        last_flush = last_publish = now
        publish[layout.W_RUNNING] = now
        while True:
            # 1. timers that were cancelled, and the timeout
            if self._timer_cancelled_count:
                self._sweep_timers()
            # 2. the poll. ``now`` is the end of the last run.
            poll_start = now
            other_clock = "time" in own and not has_own_clock if heap else False
            if ready or self._stopping:
                timeout = 0.0
                found = ask(0) if poll is None else poll(0, len(keys))
                now = clock()
            else:
                if heap:
                    timeout = heap[0][0] - (self.time() if other_clock else now)
                    if timeout < 0.0:
                        timeout = 0.0
                    elif timeout > _MAX_POLL_SECONDS:
                        timeout = _MAX_POLL_SECONDS
                else:
                    timeout = -1.0
                if 0.0 <= timeout <= _LINGER_SECONDS:
                    found = ask(timeout) if poll is None else poll(timeout, len(keys))
                else:
                    found = ()
                    if not once:  # who turns the loop by himself has one poll an iteration
                        found = ask(_LINGER_SECONDS) if poll is None else poll(_LINGER_SECONDS, len(keys))
                    if not found and not ready:
                        records.append(poll_start)
                        records.append(layout.R_POLL)
                        records.append(timeout)
                        recorder.flush(self, now)
                        publish[layout.W_RUNNING] = 0.0
                        # The time may have moved under us (a test's clock): computed anew, not subtracted.
                        rest = None if timeout < 0.0 else self._poll_timeout(self.time())
                        found = ask(rest) if poll is None else poll(rest, len(keys))
                        now = clock()
                        publish[layout.W_RUNNING] = last_publish = last_flush = now
                        timeout = -2.0
                if timeout != -2.0:
                    now = clock()
            # 3. and 4. descriptors and timers
            moved = 0
            if found or once:
                base = len(ready)
                if poll is None:
                    process_events(found)
                else:
                    for fd, event in found:
                        key = keys.get(fd)
                        if key is None:
                            continue
                        reader, writer = key.data
                        if reader is not None and event & _READABLE:
                            if reader._cancelled:
                                self._remove_reader(key.fileobj)
                            else:
                                ready.append(reader)
                        if writer is not None and event & _WRITABLE:
                            if writer._cancelled:
                                self._remove_writer(key.fileobj)
                            else:
                                records.append(len(ready))
                                records.append(layout.R_WRITER)
                                records.append(0.0)
                                ready.append(writer)
                    reader = writer = key = None
                moved = len(ready) - base
            due = 0
            if heap and (heap[0][0] < now + resolution or other_clock):
                end = (self.time() if other_clock else now) + resolution
                if not moved:
                    base = len(ready)
                while heap and heap[0][0] < end:
                    entry = heappop(heap)
                    handle = entry[2]
                    handle._scheduled = False
                    if handle._cancelled:
                        self._timer_cancelled_count -= 1
                        continue
                    ready.append(handle)
                    records.append(entry[0])
                    records.append(layout.R_TIMER)
                    records.append(handle._set_at)
                    due += 1
            if moved or due:
                if moved and not (base or due) and (timeout > 0.0 or timeout == -1.0):
                    # One record instead of three: a service with little to do at a time has one for each run.
                    records.append(poll_start)
                    records.append(layout.R_FOUND - moved)
                    records.append(now)
                else:
                    if timeout != -2.0:
                        records.append(poll_start)
                        records.append(layout.R_POLL)
                        records.append(timeout)
                    records.append(now)
                    records.append(layout.R_ACTIVE)
                    records.append(moved)
                    records.append(base)
                    records.append(layout.R_DUE)
                    records.append(due)
                if moved + due > 4:
                    now = clock()
            elif timeout == 0.0:
                records.append(poll_start)
                records.append(layout.R_SPIN)
                records.append(now)
            else:
                if timeout != -2.0:
                    records.append(poll_start)
                    records.append(layout.R_POLL)
                    records.append(timeout)
                records.append(now)
                records.append(layout.R_ACTIVE)
                records.append(0)
            if now - last_publish > 0.001:
                publish[layout.W_RUNNING] = last_publish = now
            # 5. the handles. In chunks, so that one long iteration cannot fill memory with records.
            left = len(ready)
            newcomer = fresh[0] if fresh else nobody
            if self._debug:
                now = self._run_recorded_debugged(recorder, left, now)
                left = 0
            while left:
                count = left if left <= _CHUNK else _CHUNK
                left -= count
                # One alone as in ``_iterate``.
                for handle in islice(handles, count) if count > 1 else (ready.popleft(),):
                    if stamps:
                        if created:
                            define_created()
                        if id(handle) in stamps:
                            recorder.stamped(handle)
                    callback = handle._callback
                    args = handle._args
                    # Who runs: a number whose meaning was written down the first time it was seen.
                    kind = type(callback)
                    task = None
                    try:
                        if kind is step_type:
                            task = callback.__self__
                            if task is newcomer:
                                if not fresh or fresh[0] is not task:  # an iteration within an iteration had it
                                    newcomer = nobody
                                    ident = task._loop_ident
                                else:
                                    fresh.popleft()
                                    recorder.tasks_created += 1
                                    ident = next_task()
                                    try:
                                        code = task.get_coro().cr_code
                                        if code is not last_coroutine:
                                            last_site = site_of[id(code)]
                                            last_coroutine = code
                                        ident += last_site
                                    except (AttributeError, KeyError):
                                        ident += recorder.coroutine_site(task)
                            else:
                                ident = task._loop_ident
                        elif kind is FunctionType:
                            # Often that of the one before: an ``id`` and its look-up are 4 % of a short handle.
                            code = callback.__code__
                            if code is not last_code:
                                last_ident = site_of[id(code)]
                                last_code = code
                            ident = last_ident
                        elif kind is BuiltinMethodType:
                            # A waking task, where its future is the argument: cheaper to see than the method's name.
                            task = callback.__self__
                            if args and type(task) is task_type and task._fut_waiter is args[0]:
                                ident = task._loop_ident
                            else:
                                ident = builtin_sites[type(task)][callback.__name__]
                                task = None
                        elif kind is MethodType:
                            code = callback.__func__.__code__
                            if code is not last_code:
                                last_ident = site_of[id(code)]
                                last_code = code
                            ident = last_ident
                        elif kind is C_METHOD_TYPE:
                            ident = builtin_sites[type(callback.__self__)][callback.__name__]
                        elif kind is partial and type(callback.func) is FunctionType:
                            ident = site_of[id(callback.func.__code__)]
                        elif callback is None and handle._cancelled:
                            records.append(now)
                            records.append(layout.R_SKIP)
                            records.append(len(ready))
                            continue
                        else:
                            ident = identify(callback)
                            if ident >= sites:
                                task = callback.__self__
                                newcomer = fresh[0] if fresh else nobody
                    except LookupError:
                        ident = identify(callback)
                        task = callback.__self__ if ident >= sites else None
                        newcomer = fresh[0] if fresh else nobody
                    except AttributeError:
                        ident = identify(callback) if task is None else define_task(task)
                        newcomer = fresh[0] if fresh else nobody
                    if span_variable is not None:
                        held = handle._context.get(span_variable)
                        if held is not seen:
                            spans.changed(held)
                            seen = held
                    try:
                        if args is nothing:  # there is one empty tuple only: 2 ns less than to ask for its length
                            handle._context.run(callback)
                        elif len(args) == 1:
                            handle._context.run(callback, args[0])
                        else:
                            handle._context.run(callback, *args)
                    except (SystemExit, KeyboardInterrupt):
                        added = 0.0
                        if task is newcomer:
                            added = first_step_done(task, ident)
                        elif task is not None and task.done():
                            recorder.tasks_finished += 1
                            added = outcome_of(task)
                        records += (now, ident, len(ready) + added)
                        raise
                    except BaseException as error:
                        report_failure(handle, error)
                    records.append(now)
                    records.append(ident)
                    if task is None:
                        records.append(len(ready))
                    elif task is newcomer:
                        newcomer = fresh[0] if fresh else nobody
                        if type(task) is plain_task:
                            # ``first_step_done`` written out: with what it calls it is 4 % of a task of one step.
                            text.append((get_referents(task)[name_place] if name_place else task.get_name()) or " ")
                            if not task.done():
                                # Here, since an id would be another task's one day. One that is done needs none, which
                                # spares it a dict.
                                task._loop_ident = ident
                                records.append(len(ready) + first_step)
                            elif task._exception is None and not task.cancelled():
                                recorder.tasks_finished += 1
                                records.append(len(ready) + only_step)
                            else:
                                recorder.tasks_finished += 1
                                records.append(len(ready) + first_step + outcome_of(task))
                        else:
                            records.append(len(ready) + first_step_done(task, ident))
                    elif task.done():
                        # Written out for the usual end: a call for each task that ends is 3 % of making and running it.
                        recorder.tasks_finished += 1
                        if task._exception is None and not task.cancelled():
                            records.append(len(ready) + outcome_result)
                        else:
                            records.append(len(ready) + outcome_of(task))
                    else:
                        records.append(len(ready))
                    now = clock()
                if created:
                    define_created()
                if left:
                    if now - last_flush > _GAUGES_SECONDS:
                        recorder.flush(self, now)
                        last_flush = now
                    else:
                        recorder.write(now)
            # Neither the last handle nor its arguments may outlive their run.
            handle = callback = args = task = found = entry = held = None
            newcomer = nobody
            seen = spans
            if len(records) >= _BATCH or now - last_flush > 0.02:
                if now - last_flush > _GAUGES_SECONDS:
                    recorder.flush(self, now)
                    last_flush = now
                    span_variable = spans.variable
                else:
                    recorder.write(now)
            if once or self._stopping:
                return

    def _run_recorded_debugged(self, recorder: Recorder, count: int, now: float) -> float:
        """Step 5 in debug mode, recorded. Returns the end of the last run."""
        for _ in range(count):
            handle: Any = self._ready.popleft()
            if id(handle) in recorder.stamps:
                recorder.stamped(handle)
            if handle._cancelled:
                recorder.records += (now, layout.R_SKIP, float(len(self._ready)))
                continue
            callback = handle._callback
            ident = recorder.identify(callback)
            if recorder.spans.variable is not None:
                recorder.spans.changed(handle._context.get(recorder.spans.variable))
            try:
                self._run_handle_debugged(handle)
            finally:  # also of a run that ends the loop: SystemExit, KeyboardInterrupt
                outcome = 0.0
                if ident >= layout.SITES and callback.__self__.done():
                    recorder.tasks_finished += 1
                    outcome = recorder.outcome_of(callback.__self__)
                recorder.records += (now, ident, len(self._ready) + outcome)
                handle = callback = None
            if recorder.created:
                recorder.define_created()
            now = self.time()
        return now

    def _run_recorded_for_others(self, recorder: Recorder, handle: Any) -> None:
        """Runs, and records, a handle that somebody else took from the queue; see ``recording/external_runs.py``."""
        runs = recorder.foreign_runs
        callback = handle._callback
        runs.inside = True
        try:
            # The watchdog looks for these three by name, as in the loop's own iteration.
            now, ident = runs.begin(recorder, self, handle), recorder.identify(callback)
            try:
                asyncio.Handle._run(handle)
            finally:
                runs.end(recorder, self, callback, ident, now)
        finally:
            runs.inside = False


def new_event_loop() -> EventLoop:
    """A new loop that records; usable as a ``loop_factory``."""
    return EventLoop()

