"""Copies of the record around long stalls, for when the ring itself has been overwritten.

A snapshot is a folder that looks like a run directory with one process in it, so that ``traceloop report`` opens it:
``stall-N-PID/p-PID-START/``. It has the rings as they were, the sites, the process's description, and a file
``snapshot``, which tells readers that the process was not killed. One is taken when a stall has lasted for the set
time, so that it exists even if the stall never ends, and again when the stall is over.

There are at most ten. When all are taken, the culprit with the most of them gives up its shortest one, to a culprit
that has fewer or to a longer stall of its own.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import stat
import time
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from traceloop.reading.follower import FolderFollower, RunFollower
from traceloop.reading.stalls import parts as stall_statistics
from traceloop.reading.stalls.index import StallIndex
from traceloop.record import files, layout
from traceloop.record.proc import schedule_of
from traceloop.settings import Settings

from .files import write_file

MAX_SNAPSHOTS = 10
MAX_BYTES = 256 << 20
# The second copy is taken so long after a stall's end (s): it then has what the stall held up.
_AFTERWARDS = 0.5
# A watchdog this late (s) is held up: the process is stopped, or another thread keeps the GIL.
_LATE_SECONDS = 0.05
# A watchdog that waits for the GIL is scheduled 200 times a second. When a stopped process goes on, its watchdog is
# scheduled a few times before it can record that. One that was scheduled this often waits for the GIL.
_ASKS = 20
# So many settled stalls of a loop are remembered: as many as the reader remembers slow runs.
_MAX_SETTLED = 4096


class _Stall(NamedTuple):
    """A stall that lasts, or is over.

    at: its end, or the latest moment at which it is known to have lasted (monotonic s). length: up to then (s), without
    the time in which the process was stopped.
    """

    process: str
    ring: int
    at: float
    length: float
    culprit: str
    lasts: bool


class _Taken:
    """A stall that has a snapshot."""

    __slots__ = ("at", "bytes", "culprit", "ended_at", "folder", "length", "open", "process", "ring")

    def __init__(self, stall: _Stall, folder: str, size: int) -> None:
        self.process = stall.process
        self.ring = stall.ring
        self.at = stall.at
        self.culprit = stall.culprit
        self.length = stall.length
        self.folder = folder
        self.bytes = size
        self.ended_at = 0.0  # when its end was seen
        self.open = True  # the second copy is still to be taken


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
        """``say(line)`` prints a line, such as that a snapshot could not be kept."""
        self._follower = follower
        self._directory = directory
        self._seconds = seconds
        self._say = say
        self._clock = clock
        self._taken: list[_Taken] = []
        # By process and ring, in order: moments in the stalls that are settled (with a snapshot or without).
        self._settled: dict[tuple[str, int], list[float]] = {}
        # By process: the look for which its watchdog is late, and how often that was scheduled when this was first
        # seen.
        self._late: dict[str, tuple[float, int]] = {}
        self._number = 0
        #: How many stalls have no snapshot.
        self.left_out = 0

    @property
    def taken(self) -> list[str]:
        """Folders of the snapshots, in the order in which they were taken."""
        return [taken.folder for taken in self._taken]

    @property
    def unfinished(self) -> bool:
        """Whether a snapshot waits for its second copy."""
        return any(taken.open for taken in self._taken)

    def lines(self) -> list[str]:
        """The lines about the snapshots that are printed at the end."""
        stall = f"a stall of {self._seconds:g} s and more: the record around it is kept in"
        lines = [f"{stall} {folder}" for folder in self.taken]
        if self.left_out:
            lines.append(f"{self.left_out} more stalls of {self._seconds:g} s and more have no snapshot of their own")
        return lines

    def look(self) -> None:
        """Takes the snapshots that are due."""
        now = self._clock()
        living = {name for name in self._follower.processes if name not in self._follower.ended}
        self._settled = {key: moments for key, moments in self._settled.items() if key[0] in living}
        self._late = {name: late for name, late in self._late.items() if name in living}
        for name in living:
            follower = self._follower.processes[name]
            try:
                index = stall_statistics.stalls_of(follower.statistics).index
            except LookupError:
                continue
            known_until = self._known_until(name, follower, index, now)
            for stall in self._stalls(name, follower, index, now, known_until):
                if stall.length >= self._seconds:
                    self._consider(stall, follower)
            for taken in self._taken:
                if taken.open and taken.process == name:
                    self._complete(taken, follower, index, now)

    def _known_until(self, name: str, follower: FolderFollower, index: StallIndex, now: float) -> float:
        """The moment (monotonic s) up to which it is known whether the process was stopped (SIGSTOP) or frozen (a
        control group). Its watchdog records that when it goes on, late. A late watchdog that asks for the GIL again and
        again belongs to a process that runs.
        """
        reader = next((ring.reader for ring in follower.rings.values() if not ring.is_loop), None)
        due = reader.word(layout.W_DUE) if reader is not None else 0.0
        if reader is None or not due > 0.0:
            return now
        if now - due < _LATE_SECONDS:
            return min(now, index.watchdog_known_until)
        slices = schedule_of(int(reader.word(layout.W_THREAD)), follower.folder.pid).slices
        since, before = self._late.get(name, (0.0, 0))
        if since != due:
            self._late[name], before = (due, slices), slices
        asks = slices < 0 or slices >= before + _ASKS
        return now if asks else min(now, index.watchdog_known_until)

    def _stalls(
        self, name: str, follower: FolderFollower, index: StallIndex, now: float, known_until: float
    ) -> Iterator[_Stall]:
        for ring, start in index.slow_runs():
            end = start + index.length_of(ring, start)
            if not self._is_settled((name, ring), start, end) and index.is_known(ring, start, end):
                yield _Stall(name, ring, end, index.ran(start, end), index.culprit(ring, start), False)
        for each in follower.rings.values():
            if each.is_loop:
                info = index.in_progress(each.number, each.reader.word(layout.W_RUNNING))
                if info is not None and not self._is_settled((name, each.number), info.start, math.inf):
                    length = index.ran(info.start, known_until)
                    yield _Stall(name, each.number, known_until, length, info.culprit, True)

    def _consider(self, stall: _Stall, follower: FolderFollower) -> None:
        """Takes a snapshot of the stall, if there is room, or another gives way to it."""
        while len(self._taken) >= MAX_SNAPSHOTS or sum(taken.bytes for taken in self._taken) >= MAX_BYTES:
            given_up = self._to_give_up(stall)
            if given_up is None:
                if not stall.lasts:  # it may become longer than another stall, and is tried again
                    self._settle(stall)
                    self.left_out += 1
                return
            self._taken.remove(given_up)
            shutil.rmtree(given_up.folder, ignore_errors=True)
            self.left_out += 1
        self._settle(stall)
        self._number += 1
        folder = os.path.join(self._directory, f"stall-{self._number}-{follower.folder.pid}")
        size = self._copy(follower.folder.path, os.path.join(folder, stall.process))
        if size:
            self._taken.append(_Taken(stall, folder, size))

    def _settle(self, stall: _Stall) -> None:
        moments = self._settled.setdefault((stall.process, stall.ring), [])
        insort(moments, stall.at)
        del moments[:-_MAX_SETTLED]

    def _is_settled(self, ring: tuple[str, int], start: float, end: float) -> bool:
        """Whether the stall between the two moments is settled. Stalls are not settled in order: the end of one may be
        read only after the next has lasted for long.
        """
        moments = self._settled.get(ring, ())
        at = bisect_left(moments, start)
        return (at < len(moments) and moments[at] <= end) or (at == 0 and len(moments) == _MAX_SETTLED)

    def _to_give_up(self, stall: _Stall) -> _Taken | None:
        """The snapshot that gives way to one of this stall; None if none does."""
        counts = Counter(taken.culprit for taken in self._taken)
        most = max(counts.values(), default=0)
        of_most = [taken for taken in self._taken if counts[taken.culprit] == most]
        if not of_most:
            return None
        own = [taken for taken in self._taken if taken.culprit == stall.culprit]
        shortest = min(of_most if counts[stall.culprit] < most else own, key=lambda taken: taken.length)
        fewer = counts[stall.culprit] + 1 < most or (not own and most > 1)
        return shortest if fewer or stall.length > shortest.length else None

    def _complete(self, taken: _Taken, follower: FolderFollower, index: StallIndex, now: float) -> None:
        """Takes the second copy of a snapshot, some time after the stall's end."""
        runs = (key for key in index.slow_runs() if key[0] == taken.ring and key[1] <= taken.at)
        run = next((key for key in runs if taken.at <= key[1] + index.length_of(*key)), None)
        if run is None:
            return
        taken.length = index.ran(run[1], run[1] + index.length_of(*run))
        taken.ended_at = taken.ended_at or now
        if now - taken.ended_at >= _AFTERWARDS:
            taken.open = False
            taken.bytes = self._copy(follower.folder.path, os.path.join(taken.folder, taken.process)) or taken.bytes

    def _make_directory(self) -> None:
        """Makes the folder of all snapshots, or takes the one that is there if no other user can have prepared it."""
        try:
            os.makedirs(self._directory, mode=0o700)
        except FileExistsError:
            status = os.lstat(self._directory)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                raise PermissionError(errno.EPERM, "it is a link, or another user's", self._directory) from None

    def _copy(self, source: str, target: str) -> int:
        """Copies a process's folder over the snapshot's. Returns the bytes copied, 0 if that failed."""
        temporary = f"{target}.new"
        try:
            self._make_directory()
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            shutil.copytree(source, temporary)
            write_file(os.path.join(temporary, files.SNAPSHOT), "")
            shutil.rmtree(target, ignore_errors=True)
            os.rename(temporary, target)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            self._say(f"no snapshot of a stall could be kept in {self._directory}: {error}")
            return 0
        return max(1, _size_of(target))


def make_snapshots(settings: Settings, follower: RunFollower, say: Callable[[str], None]) -> StallSnapshots | None:
    """The object that takes a run's snapshots; None if none are asked for.

    They go into the folder of `--record`; without one, into a folder of the temporary directory, because the run
    directory is removed with the run.
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
