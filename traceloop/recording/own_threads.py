"""Threads of ours in the program's process leave all signals to the program's.

The kernel gives a signal to any thread of the process that does not block it. A program that blocks a signal in its own
threads, in order to wait for it (``sigwait``, ``signalfd``), would lose it to a thread of ours, or die of it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

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
