"""What the kernel says about processes and threads. Only this module parses /proc (proc(5)).

A process is identified by its pid and its start, so that a later process with the same pid is not mistaken for it.
Without /proc (macOS) only ``is_alive`` knows anything, by signal 0.
"""

from __future__ import annotations

import os

# No typing, functools or collections: this is read at the program's start, before anything of its own.

#: The pid of this process. Bound here: tests that replace ``os.getpid`` mean the application's calls.
own_pid = os.getpid


class Stat:
    """A process or thread. ``state``: one letter. cpu_s: user and system. start_ticks: clock ticks since boot.
    in_background: another process group than its own has its terminal. is_exiting: it ends, or has ended.
    """

    __slots__ = ("cpu_s", "in_background", "is_exiting", "resident_bytes", "start_ticks", "state")

    def __init__(
        self,
        state: str,
        cpu_s: float,
        start_ticks: int,
        resident_bytes: int,
        in_background: bool,
        is_exiting: bool,
    ) -> None:
        self.state = state
        self.in_background = in_background
        self.is_exiting = is_exiting
        self.cpu_s = cpu_s
        self.start_ticks = start_ticks
        self.resident_bytes = resident_bytes


class ProcessUsage:
    """resident_bytes; cpu_s of user and system; open_fds (-1 where it may not be asked); started: s of wall clock."""

    __slots__ = ("cpu_s", "open_fds", "resident_bytes", "started")

    def __init__(self, resident_bytes: int, cpu_s: float, open_fds: int, started: float) -> None:
        self.resident_bytes = resident_bytes
        self.cpu_s = cpu_s
        self.open_fds = open_fds
        self.started = started


def _read(path: str) -> bytes:
    # Without Python's file objects it takes a third of the time, and the collector asks several times a poll.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, _AT_ONCE)
        if len(data) == _AT_ONCE:
            while part := os.read(descriptor, _AT_ONCE):
                data += part
        return data
    finally:
        os.close(descriptor)


# The kernel gives a file of /proc in one read where there is room for it.
_AT_ONCE = 1 << 14


_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Of the kernel's flags of a process (include/linux/sched.h): it ends, and closes its files meanwhile.
_PF_EXITING = 0x4


