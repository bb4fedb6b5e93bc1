"""The event loop with its hot part in C: the same class, with ``_core.Scheduling`` before it.

The C code is in ``native/``; its header lists the files. It does only the plain case. In debug mode, and on a loop that
the program has changed or drives itself, the Python iteration runs on the same handles, timers and records.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from .choose import Plan, polls_otherwise
from .handles import TimerHandle, run_for_others
from .interface import Recorder


def accelerated(loop_class: type, native: ModuleType, clock_globals: dict[str, Any]) -> type:
    """``loop_class`` with its hot part in C. ``clock_globals``: the names of ``time``, which has its clock."""
    native.Handle._run = native.TimerHandle._run = run_for_others
    native.TimerHandle.__getitem__ = TimerHandle.__getitem__
    native.set_clock(clock_globals)
    base: Any = loop_class
    native.set_streams(base._stream_transport, base._stream_transport._counters)
    members = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "_new_queue": native.ReadyQueue,
        "_new_record": native.Record,
        "_new_timers": native.Timers,
        "_original_time": native.Scheduling.time,
        "_stream_transport": accelerated_stream(base._stream_transport, native),
        # The C methods call these if it is not the plain case.
        "_python_call_at": base.call_at,
        "_python_call_later": base.call_later,
        "_python_call_soon": base.call_soon,
        "_python_call_soon_threadsafe": base.call_soon_threadsafe,
        "_python_create_task": base.create_task,
    }
    made: Any = type(base.__name__, (native.Scheduling, base), members)
    # The methods that the C code stands for. If a class has others, the C code leaves the call to Python (overrides.c).
    made._originals = (
        made.call_at,
        made.time,
        made._run_once,
        made._process_events,
        made._timer_handle_cancelled,
        made._write_to_self,
    )
    result: type = made
    return result


def accelerated_stream(transport_class: type, native: ModuleType) -> type:
    """The class of stream transports with its hot part in C. It has the layout of ``transport_class``."""
    base: Any = transport_class
    members = {
        "__slots__": (),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "_own_write": native.Stream.write,
        "_python_write": base.write,
    }
    made: type = type(base.__name__, (native.Stream, base), members)
    return made


def run_native(loop: Any, recorder: Recorder, plan: Plan) -> bool:
    """Runs iterations in C until ``loop.stop()`` was called, and returns True. Returns False if the Python iteration
    has to begin or go on. Stacks are cut below this function (record/frames.py).
    """
    if not _suits_native(loop, plan):
        return False
    stopped: bool = loop._run_native(recorder, loop._selector, plan.epoll, plan.keys, loop._clock_resolution)
    return stopped


def change_check(loop: Any, plan: Plan) -> Callable[[], bool]:
    """What tells whether the Python iteration has to give up: ``run_native`` may go on, or the plan does not hold any
    more.
    """
    may_run_native: Callable[[], bool] = loop._may_run_native if _suits_native(loop, plan) else bool
    return lambda: may_run_native() or polls_otherwise(loop, plan)


def _suits_native(loop: Any, plan: Plan) -> bool:
    return not (plan.once or plan.epoll is None or plan.own_clock) and hasattr(loop, "_run_native")
