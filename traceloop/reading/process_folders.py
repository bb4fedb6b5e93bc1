"""The folders of a run: which processes there are, their rings and site logs, and whether they still live.

    RUN_DIR/p-PID-START[-N]/   process.json  sites  loop-N.ring ...  process.ring  ended

Written by ``traceloop.recording.process``. Files appear at any moment: what is there is asked for at each call, by a
folder's time, and listed again where that has changed.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ..record import files
from ..record.proc import is_alive
from ..record.text import MAX_TEXT, printable, printable_data
from .site_names import SiteLogReader

_MAX_DESCRIPTION = 1 << 20
# A folder is listed again where it changed since, or so shortly before that its time may not tell: file systems count
# in ticks of some milliseconds, ext4 with small inodes in seconds, FAT in steps of two.
_SAME_TICK_NS = 2_500_000_000
_LAST_FILES = frozenset((files.ENDED, files.SNAPSHOT))
# process.json is written when it says that it was: else the file's times are those of a copy.
_SAME_TIME_NS = 10_000_000_000


class _Listing:
    """The names in a folder, empty where there is none. changes: how often they were listed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._names: frozenset[str] = frozenset()
        self._changed_ns = -1
        self.changes = 0

    def names(self) -> frozenset[str]:
        """The names as they are now; the same object where nothing has changed."""
        try:
            changed = os.stat(self._path).st_mtime_ns
            if changed == self._changed_ns:
                return self._names
            now = time.time_ns()
            self._names = frozenset(os.listdir(self._path))
        except OSError:
            changed, now, self._names = -1, 0, frozenset()
        self.changes += 1
        # A time that is too young, or in the future, is not trusted: the next call lists again.
        self._changed_ns = changed if 0 <= changed <= now - _SAME_TICK_NS else -1
        return self._names


class ProcessFolder:
    """One process of a run.

    pid, start_ticks: which process (proc(5)). generation: 1, and more after an exec. description: process.json. name:
    the folder's.
    """

    def __init__(self, path: str, pid: int, start_ticks: int, generation: int) -> None:
        self.path = path
        self.pid = pid
        self.start_ticks = start_ticks
        self.generation = generation
        self.name = os.path.basename(path)
        self.sites = SiteLogReader(os.path.join(path, files.SITES))
        self._listing = _Listing(path)
        self._rings: list[str] = []
        self._rings_of = -1
        self._description: dict[str, Any] = {}

    @property
    def description(self) -> dict[str, Any]:
        """What the process said of itself; only pid and start_ticks where it could not write it down."""
        if not self._description:
            try:
                data = json.loads(files.read_file(os.path.join(self.path, files.PROCESS), _MAX_DESCRIPTION))
            except (OSError, ValueError, RecursionError):
                data = None
            if not isinstance(data, dict):
                return {"pid": self.pid, "start_ticks": self.start_ticks}
            self._description = printable_data(data)
        return self._description

    def rings(self) -> list[str]:
        """Paths of the rings that there are by now: that of the process first, then the loops' in order."""
        names = self._listing.names()
        if self._rings_of != self._listing.changes:
            rings = {files.ring_number(name): name for name in names}
            rings.pop(None, None)
            ordered = sorted(rings.items(), key=lambda ring: ring[0] or 0)
            self._rings = [os.path.join(self.path, name) for _, name in ordered]
            self._rings_of = self._listing.changes
        return self._rings

    @property
    def ended(self) -> bool:
        """Whether the process said that it will write nothing more."""
        return files.ENDED in self._listing.names()

    @property
    def is_snapshot(self) -> bool:
        """Whether this is a copy that was made while the process ran: nothing follows, and it is no crash."""
        return files.SNAPSHOT in self._listing.names()

    @property
    def is_over(self) -> bool:
        """``ended`` or ``is_snapshot``."""
        return not _LAST_FILES.isdisjoint(self._listing.names())

    @property
    def ended_ns(self) -> int:
        """When it said so (wall clock, ns); 0 where it did not, or the files have lost their times."""
        return self._changed_ns(files.ENDED)

    @property
    def noted_ns(self) -> int:
        """When it ended as its collector has it, or the snapshot was taken (wall clock, ns); 0: neither is known."""
        return self._changed_ns(files.USAGE) or self._changed_ns(files.SNAPSHOT)

    def _changed_ns(self, name: str) -> int:
        """When a file of the folder was written. A copy may have files that are all as old as itself."""
        began = self.description.get("realtime_ns")
        try:
            first = os.lstat(os.path.join(self.path, files.PROCESS)).st_mtime_ns
            changed = os.lstat(os.path.join(self.path, name)).st_mtime_ns
        except OSError:
            return 0
        return changed if isinstance(began, int) and abs(first - began) < _SAME_TIME_NS else 0

    @property
    def most_resident_bytes(self) -> int:
        """The most memory that the process had, where its collector has noted it down; else 0."""
        try:
            return min(max(0, int(files.read_file(os.path.join(self.path, files.USAGE), 32))), 1 << 53)
        except (OSError, ValueError):
            return 0

    @property
    def replaced(self) -> float:
        """Records that the loops had written when the process was about to exec another program; -1 where it never was.

        More records than that: the exec failed.
        """
        try:
            return float(files.read_file(os.path.join(self.path, files.EXEC), 32))
        except (OSError, ValueError):
            return -1.0

    @property
    def alive(self) -> bool:
        """Whether the process is still there. One that was replaced by an exec is; see ``RunDirectory.current``."""
        return is_alive(self.pid, self.start_ticks)

    @property
    def age(self) -> float:
        """Seconds since anything was written into the folder itself (rings do not count)."""
        try:
            return max(0.0, time.time() - os.stat(self.path).st_mtime)
        except OSError:
            return 0.0


class RunDirectory:
    """The processes of one run, each found once and kept."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._listing = _Listing(self.path)
        self._found_in: frozenset[str] = frozenset()
        self._folders: dict[str, ProcessFolder] = {}

    def command(self) -> str:
        """What was run, as a shell takes it; "" where it is not known."""
        import shlex  # a collector that nobody asks for the page does without

        try:
            words = json.loads(files.read_file(os.path.join(self.path, files.RUN), _MAX_DESCRIPTION))["command"]
            words = [str(word) for word in words]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return ""
        # Without the program's arguments it is one word, `-m pytest`.
        return printable(shlex.join(words) if len(words) > 1 else "".join(words), MAX_TEXT)

    def processes(self) -> list[ProcessFolder]:
        """All processes found so far, in the order of their start. Empty where there is no such directory."""
        names = self._listing.names()
        for name in names if names is not self._found_in else ():
            if name in self._folders:
                continue
            process = files.parse_process_name(name)
            path = os.path.join(self.path, name)
            if process is not None and os.path.isdir(path) and not os.path.islink(path):
                self._folders[name] = ProcessFolder(path, process.pid, process.start_ticks, process.generation)
        self._found_in = names
        return sorted(self._folders.values(), key=lambda each: (each.start_ticks, each.pid, each.generation))

    def current(self, folder: ProcessFolder) -> bool:
        """Whether no later folder of the same process exists: after an exec the earlier one is written no more."""
        return not any(
            other.pid == folder.pid and other.start_ticks == folder.start_ticks and other.generation > folder.generation
            for other in self._folders.values()
        )

    def writing(self, folder: ProcessFolder) -> bool:
        """Whether the process may still write into its folder."""
        return not folder.is_over and self.current(folder) and folder.alive
