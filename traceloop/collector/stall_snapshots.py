"""Copies of the record around long stalls, kept when the ring itself has long been overwritten.

A snapshot is a folder that looks like a run directory with one process in it, so that ``traceloop report`` opens it:
``stall-N-PID/p-PID-START/`` with the rings as they were, the sites, and what the process said of itself. It is taken
when a stall has lasted for the set time, so that it exists even if the stall never ends, and once more when it is over.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable

from traceloop.reading.follower import FolderFollower, RunFollower
from traceloop.reading.stalls import parts as stall_statistics
from traceloop.record import layout
from traceloop.settings import Settings

MAX_SNAPSHOTS = 10
MAX_BYTES = 256 << 20
# How long after a stall's end the second copy is taken (s): what it held up is in it then.
_AFTERWARDS = 0.5


class _Taken:
    """A stall of which there is a snapshot."""

    __slots__ = ("at", "ended_at", "folder", "name", "ring")

    def __init__(self, name: str, ring: int, at: float, folder: str) -> None:
        self.name = name
        self.ring = ring
        self.at = at  # within the stall, or just after it
        self.folder = folder
        self.ended_at = 0.0


class StallSnapshots:
    """Takes snapshots of stalls of ``seconds`` and longer into ``directory``. ``look`` is called by the follower's
    thread, under the statistics' lock; a copy of a ring of 8 MiB takes it some milliseconds.
    """

    def __init__(
        self,
        follower: RunFollower,
        directory: str,
        seconds: float,
        say: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._follower = follower
        self._directory = directory
        self._seconds = seconds
        self._say = say
        self._clock = clock
        self._open: list[_Taken] = []
        # By process and ring: when the last snapshot was taken. A stall that began before is the one that is in it.
        self._last: dict[tuple[str, int], float] = {}
        self._bytes = 0
        #: Folders of the snapshots, and how many more stalls there were.
        self.taken: list[str] = []
        self.left_out = 0

    def look(self) -> None:
        """Takes the snapshots that are due."""
        now = self._clock()
        for name, follower in list(self._follower.processes.items()):
            try:
                index = stall_statistics.stalls_of(follower.statistics).index
            except LookupError:
                continue
            if name in self._follower.ended:
                continue
            for ring, start in index.slow_runs():
                if index.length_of(ring, start) >= self._seconds:
                    self._begin(name, follower, ring, start, start + index.length_of(ring, start))
            for standing in follower.rings.values():
                if standing.is_loop:
                    info = index.in_progress(standing.number, standing.reader.word(layout.W_RUNNING))
                    if info is not None and now - info.start >= self._seconds:
                        self._begin(name, follower, standing.number, info.start, now)
        for taken in list(self._open):
            self._complete(taken, now)

    def _begin(self, name: str, follower: FolderFollower, ring: int, start: float, at: float) -> None:
        """``at``: its end, or now, if it lasts."""
        if start <= self._last.get((name, ring), -1.0):
            return
        self._last[name, ring] = at
        if len(self.taken) >= MAX_SNAPSHOTS or self._bytes >= MAX_BYTES:
            self.left_out += 1
            return
        folder = os.path.join(self._directory, f"stall-{len(self.taken) + 1}-{follower.folder.pid}")
        if self._copy(follower.folder.path, os.path.join(folder, name)):
            self.taken.append(folder)
            self._open.append(_Taken(name, ring, at, folder))
            self._say(f"a stall of {self._seconds:g} s and more: the record around it is kept in {folder}")

    def _complete(self, taken: _Taken, now: float) -> None:
        name = taken.name
        follower = self._follower.processes.get(name)
        if follower is None or name in self._follower.ended:
            self._open.remove(taken)
            return
        index = stall_statistics.stalls_of(follower.statistics).index
        runs = (key for key in index.slow_runs() if key[0] == taken.ring and key[1] <= taken.at)
        if not any(taken.at <= key[1] + index.length_of(*key) for key in runs):
            return
        taken.ended_at = taken.ended_at or now
        if now - taken.ended_at >= _AFTERWARDS:
            self._open.remove(taken)
            self._copy(follower.folder.path, os.path.join(taken.folder, name))

    def _make_directory(self) -> None:
        """Makes the folder of all snapshots, or takes the one that is there if nobody else can have prepared it."""
        try:
            os.makedirs(self._directory, mode=0o700)
        except FileExistsError:
            status = os.lstat(self._directory)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                raise PermissionError(errno.EPERM, "it is a link, or somebody else's", self._directory) from None

    def _copy(self, source: str, target: str) -> bool:
        temporary = f"{target}.new"
        try:
            self._make_directory()
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            shutil.copytree(source, temporary)
            before = _size_of(target)
            shutil.rmtree(target, ignore_errors=True)
            os.rename(temporary, target)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            self._say(f"no snapshot of a stall could be kept in {self._directory}: {error}")
            return False
        self._bytes += _size_of(target) - before
        return True


def make_snapshots(settings: Settings, follower: RunFollower, say: Callable[[str], None]) -> StallSnapshots | None:
    """What takes a run's snapshots, None where none are asked for.

    They go where the record is kept; where it is not, into a folder of the temporary directory: the run directory
    itself goes with the run.
    """
    if settings.snapshot_on_stall is None or settings.run_dir is None:
        return None
    directory = settings.record
    if directory is None:
        # Others can write there too: a name that they cannot know, made when the first snapshot is, or not at all.
        name = f"traceloop-stalls-{os.urandom(8).hex()}"
        directory = os.path.join(os.environ.get("TMPDIR") or "/tmp", name)
    return StallSnapshots(follower, directory, settings.snapshot_on_stall, say)


def _size_of(folder: str) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except OSError:
        return 0
