"""Threads of ours in the program's process, and the locks that they share with the program's.

They leave all signals to the program's threads. The kernel gives a signal to any thread of the process that does not
block it. A program that blocks a signal in its own threads, in order to wait for it (``sigwait``, ``signalfd``), would
lose it to a thread of ours, or die of it.

They are the interpreter's own, also where gevent or eventlet has replaced these by greenlets. A watchdog that gevent
starts is a greenlet of the loop's own thread, and its first wait stops that thread for good. A greenlet's ident is an
address, on which ``pthread_getcpuclockid`` may crash. Their sleep lets other greenlets run, in the middle of a fork.
"""

from __future__ import annotations

import _thread
import os
import signal
import time
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any


def _genuine(used: Any, *functions: str) -> Any:
    """The module ``used`` as the interpreter has it: a second copy where these of it have been changed already."""
    if all(isinstance(getattr(used, name), BuiltinFunctionType) for name in functions):
        return used
    from importlib.util import find_spec, module_from_spec  # seldom needed

    spec = find_spec(used.__name__)
    if spec is None or spec.loader is None:
        return used
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_found = _genuine(_thread, "start_new_thread", "get_ident")
# Bound now: they may be replaced later.
start_new_thread: Callable[..., int] = _found.start_new_thread
get_ident: Callable[[], int] = _found.get_ident
allocate_lock: Callable[[], _thread.LockType] = _found.allocate_lock
RLock: Callable[[], _thread.RLock] = _found.RLock
sleep: Callable[[float], None] = _genuine(time, "sleep").sleep

_exists = os.path.exists


def wait_until_gone(thread_id: int, seconds: float) -> None:
    """Waits, for so long at most, until the kernel has forgotten a thread that has run its last line of Python: on a
    busy machine the thread may have to wait for its turn to go.
    """
    deadline = time.monotonic() + seconds
    while _exists(f"/proc/self/task/{thread_id}") and time.monotonic() < deadline:
        sleep(0.0002)


# A thread's own faults raise these: blocked, they would end the process before faulthandler has seen them.
_OF_FAULTS = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS"}
_BLOCKED = signal.valid_signals() - {getattr(signal, name) for name in _OF_FAULTS if hasattr(signal, name)}


def start_without_signals(start: Callable[[], object]) -> None:
    """Calls ``start``, which starts a thread: the new one takes no signals. It begins with the mask of the thread that
    makes it, and so do those that it makes itself.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
