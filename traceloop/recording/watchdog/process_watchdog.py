"""The one watchdog of this process, and what happens to it at a fork and at the process's end.

Its thread is gone before a fork (a fork beside a thread makes CPython 3.12 warn) and started again afterwards.
"""

from __future__ import annotations

import atexit
import os
import sys

from ...record.proc import own_pid
from ..process import Process
from .thread_clocks import forget_watchdog
from .watchdog import Watchdog

# Without a GIL another thread's frames change while they are looked at.
_HAS_GIL = bool(getattr(sys, "_is_gil_enabled", lambda: True)())
_active: Watchdog | None = None


def watchdog_of(process: Process) -> Watchdog | None:
    """The watchdog of this process, made at the first call; None for the recording of a run that the process has left,
    and in the child of a fork for its parent's.
    """
    global _active
    if process.pid != own_pid() or process.left or not _HAS_GIL:
        return None
    active = _own()
    if active is None or active._process is not process:
        if active is not None:
            active.end()
        _active = Watchdog(process, process.settings.slow_patterns, process.settings.threshold_for)
    return _active


def _own() -> Watchdog | None:
    """The watchdog, if it is this process's. A fork from C runs none of the hooks below. Its child then has the
    parent's watchdog, whose thread does not exist here and may have held the lock that `end` takes.
    """
    if _active is not None and _active._process.pid != own_pid():
        _after_fork_in_child()
    return _active


def _before_fork() -> None:
    active = _own()
    if active is not None:
        active.stop()


def _after_fork_in_parent() -> None:
    if _active is None:
        return
    if sys.version_info[:2] == (3, 13) or sys.version_info >= (3, 15):
        # 3.13.0 and 3.15 count the threads for fork's warning only after this: the next flush of a loop starts ours.
        _active.paused = True
        _active.interrupted.note_forked()
    else:
        _active.resume()


def _after_fork_in_child() -> None:
    global _active
    forget_watchdog()
    if _active is not None:
        _active.faults.forget()
        _active = None


def pause() -> None:
    """No thread of ours until a loop flushes next."""
    active = _own()
    if active is not None:
        active.pause()


def withdraw() -> None:
    """No dumps on demand from now on. Called while the process may still remove the file that advertises them."""
    active = _own()
    if active is not None:
        active.faults.withdraw(for_good=True)


def end() -> None:
    """This process ends: no watchdog from now on."""
    active = _own()
    if active is not None:
        active.end()


# After logging's own hooks, and hence before them at a fork: the thread may be waiting for a handler's lock.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(end)
