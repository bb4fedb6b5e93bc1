"""How the loop learns that a child process has exited.

Up to 3.13 the event loop policy has a child watcher, users may set one, and the standard loop asks it; so
does ours. From 3.14 on each loop has its own, without a choice: a pidfd in its selector where the kernel has
them (Linux 5.3), else a thread for each child. The same two serve below 3.14 where the policy has none to
offer (uvloop's policy). Both reap the child in the loop's thread, so that no signal is sent to a number that
was reaped in between.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import warnings
from asyncio import events, unix_events
from collections.abc import Callable
from typing import Any

_standard: Any = unix_events

# ``loop._watcher`` is looked at with isinstance (3.14); nothing of these classes is used.
_PidfdBase: Any = getattr(unix_events, "_PidfdChildWatcher", object)
_ThreadedBase: Any = getattr(unix_events, "_ThreadedChildWatcher", object)

# The status of a child whose real one was reaped by other code.
_UNKNOWN_STATUS = 255


class PidfdChildWatcher(_PidfdBase):  # type: ignore[misc]
    """Polls a descriptor for each child."""

    def add_child_handler(self, pid: int, callback: Callable[..., object], *args: Any) -> None:
        """Calls ``callback(pid, status, *args)`` in the running loop when the child has exited."""
        loop: Any = events.get_running_loop()
        pidfd = os.pidfd_open(pid)
        loop._add_reader(pidfd, self._do_wait, pid, pidfd, callback, args)

    def _do_wait(self, pid: int, pidfd: int, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        loop: Any = events.get_running_loop()
        loop._remove_reader(pidfd)
        try:
            _, status = os.waitpid(pid, 0)
        except ChildProcessError:
            returncode = _UNKNOWN_STATUS
            _standard.logger.warning(
                "child process pid %d exit status already read:  will report returncode 255", pid
            )
        else:
            returncode = _standard.waitstatus_to_exitcode(status)
        finally:
            os.close(pidfd)
        callback(pid, returncode, *args)


class ThreadedChildWatcher(_ThreadedBase):  # type: ignore[misc]
    """Waits for each child in a daemon thread."""

    def __init__(self) -> None:
        self._pid_counter = itertools.count(0)
        self._threads: dict[int, threading.Thread] = {}

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if any(thread.is_alive() for thread in list(self._threads.values())):
            _warn(
                f"{type(self)} has registered but not finished child processes", ResourceWarning, source=self
            )

    def add_child_handler(self, pid: int, callback: Callable[..., object], *args: Any) -> None:
        """Calls ``callback(pid, status, *args)`` in the running loop when the child has exited."""
        thread = threading.Thread(
            target=self._do_waitpid,
            name=f"asyncio-waitpid-{next(self._pid_counter)}",
            args=(events.get_running_loop(), pid, callback, args),
            daemon=True,
        )
        self._threads[pid] = thread
        thread.start()

    def _do_waitpid(
        self, loop: Any, expected_pid: int, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        assert expected_pid > 0
        if hasattr(os, "waitid"):
            _wait_without_reaping(expected_pid)
            job: tuple[Any, ...] = (self._reap_and_notify, loop, expected_pid, callback, args)
        else:
            # Reaped here, in this thread: a signal sent at this moment may reach another process that got the same pid.
            job = (callback, *self._reap(loop, expected_pid), *args)
        try:
            if loop.is_closed():
                raise RuntimeError
            loop.call_soon_threadsafe(*job)
        except RuntimeError:
            # No other code will reap it.
            pid = self._reap(loop, expected_pid)[0] if hasattr(os, "waitid") else expected_pid
            _standard.logger.warning("Loop %r that handles pid %r is closed", loop, pid)
        self._threads.pop(expected_pid)

    def _reap_and_notify(
        self, loop: Any, expected_pid: int, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        callback(*self._reap(loop, expected_pid), *args)

    def _reap(self, loop: Any, expected_pid: int) -> tuple[int, int]:
        try:
            pid, status = os.waitpid(expected_pid, 0)
        except ChildProcessError:
            _standard.logger.warning("Unknown child process pid %d, will report returncode 255", expected_pid)
            return expected_pid, _UNKNOWN_STATUS
        returncode: int = _standard.waitstatus_to_exitcode(status)
        if loop.get_debug():
            _standard.logger.debug("process %s exited with returncode %s", expected_pid, returncode)
        return pid, returncode


def _wait_without_reaping(pid: int) -> None:
    try:
        while True:
            result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            if result is None or result.si_code != os.CLD_STOPPED:
                return
            # macOS tells of a stop here, too; once that is taken the wait goes on.
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG)
    except ChildProcessError:
        # Reaped by other code.
        return


def _can_use_pidfd() -> bool:
    if sys.version_info >= (3, 12):
        return bool(_standard.can_use_pidfd())
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        # No such call on this system, or none allowed (seccomp).
        return False
    return True


def make_watcher() -> PidfdChildWatcher | ThreadedChildWatcher:
    """A watcher of a loop's own."""
    return PidfdChildWatcher() if _can_use_pidfd() else ThreadedChildWatcher()