def _stat(path: str) -> Stat:
    """Raises OSError where it cannot be read, ValueError or IndexError where it has another form."""
    # The command's name, in parentheses, may itself have parentheses and spaces.
    fields = _read(path).rpartition(b")")[2].split()
    return Stat(
        fields[0].decode("ascii", "replace"),
        (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND,
        int(fields[19]),
        int(fields[21]) * _PAGE_BYTES,
        fields[4] != b"0" and fields[5] != fields[2],  # tty_nr; tpgid, pgrp
        bool(int(fields[6]) & _PF_EXITING),
    )


def stat_of(pid: int, thread: int | None = None) -> Stat | None:
    """A process, or one of its threads; None if it has gone or cannot be asked, or if there is no /proc."""
    try:
        return _stat(f"/proc/{pid}/stat" if thread is None else f"/proc/{pid}/task/{thread}/stat")
    except (OSError, ValueError, IndexError):
        return None


def process_start_ticks(pid: int | str = "self") -> int:
    """When a process started, in clock ticks since boot: with the pid it names one process for good.

    0 if it has gone, or if there is no /proc.
    """
    if pid != "self":
        stat = stat_of(int(pid))
        return stat.start_ticks if stat is not None else 0
    own = own_pid()
    if own not in _own_start:
        _own_start[own] = process_start_ticks(own)
    return _own_start[own]


# By pid: that of this process, and of those that it was forked from.
_own_start: dict[int, int] = {}


def is_alive(pid: int, start_ticks: int = 0) -> bool:
    """Whether the process runs; ``start_ticks`` 0: its start is not known. A zombie does not run: it writes no more.

    Only ENOENT and ESRCH say that a process has gone. If nothing can be asked (no descriptor left, /proc hidden), it
    counts as alive.
    """
    if pid <= 0:
        return False
    try:
        stat = _stat(f"/proc/{pid}/stat")
    except (OSError, ValueError, IndexError):
        # No /proc, or one that hides the processes of others (hidepid), or no descriptor left to look into it.
        return answers(pid)
    return stat.state not in "ZXx" and start_ticks in (0, stat.start_ticks)


def answers(pid: int) -> bool:
    """Whether there is a process of that number, be it a zombie or another one by now; a twentieth of ``is_alive``."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it is another user's
    return True


def is_stopped(pid: int) -> bool:
    """Whether the process stands still: stopped by SIGSTOP or a debugger, or frozen with its control group, which looks
    like sleep. False if it cannot be asked. Takes 15 us, or 60 us for a process that sleeps.
    """
    stat = stat_of(pid)
    return stat is not None and (stat.state in "Tt" or (stat.state in "DS" and _is_frozen(pid)))


def _is_frozen(pid: int) -> bool:
    # The kernel's Documentation/admin-guide: cgroup-v1/freezer-subsystem.rst, and cgroup-v2.rst (cgroup.events). A
    # process may be in a group of each, of which only one is mounted here.
    try:
        lines = _read(f"/proc/{pid}/cgroup").decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return False
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        frozen = False
        if "freezer" in controllers.split(","):
            frozen = _says(f"/sys/fs/cgroup/freezer{path}/freezer.state", b"FROZEN", b"FREEZING")
        elif number == "0" and not controllers:
            frozen = any(_says(f"/sys/fs/cgroup{root}{path}/cgroup.events", b"frozen 1") for root in ("", "/unified"))
        if frozen:
            return True
    return False


def _says(path: str, *lines: bytes) -> bool:
    """Whether a file has one of these lines; False if it cannot be read."""
    try:
        return not set(lines).isdisjoint(_read(path).splitlines())
    except (OSError, ValueError):
        return False


def process_usage(pid: int) -> ProcessUsage | None:
    """A process's usage now; None if there is no such process, or no /proc. Takes about 50 us."""
    stat = stat_of(pid)
    if stat is None:
        return None
    try:
        started = _boot_time() + stat.start_ticks / _TICKS_PER_SECOND
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    try:
        fds = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        fds = -1
    return ProcessUsage(stat.resident_bytes, stat.cpu_s, fds, started)


_booted = 0.0


def _boot_time() -> float:
    global _booted
    if not _booted:
        _booted = next(
            float(line.split()[1]) for line in _read("/proc/stat").splitlines() if line.startswith(b"btime ")
        )
    return _booted


class Schedule:
    """A thread's time (s), and how often it was put on a processor; -1 if it is not known."""

    __slots__ = ("cpu_s", "slices", "waited_s")

    def __init__(self, cpu_s: float, waited_s: float, slices: int) -> None:
        self.cpu_s = cpu_s
        self.waited_s = waited_s
        self.slices = slices


_NO_SCHEDULE = Schedule(-1.0, -1.0, -1)


def schedule_of(thread: int, pid: int | str = "self") -> Schedule:
    """How long a thread ran, and waited for a processor (the kernel's Documentation/scheduler/sched-stats.rst)."""
    try:
        # Without Python's file objects it takes half the time, and the watchdog asks often.
        descriptor = os.open(f"/proc/{pid}/task/{thread}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return parse_schedule(os.read(descriptor, 128))
        finally:
            os.close(descriptor)
    except OSError:
        return _NO_SCHEDULE


def parse_schedule(text: bytes) -> Schedule:
    """What a ``schedstat`` says; unknown values if it has another form."""
    try:
        fields = text.split()
        return Schedule(int(fields[0]) / 1e9, int(fields[1]) / 1e9, int(fields[2]))
    except (ValueError, IndexError):
        return _NO_SCHEDULE


def voluntary_switches_of(thread: int, pid: int | str = "self") -> int:
    """How often a thread left its processor in order to wait for something; -1 if it is not known."""
    try:
        for line in _read(f"/proc/{pid}/task/{thread}/status").splitlines():
            if line.startswith(b"voluntary_ctxt_switches:"):
                return int(line.partition(b":")[2])
    except (OSError, ValueError):
        pass
    return -1


def signal_masks(pid: int | str = "self") -> dict[str, int]:
    """A process's signals: caught (``SigCgt``), ignored (``SigIgn``), blocked (``SigBlk``); signal n is bit n - 1.

    Empty if it has gone or cannot be asked.
    """
    masks: dict[str, int] = {}
    try:
        for line in _read(f"/proc/{pid}/status").splitlines():
            name, _, mask = line.partition(b":")
            if name in (b"SigCgt", b"SigIgn", b"SigBlk"):
                masks[name.decode("ascii")] = int(mask, 16)
    except (OSError, ValueError):
        return {}
    return masks


def pid_namespace() -> int:
    """The number of this process's pid namespace (a container has its own); 0 if it is not known."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
