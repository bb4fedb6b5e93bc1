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

# What was measured at one moment: clock, CPU time of the loop's thread, CPU time of the process, time the thread has
# waited for a processor, times it was put on one. All s but the last; -1 where it is not known.
Sample = tuple[float, float, float, float, int]

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
        self._last = (time.monotonic(), cpu, time.process_time(), wait, slices)
        return self._last


def switches() -> int:
    """Voluntary context switches of the calling thread, ever; 0 where they are not counted for threads."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if COUNTS_SWITCHES else 0
