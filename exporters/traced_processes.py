"""Who of a run lives: the processes that record into its directory, and those that may yet begin to.

A process is named by pid and start time (in clock ticks since boot), so that a pid given anew is not taken for the
one that had it. An exec keeps both and begins a new folder, ``p-PID-START-2``: the older folder is then finished.
"""

from __future__ import annotations

import os

from traceloop.settings import RUN_DIR


def stat_of(pid: int) -> tuple[str, int] | None:
    """A process's state as in proc(5), and its start in clock ticks since boot.

    None where there is no such process, or no /proc.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return fields[0].decode("ascii", "replace"), int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def parse_folder(name: str) -> tuple[int, int, int] | None:
    """Pid, start and number of a process's folder ``p-PID-START[-N]``; None for anything else."""
    parts = name.split("-")
    if parts[0] != "p" or not 3 <= len(parts) <= 4:
        return None
    if not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts[1:]):
        return None
    pid, start_ticks, *number = (int(part) for part in parts[1:])
    return pid, start_ticks, number[0] if number else 1


def is_alive(pid: int, start_ticks: int = 0) -> bool:
    """Whether the process runs. A zombie does not: it writes nothing more."""
    stat = stat_of(pid)
    if stat is not None:
        return stat[0] not in "ZXx" and start_ticks in (0, stat[1])
    if os.path.exists("/proc/self/stat"):
        return False
    try:  # no /proc (macOS)
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


class TracedProcess:
    """One folder of the run directory."""

    def __init__(self, path: str, pid: int, start_ticks: int, number: int) -> None:
        self.path = path
        self.pid = pid
        self.start_ticks = start_ticks
        self.number = number
        #: A later program of the same process records elsewhere: this folder gets nothing more.
        self.superseded = False
        #: Its end was seen: nothing will be written after this.
        self.over = False
        #: It ended without saying so.
        self.crashed = False
        #: All that it wrote has been read.
        self.drained = False

    @property
    def key(self) -> tuple[int, int]:
        """What a process keeps over an exec."""
        return self.pid, self.start_ticks

    def has_ended(self) -> bool:
        """Whether it said that it will write nothing more."""
        return os.path.exists(os.path.join(self.path, "ended"))

    def look(self) -> None:
        """Finds out whether it is over. Only what is read after this call is sure to be all."""
        if self.over:
            return
        if self.has_ended() or self.superseded:
            self.over = True
        elif not is_alive(self.pid, self.start_ticks):
            # The file may have been made between the two looks.
            self.crashed = not self.has_ended()
            self.over = True


class TracedProcesses:
    """The processes of one run directory. Used by one thread."""

    def __init__(self, run_dir: str, root_pid: int = 0) -> None:
        self.run_dir = run_dir
        self.by_folder: dict[str, TracedProcess] = {}
        self.root_pid = root_pid
        root = stat_of(root_pid) if root_pid else None
        self.root_start_ticks = root[1] if root is not None else 0

    def scan(self) -> list[TracedProcess]:
        """Looks at the directory; returns the processes that are new."""
        new: list[TracedProcess] = []
        try:
            names = os.listdir(self.run_dir)
        except OSError:
            return new
        for name in names:
            parts = parse_folder(name) if name not in self.by_folder else None
            if parts is None:
                continue
            process = TracedProcess(os.path.join(self.run_dir, name), *parts)
            self.by_folder[name] = process
            new.append(process)
        for process in new:
            for other in self.by_folder.values():
                if other.key == process.key and other.number != process.number:
                    older = other if other.number < process.number else process
                    older.superseded = True
        return new

    def forget(self, process: TracedProcess) -> None:
        """Lets go of one that is over and read, once its folder is gone."""
        self.by_folder.pop(os.path.basename(process.path), None)

    def root_alive(self) -> bool:
        """Whether the process that began the run still runs."""
        return self.root_pid != 0 and is_alive(self.root_pid, self.root_start_ticks)

    def is_root(self, process: TracedProcess) -> bool:
        """Whether the process is the one that began the run."""
        return process.pid == self.root_pid and self.root_start_ticks in (0, process.start_ticks)

    def root_finished(self) -> bool:
        """Whether the root is gone, or has said that it records nothing more."""
        newest: TracedProcess | None = None
        for process in self.by_folder.values():
            if self.is_root(process) and (newest is None or process.number > newest.number):
                newest = process
        if newest is not None and newest.over:
            return True
        return not self.root_alive()

    def all_over(self) -> bool:
        """Whether every process that is known is over and read."""
        return all(process.over and process.drained for process in self.by_folder.values())

    def expected(self) -> list[int]:
        """Living Python processes of this run that have no folder yet: children that are still starting.

        They are known by the run's variable in the environment they were started with.
        """
        known = {process.pid for process in self.by_folder.values()}
        marker = f"{RUN_DIR}={self.run_dir}".encode()
        out: list[int] = []
        own = os.getpid()
        try:
            pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        except OSError:
            return out
        for pid in pids:
            if pid == own or pid in known:
                continue
            try:
                if b"python" not in os.path.basename(os.readlink(f"/proc/{pid}/exe")).encode():
                    continue
                with open(f"/proc/{pid}/environ", "rb") as file:
                    variables = file.read().split(b"\0")
            except OSError:
                continue
            if marker in variables and is_alive(pid):
                out.append(pid)
        return out
