"""The kernel's clocks of a thread: CPU time, time that it waited for a processor, how often it was put on one.

The watchdog reads them for threads of its own process. Each call takes 0.3 to 10 us.
"""

from __future__ import annotations

import threading
import time

from .. import own_threads
from ..kernel_files import schedule_of_thread

try:
    import resource
except ImportError:  # not built everywhere
    resource = None  # type: ignore[assignment]

# What was measured at one moment: clock, CPU time of the loop's thread, CPU time of the process without the watchdog's,
# time the thread has waited for a processor, times it was put on one. All s but the last; -1 where it is not known.
Sample = tuple[float, float, float, float, int]

# The watchdog's thread; the CPU time of its earlier threads; and that of this one when it was asked last (s). The
# watchdog's own work is left out of the process's CPU time: on a machine with many sockets, its search for a holder may
# take a fifth of a short wait, and must not count as another thread's computing.
_own_ident = 0
_own_before = 0.0
_own_last = 0.0

COUNTS_SWITCHES = hasattr(resource, "RUSAGE_THREAD")


class ThreadClocks:
    """The clocks of the thread that makes this object. Any thread may read them."""

    __slots__ = ("_cpu_clock", "_last", "_thread_id")

    def __init__(self) -> None:
        self._thread_id = threading.get_native_id()
        # Asked in the thread itself: for a thread that is gone the behaviour is undefined.
        self._cpu_clock = (
            time.pthread_getcpuclockid(own_threads.get_ident()) if hasattr(time, "pthread_getcpuclockid") else -1
        )

        self._last: Sample = (0.0, -1.0, 0.0, -1.0, -1)

    def are_of_this_thread(self) -> bool:
        """Whether the calling thread made them."""
        return self._thread_id == threading.get_native_id()

    def known(self) -> tuple[int, int, float, float, int]:
        """For turns in C (quiet_turns.py): the thread's CPU clock, its number, and its last measurements."""
        _, cpu, _, wait, slices = self._last
        return self._cpu_clock, self._thread_id, cpu, wait, slices

    def take(self, sample: Sample) -> None:
        """Takes over the last sample, which was measured in C."""
        self._last = sample

    def sample(self) -> Sample:
        """Measures now. The time spent waiting for a processor costs most of it."""
        try:
            cpu = time.clock_gettime(self._cpu_clock) if self._cpu_clock != -1 else -1.0
        except OSError:  # the thread is gone
            cpu = -1.0
        _, last_cpu, _, wait, slices = self._last
        # A thread without new CPU time was not put on a processor, so the other values have not changed.
        if cpu != last_cpu or cpu < 0.0:
            schedule = schedule_of_thread(self._thread_id)
            wait, slices = schedule.waited_s, schedule.slices
        self._last = (time.monotonic(), cpu, _process_cpu(), wait, slices)
        return self._last


def switches() -> int:
    """All voluntary context switches of the calling thread; 0 if they are not counted for threads."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if COUNTS_SWITCHES else 0


def watchdog_begins() -> int:
    """The calling thread becomes the watchdog's. Returns the kernel's number of it."""
    global _own_ident, _own_last
    _own_ident, _own_last = own_threads.get_ident(), 0.0
    return threading.get_native_id()


def watchdog_ends() -> None:
    """The calling thread, which was the watchdog's, ends; the next one may have begun."""
    global _own_ident, _own_before, _own_last
    _own_before += time.thread_time()
    if _own_ident == own_threads.get_ident():
        _own_ident, _own_last = 0, 0.0


def forget_watchdog() -> None:
    """In the child of a fork, whose clock begins at 0."""
    global _own_ident, _own_before, _own_last
    _own_ident = 0
    _own_before = _own_last = 0.0


def ended_watchdogs_cpu() -> float:
    """CPU time of this process's earlier watchdog threads, s."""
    return _own_before


def _process_cpu() -> float:
    """CPU time of this process, s, without the watchdog's."""
    global _own_last
    if own_threads.get_ident() == _own_ident:
        _own_last = time.thread_time()
    return time.process_time() - _own_before - _own_last
