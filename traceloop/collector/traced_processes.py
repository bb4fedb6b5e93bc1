"""Processes of a run that do not record: the root, and children that may still begin to.

A process is named by pid and start time (in clock ticks since boot), so that a pid given anew is not taken for the
one that had it.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Container

from traceloop.record import files
from traceloop.record.proc import is_alive, process_start_ticks, process_usage
from traceloop.settings import RUN_DIR

_CLOCKS_DIFFER_SECONDS = 2.0


class Root:
    """The process that began the run. ``pid`` 0: it is not known, and counts as gone. For one thread.

    ``left``: a file that appears when it lives on and has left the run (`Run.stop`).
    """

    def __init__(self, pid: int, left: str = "") -> None:
        self._left = left
        self.pid = pid
        self.start_ticks = process_start_ticks(pid) if pid else 0
        self._handle = -1
        self._ended = select.poll()
        if pid and hasattr(os, "pidfd_open"):
            try:
                handle = os.pidfd_open(pid)
            except OSError:
                return  # gone already, or an old kernel
            if process_start_ticks(pid) == self.start_ticks:
                self._handle = handle
                self._ended.register(handle, select.POLLIN)
            else:
                os.close(handle)  # another process has the pid by now

    @property
    def handle(self) -> int:
        """A descriptor that can be read when the root has ended, so that this is seen at once; -1 where there is none,
        or no more news to come of it.
        """
        if self._handle >= 0 and not self.alive:
            os.close(self._handle)
            self._handle = -1
        return self._handle

    @property
    def alive(self) -> bool:
        """Whether the process still runs and belongs to the run, even if it has become another program."""
        if self.pid == 0 or not self._runs():
            return False
        return not (self._left and os.path.exists(self._left))

    def _runs(self) -> bool:
        if self._handle >= 0:
            return not self._ended.poll(0)  # a tenth of what asking /proc costs
        return is_alive(self.pid, self.start_ticks)

    def owns(self, pid: int, start_ticks: int) -> bool:
        """Whether a folder of that pid and start is the root's."""
        return pid == self.pid and (not self.start_ticks or start_ticks in (0, self.start_ticks))


def living_root(run_dir: str) -> int:
    """The pid of the process that began the run, by ``run.json``; 0 where it has ended, or nothing is known of it."""
    try:
        with files.open_file(os.path.join(run_dir, files.RUN)) as file:
            described = json.loads(file.read(1 << 20))
        pid, began = int(described["pid"]), float(described["started_ns"]) / 1e9
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0
    if os.path.exists(os.path.join(run_dir, files.LEFT)) or not is_alive(pid):
        return 0
    usage = process_usage(pid)
    # A pid may have been given anew; the process was there before the file was written (the clocks differ a little).
    return pid if usage is None or usage.started <= began + _CLOCKS_DIFFER_SECONDS else 0


def processes_of_run(run_dir: str, known: Container[int]) -> list[int]:
    """Pids of living Python processes of the run that are not ``known``: children that are still starting.

    They are found by the run's variable in the environment that they were started with.
    """
    marker = f"{RUN_DIR}={run_dir}".encode()
    out: list[int] = []
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return out
    for pid in pids:
        if pid == os.getpid() or pid in known:
            continue
        try:
            if "python" not in os.path.basename(os.readlink(f"/proc/{pid}/exe")):
                continue
            with open(f"/proc/{pid}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:
            continue
        if marker in variables and is_alive(pid):
            out.append(pid)
    return out
