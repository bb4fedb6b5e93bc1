"""The recorded iteration: as the plain one (iteration.py), but every handle's run becomes a record.

It is written out in one function, with its names bound to locals, because this is the hot path: a call costs 40 to
60 ns, an attribute of an object 5 to 20 ns, where a whole handle costs 600 to 900 ns. Its contract:

* A run's record is appended whole, after the run and after the loop has released the handle. So freeing its objects
  counts as the run's time, and handles that their finalizers schedule count as scheduled by the run.
* Other threads read ``handle``, ``ident`` and ``now`` (running.py): the run under way, its ident, and its start.
  ``handle`` is None and ``ident`` is not 0 while a finished run's objects are released. Both are empty while the loop
  polls. While the loop moves many timers, ``ident`` is that of its own work.
* Nothing of a run is held when the next one begins: no handle, callback, argument or task.
"""

from __future__ import annotations

import asyncio
import select
import sys
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from gc import get_referents
from heapq import heappop
from itertools import islice, repeat, starmap
from time import monotonic
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from ..record import layout
from . import choose
from .accelerated import change_check
from .choose import Plan, replaces_handle_run
from .handles import report_failure
from .interface import CANCELLED_TIMERS, DUE_TIMERS, LONG_SECONDS, POLL_RESULTS, Recorder
from .iteration import MAX_POLL_SECONDS, beyond_poll, poll_timeout
from .recorded_handles import WAIT_SECONDS, run_through_handles
from .task_types import C_METHOD_TYPE, NAME_PLACE, PLAIN_TASK, STEP_TYPE

# Any event but "writable" makes a reader ready, and the other way round: errors and hang-ups wake both.
_READABLE = ~getattr(select, "EPOLLOUT", 0)
_WRITABLE = ~getattr(select, "EPOLLIN", 0)

# Records wait in a list until there are this many (each three doubles), or the loop has been quiet for _LINGER.
_BATCH = 3 * 1024
_CHUNK = 1024
# A busy loop writes its gauges no more often, however many batches it fills: readers look every 50 ms at most.
_GAUGES_SECONDS = 0.02
# How long the first part of a waiting poll may last before records are flushed and the loop is published as idle:
# a busy server comes back within it, and then pays for neither.
_LINGER_SECONDS = 0.01

# Earlier than the time of any timer.
_NEVER = float("-inf")
# The timeout of a poll whose beginning is in the record already.
_RECORDED = -2.0


def _taken_from(ready: deque[Any]) -> Iterator[Any]:
    """Takes a handle from the ready queue whenever it is asked for one, by C code alone (25 instead of 32 ns each)."""
    return starmap(ready.popleft, repeat(()))


