"""What the watchdog reads of the kernel's files: without giving the GIL away, on the C core.

A loop that is blocked computes, as a rule, and takes the GIL whenever it is free: with ``os.open`` and ``os.read`` a
look takes 5 ms for each of its steps, and while a C call keeps the GIL it takes as long as that lasts. Only for files
of /proc, which the kernel makes out of this process's memory. Control groups are read in the usual way: there it may
wait for a lock of the whole machine.
"""

from __future__ import annotations

import functools
import os
import sys
from types import ModuleType

from ..core.choose import core
from ..record.proc import Schedule, parse_schedule, schedule_of


@functools.cache
def _extension() -> ModuleType | None:
    return core().native


def read(path: str) -> bytes:
    """The first 4,096 bytes of a file; OSError where it cannot be read."""
    native = _extension()
    if native is not None:
        return bytes(native.read_kernel_file(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def schedule_of_thread(thread: int) -> Schedule:
    """As ``record.proc.schedule_of``, of a thread of this process."""
    if _extension() is None:
        return schedule_of(thread)
    try:
        return parse_schedule(read(f"/proc/self/task/{thread}/schedstat"))
    except OSError:
        return parse_schedule(b"")


def threads() -> list[int]:
    """The kernel's numbers of the threads of this process; empty where they are not known."""
    if sys.platform != "linux":
        return []
    native = _extension()
    try:
        if native is not None:
            return list(native.list_threads())
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:
        return []
