"""The event loop: its parts, and its life.

What it does again and again, poll and run handles, is the core's: ``core/iteration.py`` says it plainly, and
``core/recorded_iteration.py`` is what usually runs.
"""

from __future__ import annotations

import asyncio
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..core.accelerated import accelerated, run_native
from ..core.choose import Originals, core, has_own_clock, plan, replaces_iteration
from ..core.iteration import iterate
from ..core.recorded_handles import run_taken
from ..core.recorded_iteration import iterate_recorded
from ..core.standard import base_events
from ..recording.recorder import Recorder, make_recorder
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
from .replaced import follow_replaced
from .scheduling import SchedulingMixin
from .signals import SignalsMixin
from .wakeup import WakeupMixin

# In C; ``events._set_running_loop`` may be a function in Python by now (instrument/rebinding.py).
_SET_RUNNING_LOOP: Any = getattr(asyncio.events, "_c__set_running_loop", asyncio.events._set_running_loop)

# Untyped: what it inherits is to be nothing, and our signatures hold for five versions of it.
_StandardLoop: Any = asyncio.SelectorEventLoop


class EventLoop(
    SchedulingMixin,
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

    #: Whether the iteration under way is one of the core in C, which has its own.
    _runs_natively = False
    #: The frame of the recorded iteration in Python while it runs: the watchdog's thread looks at it.
    _iteration_frame: FrameType | None = None

    def __init__(self, selector: Any = None, *, recorder: Recorder | bool | None = None) -> None:
        self._recorder: Recorder | None = None
        self._ready = self._new_queue()
        self._task_factory = None
        self._internal_fds = 0
        self._clock_resolution: float = time.get_clock_info("monotonic").resolution
        self._timer_heap = self._new_timers()
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
        self._check_closed()
        self._check_running()
        try:
            self._run_forever_setup()  # a signal's handler may raise in it
            self._run_until_stopped()
        finally:
            # First, and with no call of Python code before it: where that begins, a signal's handler may raise. The
            # thread would have a running loop for good.
            self._stopping = False
            self._thread_id = None
            _SET_RUNNING_LOOP(None)
            self._run_forever_cleanup()

    def _run_until_stopped(self) -> None:
        if replaces_iteration(self, _ORIGINALS):
            self._run_external_iterations()
            return
        recorder = self._recorder
        if recorder is None:
            iterate(self, once=False)
            return
        recorder.loop_started(self)
        try:
            # Planned anew each time: what ends one of the two may be what a plan goes by. The record keeps its clock.
            own_clock = recorder.has_own_clock
            while not run_native(self, recorder, plan(self, _ORIGINALS, own_clock)):
                if iterate_recorded(self, recorder, plan(self, _ORIGINALS, own_clock)):
                    break
                self._iteration_frame = None
        finally:
            self._iteration_frame = None
            recorder.loop_stopped(self)

    def _run_external_iterations(self) -> None:
        """The program's own iteration (nest_asyncio, a subclass) is asked for one at a time."""
        try:
            while True:
                self._run_once()
                if self._stopping:
                    return
        finally:
            if self._recorder is not None:
                self._recorder.external_stopped(self)

    def _run_once(self) -> None:
        """Runs one iteration. Called by code that drives the loop itself (nest_asyncio, subclasses), perhaps from a
        handle.
        """
        recorder = self._recorder
        if recorder is None:
            iterate(self, once=True)
            return
        recorder.external_iteration(self)
        # The core in C does not know of this poll: other threads have to write into the self-pipe to end it.
        native, self._runs_natively = self._runs_natively, False
        outer = self._iteration_frame
        try:
            iterate_recorded(self, recorder, plan(self, _ORIGINALS, has_own_clock(self), once=True))
        finally:
            self._runs_natively = native
            self._iteration_frame = outer

    def _run_taken(self, recorder: Recorder, handle: Any) -> None:
        """Runs a handle that code which drives the loop itself has taken from the queue."""
        run_taken(self, recorder, handle)

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
        self._closed = self._checks_calls = True
        self._ready.clear()
        self._timer_heap.clear()
        self._close_executors()
        # Before the self-pipe goes, into which the interpreter writes them.
        self._close_signals()
        self._close_poller()
        if self._recorder is not None:
            self._recorder.external_stopped(self)
            self._recorder.loop_closed(self)


follow_replaced(EventLoop)

_ORIGINALS = Originals(EventLoop._run_once, EventLoop._process_events)


#: The loop with nothing in C, whichever core was chosen.
PythonEventLoop = EventLoop

if not TYPE_CHECKING:
    _native = core().native
    if _native is not None:
        EventLoop = accelerated(PythonEventLoop, _native, vars(time))


def new_event_loop() -> EventLoop:
    """A new loop that records; usable as a ``loop_factory``."""
    return EventLoop()