def iterate_recorded(loop: Any, recorder: Recorder, plan: Plan) -> bool:
    """Runs one iteration, or iterations until ``loop.stop()`` was called, and returns True. In the loop's thread.

    Returns False where it has to give up. Either the iteration in C may go on, since what kept it away is gone, or the
    plan does not hold any more. Both are asked after each flush, the second also before the loop waits.
    """
    loop._iteration_frame = sys._getframe()
    ready: deque[Any] = loop._ready
    handles = _taken_from(ready)
    once, epoll, keys, has_own_clock, _ = plan
    recorder.has_own_clock = has_own_clock
    has_changed = change_check(loop, plan)
    poll = None if epoll is None else epoll.poll
    # A test may put a clock of its own on the loop while it runs: its timers then go by that, the record does not.
    own = loop.__dict__
    clocks, standard_clock = vars(time), choose.MONOTONIC
    selector = loop._selector
    placed = getattr(selector, "__dict__", own)
    places = len(placed) + len(own)
    clock: Any = (lambda: loop.time()) if has_own_clock else monotonic
    timers = loop._timer_heap
    heap: Any = timers.heap
    resolution = loop._clock_resolution
    handle_type: Any = asyncio.Handle
    handle_run = handle_type._run if not replaces_handle_run() else None
    stamps = recorder.stamps
    record = recorder.record
    records = record.doubles
    text = record.text
    site_of = recorder.sites
    identify = recorder.identify
    builtin_sites = recorder.builtin_sites
    tasks = recorder.tasks
    define_task = tasks.define
    fresh = tasks.fresh
    next_number = tasks.next_number
    first_step_done = tasks.first_step_done
    created = tasks.created
    define_created = tasks.define_created
    outcome_of = tasks.outcome_of
    spans = recorder.spans
    span_variable = spans.refresh()
    seen: Any = spans
    last_code: Any = None
    last_ident = 0.0
    last_coroutine: Any = None
    last_site = 0.0
    outcome_result = layout.OUTCOME * layout.OUTCOME_RESULT
    first_step = layout.FIRST
    only_step = first_step + outcome_result
    step_type = STEP_TYPE
    task_type: Any = asyncio.Task
    plain_task = PLAIN_TASK
    name_place = NAME_PLACE
    sites = layout.SITE_LIMIT
    # Sentinel for the task that makes its first step next, while no task waits for its first step. Equals no task.
    no_task: Any = recorder
    nothing = ()
    ident = 0.0
    now = clock()
    last_flush = last_publish = last_asked = now
    # The recorder is asked for its words each time: in the child of a fork that goes on in here they are others.
    recorder.words[layout.W_RUNNING] = now
    while True:
        # 1. timers that were cancelled, and the timeout
        poll_start = now
        if timers.cancelled:
            before = len(heap)
            timers.sweep()
            if before - len(heap) > _CHUNK:
                # A poll that found nothing, for readers: the last run ended here, and what follows is no idle time.
                records += (now, layout.R_SPIN, now)
                poll_start = clock()
                if poll_start - now > LONG_SECONDS:
                    recorder.own_work(CANCELLED_TIMERS, before - len(heap), now, poll_start)
                now = poll_start
        # 2. the poll. ``poll_start`` is the end of the last run.
        other_clock = (
            ("time" in own or clocks["monotonic"] is not standard_clock) and not has_own_clock if heap else False
        )
        if ready or loop._stopping:
            timeout = 0.0
            found = loop._selector.select(0) if poll is None else poll(0, len(keys))
            now = clock()
        else:
            if not once and (len(placed) + len(own) != places or loop._selector is not selector):
                heap = None
                return False  # perhaps a test's ``select``, which moves its time instead of waiting
            if heap:
                timeout = heap[0][0] - (loop.time() if other_clock else now)
                if timeout < 0.0:
                    timeout = 0.0
                else:  # of numpy's numbers the poll takes float64 alone
                    timeout = float(timeout) if timeout <= MAX_POLL_SECONDS else beyond_poll(timeout)
            else:
                timeout = -1.0
            if 0.0 <= timeout <= _LINGER_SECONDS:
                found = loop._selector.select(timeout) if poll is None else poll(timeout, len(keys))
            else:
                found = ()
                if not once:  # code that drives the loop itself expects one poll an iteration
                    found = loop._selector.select(_LINGER_SECONDS) if poll is None else poll(_LINGER_SECONDS, len(keys))
                if not found and not ready:
                    records.append(poll_start)
                    records.append(layout.R_POLL)
                    records.append(timeout)
                    recorder.flush(loop, now)
                    recorder.words[layout.W_RUNNING] = 0.0
                    # The time may have moved under us (a test's clock): computed anew, not subtracted.
                    rest = None if timeout < 0.0 else poll_timeout(timers, loop.time())
                    found = loop._selector.select(rest) if poll is None else poll(rest, len(keys))
                    now = clock()
                    recorder.words[layout.W_RUNNING] = last_publish = last_flush = now
                    timeout = _RECORDED
            if timeout != _RECORDED:
                now = clock()
        # 3. and 4. descriptors and timers
        moved = 0
        if found or once:
            base = len(ready)
            if poll is None:
                loop._process_events(found)
            else:
                for fd, event in found:
                    key = keys.get(fd)
                    if key is None:
                        continue
                    reader, writer = key.data
                    if reader is not None and event & _READABLE:
                        if reader._cancelled:
                            loop._remove_reader(key.fileobj)
                        else:
                            ready.append(reader)
                    if writer is not None and event & _WRITABLE:
                        if writer._cancelled:
                            loop._remove_writer(key.fileobj)
                        else:
                            records.append(len(ready))
                            records.append(layout.R_WRITER)
                            records.append(0.0)
                            ready.append(writer)
                reader = writer = key = None
            moved = len(ready) - base
        due = 0
        # Not later than now: NaN is due, as it is for the standard loop.
        if heap and (not heap[0][0] >= now + resolution or other_clock):
            end = (loop.time() if other_clock else now) + resolution
            ahead = end - resolution - now if other_clock else 0.0
            if not moved:
                base = len(ready)
            while heap and not heap[0][0] >= end:
                entry = heappop(heap)
                timer = entry[2]
                timer._scheduled = False
                if timer._cancelled:
                    timers.cancelled -= 1
                    continue
                ready.append(timer)
                # By the record's clock. NaN and minus infinity are no times that a delay could be reckoned from.
                records.append(entry[0] - ahead if entry[0] > _NEVER else now)
                records.append(layout.R_TIMER)
                records.append(timer._set_at)
                due += 1
                if not due % _CHUNK:
                    ident = recorder.own_work_ident(DUE_TIMERS)  # the watchdog asks what takes so long
                    recorder.write(now)
            timer = entry = None
        if moved or due:
            if moved and not (base or due) and (timeout > 0.0 or timeout == -1.0):
                # One record instead of three: a service with little to do at a time has one for each run.
                records.append(poll_start)
                records.append(layout.R_FOUND - moved)
                records.append(now)
            else:
                if timeout != _RECORDED:
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
                polled = now
                now = clock()
                if now - polled > LONG_SECONDS:
                    recorder.own_work(DUE_TIMERS if due > moved else POLL_RESULTS, moved + due, polled, now)
                ident = 0.0
        elif timeout == 0.0:
            records.append(poll_start)
            records.append(layout.R_SPIN)
            records.append(now)
        else:
            if timeout != _RECORDED:
                records.append(poll_start)
                records.append(layout.R_POLL)
                records.append(timeout)
            records.append(now)
            records.append(layout.R_ACTIVE)
            records.append(0)
        if now - last_publish > 0.001:
            recorder.words[layout.W_RUNNING] = last_publish = now
        # 5. the handles. In chunks, so that one long iteration cannot fill memory with records.
        left = len(ready)
        new_task = fresh[0] if fresh else no_task
        if loop._debug or handle_type._run is not handle_run:
            now, last_flush = run_through_handles(loop, recorder, left, now, last_flush)
            left = 0
        flush_at = last_flush + WAIT_SECONDS
        while left:
            count = left if left <= _CHUNK else _CHUNK
            left -= count
            # One alone is taken without the machinery for many, which costs 50 ns to make.
            for handle in islice(handles, count) if count > 1 else (ready.popleft(),):
                if stamps:
                    if created:
                        define_created(now)
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
                        if task is new_task:
                            if not fresh or fresh[0] is not task:
                                # A nested run of this loop has already taken its first step.
                                new_task = no_task
                                ident = task._loop_ident
                            else:
                                fresh.popleft()
                                tasks.made += 1
                                ident = next_number()
                                try:
                                    code = task.get_coro().cr_code
                                    if code is not last_coroutine:
                                        last_site = site_of[id(code)]
                                        last_coroutine = code
                                    ident += last_site
                                except Exception:  # of the program's own class, it may raise anything
                                    ident += tasks.coroutine_site(task)
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
                            new_task = fresh[0] if fresh else no_task
                except LookupError:
                    ident = identify(callback)
                    task = callback.__self__ if ident >= sites else None
                    new_task = fresh[0] if fresh else no_task
                except AttributeError:
                    ident = identify(callback) if task is None else define_task(task)
                    new_task = fresh[0] if fresh else no_task
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
                    if task is new_task:
                        added = first_step_done(task, ident)
                    elif task is not None and task.done():
                        tasks.finished += 1
                        added = outcome_of(task)
                    records += (now, ident, len(ready) + added)
                    raise
                except BaseException as error:
                    report_failure(handle, error)
                # What the run held is freed in the run's time.
                handle = callback = args = None
                if task is None:
                    length: float = len(ready)
                elif task is new_task:
                    new_task = fresh[0] if fresh else no_task
                    if type(task) is plain_task:
                        # ``first_step_done`` written out: with what it calls it is 4 % of a task of one step.
                        text.append((get_referents(task)[name_place] if name_place else task.get_name()) or " ")
                        if not task.done():
                            # Here, since an id would be another task's one day. One that is done needs none, which
                            # spares it a dict.
                            task._loop_ident = ident
                            task = None
                            length = len(ready) + first_step
                        elif task._exception is None and not task.cancelled():
                            tasks.finished += 1
                            task = None
                            length = len(ready) + only_step
                        else:
                            tasks.finished += 1
                            added = first_step + outcome_of(task)
                            task = None
                            length = len(ready) + added
                    else:
                        added = first_step_done(task, ident)
                        task = None
                        length = len(ready) + added
                elif task.done():
                    # Written out for the usual end: a call for each task that ends is 3 % of making and running it.
                    tasks.finished += 1
                    if task._exception is None and not task.cancelled():
                        task = None
                        length = len(ready) + outcome_result
                    else:
                        added = outcome_of(task)
                        task = None
                        length = len(ready) + added
                else:
                    task = None
                    length = len(ready)
                try:
                    records.append(now)
                    records.append(ident)
                    records.append(length)
                    now = clock()
                except MemoryError:  # the program may well go on, and so does its loop
                    recorder.out_of_memory()
                if now > flush_at:
                    recorder.flush(loop, now)
                    last_flush = now
                    flush_at = now + WAIT_SECONDS
            if created:
                define_created(now)
            if left:
                if now - last_flush > _GAUGES_SECONDS:
                    recorder.flush(loop, now)
                    last_flush = now
                    flush_at = now + WAIT_SECONDS
                else:
                    recorder.write(now)
        # Neither the last handle nor its arguments may outlive their run.
        handle = callback = args = task = found = held = None
        ident = 0.0
        new_task = no_task
        seen = spans
        if len(records) >= _BATCH or now - last_flush > WAIT_SECONDS:
            if now - last_flush > _GAUGES_SECONDS:
                recorder.flush(loop, now)
                last_flush = now
                span_variable = spans.variable
            else:
                recorder.write(now)
        if once or loop._stopping or (last_flush != last_asked and has_changed()):
            heap = None  # a traceback of a handle's may keep this frame
            return bool(once or loop._stopping)
        last_asked = last_flush
