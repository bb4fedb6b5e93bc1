"""The watchdog's reads of the kernel's files. On the C core they do not release the GIL.

A blocked loop usually computes, and takes the GIL whenever it is free. So each ``os.open`` or ``os.read`` of the
watchdog would wait 5 ms to get the GIL back, and longer while a C call holds it. This is for files of /proc only, which
the kernel makes from this process's memory. Control groups are read in the usual way: the kernel may wait there for a
lock of the whole machine, and must not do so while we hold the GIL.
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
    """Like ``record.proc.schedule_of``, for a thread of this process. ``thread``: the kernel's number of it."""
    if _extension() is None:
        return schedule_of(thread)
    try:
        return parse_schedule(read(f"/proc/self/task/{thread}/schedstat"))
    except OSError:
        return parse_schedule(b"")


def threads() -> list[int]:
    """The kernel's numbers of this process's threads; empty where they cannot be read."""
    if sys.platform != "linux":
        return []
    native = _extension()
    try:
        if native is not None:
            return list(native.list_threads())
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:
        return []
