"""What the kernel knows of a thread's time: processor used, processor waited for, how often it was put on one.

Read by the watchdog for the threads of its own process. Each call costs 0.3 to 10 us.
"""

from __future__ import annotations

import threading
import time

from ..kernel_files import schedule_of_thread

try:
    import resource
except ImportError:  # not built everywhere
    resource = None  # type: ignore[assignment]

# What was measured at one moment: clock, CPU time of the loop's thread, CPU time of the process without the watchdog's,
# time the thread has waited for a processor, times it was put on one. All s but the last; -1 where it is not known.
Sample = tuple[float, float, float, float, int]

# The watchdog's thread, what its threads before that one have used of processors, and this one when it asked last (s).
# What the watchdog does while it looks at a blocked loop is no other thread's computing: on a machine with many sockets
# a look for who is waited for takes a fifth of a short wait.
_own_ident = 0
_own_before = 0.0
_own_last = 0.0

COUNTS_SWITCHES = hasattr(resource, "RUSAGE_THREAD")


class ThreadClocks:
    """The clocks of the thread that makes it; to be read from any thread."""

    __slots__ = ("_cpu_clock", "_last", "_thread_id")

    def __init__(self) -> None:
        self._thread_id = threading.get_native_id()
        # Asked for in the thread itself: for a thread that is gone it is undefined behaviour.
        self._cpu_clock = (
            time.pthread_getcpuclockid(threading.get_ident()) if hasattr(time, "pthread_getcpuclockid") else -1
        )

        self._last: Sample = (0.0, -1.0, 0.0, -1.0, -1)

    def known(self) -> tuple[int, int, float, float, int]:
        """For turns in C (quiet_turns.py): the thread's CPU clock, its number, and what was measured of it last."""
        _, cpu, _, wait, slices = self._last
        return self._cpu_clock, self._thread_id, cpu, wait, slices

    def take(self, sample: Sample) -> None:
        """What C has measured last."""
        self._last = sample

    def sample(self) -> Sample:
        """What is measured now; the waiting for a processor is what costs most of it."""
        try:
            cpu = time.clock_gettime(self._cpu_clock) if self._cpu_clock != -1 else -1.0
        except OSError:  # the thread is gone
            cpu = -1.0
        _, last_cpu, _, wait, slices = self._last
        # A thread that has used no CPU time has not been put on a processor: nothing else of it has changed.
        if cpu != last_cpu or cpu < 0.0:
            schedule = schedule_of_thread(self._thread_id)
            wait, slices = schedule.waited_s, schedule.slices
        self._last = (time.monotonic(), cpu, _process_cpu(), wait, slices)
        return self._last


def switches() -> int:
    """Voluntary context switches of the calling thread, ever; 0 where they are not counted for threads."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if COUNTS_SWITCHES else 0


def watchdog_begins() -> int:
    """The calling thread is the watchdog's from now on. Returns the kernel's number of it."""
    global _own_ident, _own_last
    _own_ident, _own_last = threading.get_ident(), 0.0
    return threading.get_native_id()


def watchdog_ends() -> None:
    """The calling thread, which was the watchdog's, ends; the next one may have begun."""
    global _own_ident, _own_before, _own_last
    _own_before += time.thread_time()
    if _own_ident == threading.get_ident():
        _own_ident, _own_last = 0, 0.0


def forget_watchdog() -> None:
    """In the child of a fork, whose clock begins at 0."""
    global _own_ident, _own_before, _own_last
    _own_ident = 0
    _own_before = _own_last = 0.0


def ended_watchdogs_cpu() -> float:
    """CPU time of this process's watchdog threads before this one, s."""
    return _own_before


def _process_cpu() -> float:
    """CPU time of this process, s, without the watchdog's."""
    global _own_last
    if threading.get_ident() == _own_ident:
        _own_last = time.thread_time()
    return time.process_time() - _own_before - _own_last
