"""The folders of a run: which processes there are, their rings and site logs, and whether they still live.

    RUN_DIR/p-PID-START[-N]/   process.json  sites  loop-N.ring ...  process.ring  ended

Written by ``traceloop.recording.process``. Everything is looked for again at each call: files appear at any moment.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from typing import Any

from ..core.site_of import Site
from ..recording.ring import process_start_ticks

_FOLDER = re.compile(r"p-(\d+)-(\d+)(?:-(\d+))?")
_RING = re.compile(r"loop-\d+\.ring|process\.ring")
#: Written by the collector beside the rings of a process that is over: the most memory it had, bytes.
USAGE_NAME = "usage"
_UNKNOWN = Site("", "unknown", "", 0)
# A process that changed its user, or vanished behind a PID namespace, cannot be asked: see ``alive``.
_MAX_LINE = 1 << 20


class SiteNames:
    """The places in the code that idents point to. Number 0, and numbers not (yet) written down, are ``unknown``."""

    def __init__(self, sites: Sequence[Site] = ()) -> None:
        """``sites``: of a process that records privately, its own growing list."""
        self._sites = sites

    def site(self, number: int) -> Site | None:
        """The site of this number; None where it is not written down (yet)."""
        if number == 0:
            return _UNKNOWN
        return self._sites[number] if 0 < number < len(self._sites) else None

    def label(self, number: int) -> str:
        """``module.qualname`` of this number."""
        return (self.site(number) or _UNKNOWN).label


class SiteLogReader(SiteNames):
    """The site log of a folder, read on as it grows. Lines that make no sense are passed over."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._by_number: dict[int, Site] = {}
        self._offset = 0

    def site(self, number: int) -> Site | None:
        """The site of this number, looked for in what was appended where it is not known."""
        if number == 0:
            return _UNKNOWN
        site = self._by_number.get(number)
        if site is None:
            self.read()
            site = self._by_number.get(number)
        return site

    def module_of(self, file: str) -> str:
        """The module of a file, where a callback of it was ever seen; "" otherwise."""
        self.read()
        return next((site.module for site in self._by_number.values() if site.file == file), "")

    def read(self) -> None:
        """Takes in what was appended since the last time."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return
        end = data.rfind(b"\n") + 1  # the last line may be half written
        self._offset += end
        for line in data[:end].split(b"\n"):
            if 0 < len(line) < _MAX_LINE:
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            number, module, qualname, file, position = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            return
        if isinstance(number, int) and isinstance(position, int):
            self._by_number.setdefault(number, Site(str(module), str(qualname), str(file), position))


class ProcessFolder:
    """One process of a run.

    pid, start_ticks: which process (proc(5)). generation: 1, and more after an exec. description: process.json.
    """

    def __init__(self, path: str, pid: int, start_ticks: int, generation: int) -> None:
        self.path = path
        self.pid = pid
        self.start_ticks = start_ticks
        self.generation = generation
        self.sites = SiteLogReader(os.path.join(path, "sites"))
        self._description: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The folder's name."""
        return os.path.basename(self.path)

    @property
    def description(self) -> dict[str, Any]:
        """What the process said of itself; only pid and start_ticks where it could not write it down."""
        if not self._description:
            try:
                with open(os.path.join(self.path, "process.json"), "rb") as file:
                    data = json.loads(file.read(_MAX_LINE))
            except (OSError, ValueError, RecursionError):
                data = None
            if not isinstance(data, dict):
                return {"pid": self.pid, "start_ticks": self.start_ticks}
            self._description = data
        return self._description

    def rings(self) -> list[str]:
        """Paths of the rings that there are by now: that of the process first, then the loops' in order."""
        try:
            names = [name for name in os.listdir(self.path) if _RING.fullmatch(name)]
        except OSError:
            return []
        names.sort(key=lambda name: (name != "process.ring", len(name), name))
        return [os.path.join(self.path, name) for name in names]

    @property
    def ended(self) -> bool:
        """Whether the process said that it will write nothing more."""
        return os.path.exists(os.path.join(self.path, "ended"))

    @property
    def most_resident_bytes(self) -> int:
        """The most memory that the process had, where its collector has noted it down; else 0."""
        try:
            with open(os.path.join(self.path, USAGE_NAME), "rb") as file:
                return max(0, int(file.read(32)))
        except (OSError, ValueError):
            return 0

    @property
    def replaced(self) -> float:
        """Records that the loops had written when the process was about to exec another program; -1 where it never was.

        More records than that: the exec failed.
        """
        try:
            with open(os.path.join(self.path, "exec"), "rb") as file:
                return float(file.read(32))
        except (OSError, ValueError):
            return -1.0

    @property
    def alive(self) -> bool:
        """Whether the process is still there. One that was replaced by an exec is; see ``RunDirectory.current``."""
        if self.start_ticks:
            ticks = process_start_ticks(self.pid)
            if ticks:
                return ticks == self.start_ticks and not _is_zombie(self.pid)
            if os.path.isdir("/proc/self"):
                return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass
        return True

    @property
    def age(self) -> float:
        """Seconds since anything was written into the folder itself (rings do not count)."""
        try:
            return max(0.0, time.time() - os.stat(self.path).st_mtime)
        except OSError:
            return 0.0


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (OSError, IndexError):
        return False


class RunDirectory:
    """The processes of one run, each found once and kept."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._folders: dict[str, ProcessFolder] = {}

    def processes(self) -> list[ProcessFolder]:
        """All processes found so far, in the order of their start. Empty where there is no such directory."""
        try:
            names = os.listdir(self.path)
        except OSError:
            names = []
        for name in names:
            if name in self._folders:
                continue
            match = _FOLDER.fullmatch(name)
            path = os.path.join(self.path, name)
            if match and os.path.isdir(path):
                pid, ticks, generation = match.groups()
                self._folders[name] = ProcessFolder(path, int(pid), int(ticks), int(generation or 1))
        return sorted(self._folders.values(), key=lambda each: (each.start_ticks, each.pid, each.generation))

    def current(self, folder: ProcessFolder) -> bool:
        """Whether no later folder of the same process exists: after an exec the earlier one is written no more."""
        return not any(
            other.pid == folder.pid and other.start_ticks == folder.start_ticks and other.generation > folder.generation
            for other in self._folders.values()
        )

    def writing(self, folder: ProcessFolder) -> bool:
        """Whether the process may still write into its folder."""
        return not folder.ended and self.current(folder) and folder.alive
