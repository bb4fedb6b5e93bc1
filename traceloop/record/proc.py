"""What the kernel says of a process: memory, processor time, open files, when it started (proc(5))."""

from __future__ import annotations

import os
from typing import NamedTuple


class ProcessUsage(NamedTuple):
    """resident_bytes; cpu_s of user and system; open_fds (-1 where it may not be asked); started: s of wall clock."""

    resident_bytes: int
    cpu_s: float
    open_fds: int
    started: float


def process_usage(pid: int) -> ProcessUsage | None:
    """A process's usage now; None where there is no such process, or no /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        cpu = (int(fields[11]) + int(fields[12])) / ticks
        resident = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        started = _boot_time() + int(fields[19]) / ticks
    except (OSError, ValueError, IndexError):
        return None
    try:
        fds = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        fds = -1
    return ProcessUsage(resident, cpu, fds, started)


_booted = 0.0


def _boot_time() -> float:
    global _booted
    if not _booted:
        with open("/proc/stat", "rb") as file:
            for line in file:
                if line.startswith(b"btime "):
                    _booted = float(line.split()[1])
                    break
    return _booted
