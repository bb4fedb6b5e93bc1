"""Following rings into statistics: of one process, of a whole run directory, of this very process.

A poll reads what was written since the last one. What the process ring says (stacks, an offload's end) is asked for by
what the loops' rings say: so the loops' rings are copied first, then the process ring is read and taken in, then what
was copied. A stack is written while its run lasts; so it is known when the run is counted.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple, Protocol

from ..record import files, layout
from ..record.proc import answers
from ..record.sites import Site
from ..record.text import printable_data
from .decoding.decoded import Decoded, LoopInfo
from .decoding.ring_reader import Batch, RingError, RingReader
from .decoding.stream import LoopStream
from .process_folders import ProcessFolder, RunDirectory
from .site_names import SiteNames
from .stalls import parts as stall_statistics
from .stalls.crashes import Crash, crash_of, take_files
from .stalls.last_words import LastWords, LoopLastWords
from .stalls.who_waited import SlowRun
from .statistics.loop import LoopStatistics
from .statistics.run import Statistics

_LOOK_SECONDS = 1.0
# Doubles of a loop's ring that are read at a time: 8,192 records, whose decoded form takes about 5 MB and is not thrown
# out of the processor's caches before it has been counted. However much is behind, no more is held.
_CHUNK = 3 * 8192
# Bytes of a process's ring that may wait while all its loops sleep: a sample of its memory each second has 200.
_LITTLE = 2048
# Chunks of a poll, after which a writer that is faster than we are has to wait: scrapes wait for polls.
_MAX_CHUNKS = 128


class Chunk(NamedTuple):
    """What one poll read of one ring, for further readers (spans): ``loop`` is None for the process ring.

    ``threshold`` (s) and ``thread_id`` (native) of the loop as they then stood; the ring may be closed by now.
    ``slow``: the runs that may be slow (see the loop's thresholds), with what waited for them.
    """

    ring: RingFollower
    loop: LoopStatistics | None
    decoded: Decoded
    threshold: float
    thread_id: int
    slow: Sequence[SlowRun]


class RingFollower:
    """One ring: its reader, its decoder, and the loop that owns it now.

    dropped: records lost so far. number: of the ring in its process; the process ring has -1.
    """

    def __init__(self, process: ProcessFollower, reader: RingReader) -> None:
        self.process = process
        self.reader = reader
        self.decoder = LoopStream(reader.owner)
        self.is_loop = reader.kind == layout.KIND_LOOP
        self.number = reader.number if self.is_loop else -1
        self.loop: LoopStatistics | None = None
        #: Whether the last ``fetch`` left something to be read.
        self.more = False
        self._fetched: list[Batch] = []
        self._closed: LoopInfo | None = None

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is to be read, and the loop sleeps in its poll. What little the watchdog notes meanwhile can
        wait.
        """
        if not self.is_loop:
            return self.reader.behind <= _LITTLE
        return self.reader.behind == 0 and not self.reader.word(layout.W_RUNNING)

    @property
    def is_filling(self) -> bool:
        """Whether a quarter of the ring has been written and not been read."""
        return 4 * self.reader.behind >= self.reader.room

    def left_alone(self, *, until_new: bool) -> float:
        """Up to which head nothing has to be read: as long as it ``is_quiet``, or not ``is_filling``."""
        if until_new:
            return self.reader.position + (0 if self.is_loop else _LITTLE)
        return self.reader.position + self.reader.room / 4

    def fetch(self, *, final: bool) -> None:
        """Copies what there is, of a loop's ring a chunk at most."""
        if self.is_loop:
            self._fetched = self.reader.read(final=final, limit=_CHUNK)
            self.more = bool(self._fetched) and self.reader.behind > 0
        else:
            self._fetched = self.reader.read(final=final)

    def read(self) -> list[Chunk]:
        """Takes in what was fetched."""
        batches, self._fetched = self._fetched, []
        out: list[Chunk] = []
        if batches:
            for decoded in self.decoder.feed(batches):
                out += self._take(decoded)
        self._count_records()
        return out

    def finish(self) -> list[Chunk]:
        """The writer has gone: what was under way at its end."""
        running = self.reader.word(layout.W_RUNNING) if self.is_loop else 0.0
        offset = self.reader.clock_offset_ns
        end = self.process.ended_at(offset)
        if self.is_loop and end > 0.0:
            self.process.end_ns = round(end * 1e9) + offset
        decoded = self.decoder.finish(end, running)
        out = [] if decoded.empty else self._take(decoded)
        self._count_records()
        return out

    def _count_records(self) -> None:
        reader = self.reader
        overwritten = 0 if self.process.is_from_start else reader.overwritten
        written = reader.word(layout.W_RECORDS)
        self.process.statistics.count_records(self.number, written, reader.dropped, overwritten)

    def _take(self, decoded: Decoded) -> list[Chunk]:
        process = self.process.statistics
        if self.is_loop:
            info = decoded.loop
            # A loop is there as soon as it said so, though it has run nothing yet; one that was closed is not.
            if self.loop is None and (not decoded.empty or (info is not None and info is not self._closed)):
                # Where the record's beginning was lost, the loop is known by its ring only.
                thread, number, since = (
                    (info.thread, info.number, info.since) if info is not None else (f"loop-{self.number}", 0, 0.0)
                )
                self.loop = process.open_loop(thread, number, since, self.reader, self.decoder)
        process.feed(decoded, self.loop)
        word = self.reader.word
        native = word(layout.W_THREAD)
        thread_id = int(native) if 0.0 <= native < 2.0**32 else 0
        slow = self.loop.callbacks.new_slow if self.loop is not None else ()
        chunk = Chunk(self, self.loop, decoded, word(layout.W_THRESHOLD), thread_id, slow)
        if decoded.closed and self.loop is not None:
            process.close_loop(self.loop, decoded.end)
            self.loop = None
            self._closed = decoded.loop
        return [chunk]


class ProcessFollower:
    """The rings of one process. ``statistics`` is its slot's."""

    def __init__(self, statistics: Statistics, pid: int, sites: SiteNames, description: dict[str, Any]) -> None:
        self._run_statistics = statistics
        self.statistics = statistics.attach(pid, sites, description)
        self.rings: dict[str, RingFollower] = {}
        self.problems: list[str] = []
        #: When the process was seen to be alive for the last time, monotonic s; 0: not while this follows it.
        self.seen_at = 0.0
        #: When its end was counted to be, which later readers are to do too (wall clock, ns); 0: not yet, or not known.
        self.end_ns = 0
        self._looked = 0.0
        self._refused: set[str] = set()

    @property
    def is_from_start(self) -> bool:
        """See ``Statistics.from_start``."""
        return self._run_statistics.from_start

    def add(self, name: str, source: object, *, final: bool = False) -> None:
        """A ring to follow, if it is not followed yet; one that cannot be read is listed in ``problems``, once.

        ``final``: the process writes no more, so that one that is not ready will not be.
        """
        if name in self.rings or name in self._refused:
            return
        try:
            reader = RingReader(source)  # type: ignore[arg-type]
        except (RingError, OSError, ValueError) as error:
            if final or not _may_become_ready(source):
                self._refused.add(name)
                if isinstance(error, OSError) and error.filename is not None:
                    self.problems.append(f"{error.filename}: {error.strerror}")
                else:
                    self.problems.append(str(error))
            return
        self.rings[name] = RingFollower(self, reader)

    def is_quiet(self) -> bool:
        """Whether no ring has anything new, and all loops sleep. A glance: new rings are not looked for."""
        for ring in self.rings.values():
            if not ring.is_quiet:
                return False
        return bool(self.rings)

    def read(self, *, final: bool = False) -> list[Chunk]:
        """What was written since the last time, all at once."""
        return [chunk for chunks in self.chunks(final=final) for chunk in chunks]

    def chunks(self, *, final: bool = False) -> Iterator[list[Chunk]]:
        """What was written since the last time, a chunk at a time, each counted when it comes.

        ``final``: the process writes no more; reads to the end.
        """
        rings = sorted(self.rings.values(), key=lambda ring: ring.is_loop)
        for number in count(1):
            read_until = math.inf if final else 0.0
            for ring in reversed(rings):
                if not ring.is_loop and not final:
                    # Asked before the read: what the watchdog wrote up to its last look is in it.
                    read_until = ring.reader.word(layout.W_LOOKED)
                ring.fetch(final=final)
            chunks = [chunk for ring in rings for chunk in ring.read()]
            stall_statistics.watchdog_read_until(self.statistics, read_until)
            if chunks:
                yield chunks
            if not (chunks if final else number < _MAX_CHUNKS and any(ring.more for ring in rings)):
                break
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            self.statistics.look()

    def end(self, *, crashed: bool = False) -> list[Chunk]:
        """The process has ended: reads the rest, ends what was under way, and gives its slot back."""
        return [chunk for chunks in self.last_chunks(crashed=crashed) for chunk in chunks]

    def last_chunks(self, *, crashed: bool = False, unfinished: bool = False) -> Iterator[list[Chunk]]:
        """The same a chunk at a time; to be used up. ``unfinished``: what it left beside its rings is of use too."""
        yield from self.chunks(final=True)
        yield [chunk for ring in self.rings.values() for chunk in ring.finish()]
        if crashed or unfinished:
            self._take_last_words()
        self._run_statistics.detach(self.statistics, crashed=crashed, at=self._left_at())
        for ring in self.rings.values():
            ring.reader.close()

    def ended_at(self, clock_offset_ns: int) -> float:
        """Until when the process is known to have been there (monotonic s); 0 where nothing tells.

        ``clock_offset_ns``: wall clock minus monotonic clock.
        """
        return self.seen_at

    def _left_at(self) -> float:
        """From when on another process may have the slot (monotonic s)."""
        return next((self.ended_at(ring.reader.clock_offset_ns) for ring in self.rings.values()), 0.0)

    def _take_last_words(self) -> None:
        """The process was killed or crashed, or this is a snapshot of it: takes what it left beside its rings."""


def _may_become_ready(source: object) -> bool:
    """A ring's file is made, then its space reserved, then its header written: a young one is no ring yet."""
    if not isinstance(source, str):
        return False
    try:
        return time.time() - os.stat(source).st_mtime < 5.0
    except OSError:
        return True


class FolderFollower(ProcessFollower):
    """A process by its folder of a run directory."""

    def __init__(self, statistics: Statistics, folder: ProcessFolder) -> None:
        super().__init__(statistics, folder.pid, folder.sites, folder.description)
        self.folder = folder
        #: What is known of its end, where it crashed or was killed.
        self.crash: Crash | None = None

    def chunks(self, *, final: bool = False) -> Iterator[list[Chunk]]:
        """What was written since the last time, to rings that appeared meanwhile too."""
        for path in self.folder.rings():
            self.add(os.path.basename(path), path, final=final)
        self.statistics.description = self.folder.description
        yield from super().chunks(final=final)

    @property
    def is_known(self) -> bool:
        """Whether all its rings are followed (or cannot be), it is still there, and has not said that it ended."""
        names = map(os.path.basename, self.folder.rings())
        if self.folder.is_over or not answers(self.folder.pid):
            return False
        return all(name in self.rings or name in self._refused for name in names)

    def ended_at(self, clock_offset_ns: int) -> float:
        """By the file that it wrote at its end; else by what was seen of it, by this reader (and its watchdog since
        then: a poll may be seconds ago) or by its collector; else by the last look of its watchdog.
        """
        ended = (self.folder.ended_ns - clock_offset_ns) / 1e9
        if ended > 0.0:
            return ended
        words = [ring.reader.word for ring in self.rings.values() if not ring.is_loop]
        looked = max((max(word(layout.W_HEARTBEAT), word(layout.W_LOOKED)) for word in words), default=0.0)
        if self.seen_at:
            return max(self.seen_at, min(looked, time.monotonic()))
        noted = (self.folder.noted_ns - clock_offset_ns) / 1e9
        return noted if noted > 0.0 else looked

    def take_usage(self) -> None:
        """What the collector has noted down of the kernel's account of the process; after its end."""
        known = self.statistics
        known.most_resident_bytes = max(known.most_resident_bytes, self.folder.most_resident_bytes)

    def ended_well(self) -> bool:
        """Whether a process that is gone, and left no file that says so, ended well all the same.

        It said so in its rings, since it could make no file; or it went on as another program; or it was ended (by
        SIGTERM, say) when no loop of its ran, so that its record is whole.
        """
        words = [words for ring in self.rings.values() if ring.is_loop and (words := ring.reader.words())]
        return (
            self.replaced()
            or any(each[layout.W_ENDED] == 1.0 for each in words)
            or all(each[layout.W_OPEN] == 0.0 or each[layout.W_STOPPED] == 1.0 for each in words)
        )

    def replaced(self) -> bool:
        """Whether the process went on as another program."""
        before = self.folder.replaced
        return before >= 0.0 and self._written() <= before

    def _left_at(self) -> float:
        # The program that it went on as has the slot after it, however late its collector noted the change.
        return 0.0 if self.replaced() else super()._left_at()

    def _written(self) -> float:
        return sum(ring.reader.word(layout.W_RECORDS) for ring in self.rings.values() if ring.is_loop)

    def _take_last_words(self) -> None:
        rings = [ring for ring in self.rings.values() if ring.is_loop]
        words = LastWords(
            self.folder.pid, self.folder.path, [_last_words(ring) for ring in rings], self.folder.sites.module_of
        )
        try:
            index = stall_statistics.stalls_of(self.statistics).index
        except LookupError:
            index = None
        if index is not None:
            take_files(words, index)
        if not self.folder.is_snapshot:
            self.crash = crash_of(words, index)


def _last_words(ring: RingFollower) -> LoopLastWords:
    thread = ring.reader.word(layout.W_PTHREAD)
    return LoopLastWords(
        ring.number,
        ring.loop.label if ring.loop is not None else "",
        ring.reader.word(layout.W_RUNNING),
        int(thread) if 0.0 <= thread < 2.0**64 else 0,
        ring.reader.clock_offset_ns,
    )


class _Ring(Protocol):
    @property
    def buffer(self) -> Any: ...


class _SiteLog(Protocol):
    @property
    def sites(self) -> Sequence[Site]: ...


class RecordingProcess(Protocol):
    """What a reader in the same process asks of its recording (``recording.process.Process``)."""

    @property
    def pid(self) -> int: ...

    @property
    def site_log(self) -> _SiteLog: ...

    @property
    def rings(self) -> Sequence[_Ring]: ...

    @property
    def process_ring(self) -> _Ring | None: ...

    def describe(self) -> dict[str, int | str]: ...


class PrivateFollower(ProcessFollower):
    """This process's own recording, read in-process."""

    def __init__(self, statistics: Statistics, process: RecordingProcess) -> None:
        super().__init__(statistics, process.pid, SiteNames(process.site_log.sites), printable_data(process.describe()))
        self._process = process

    def chunks(self, *, final: bool = False) -> Iterator[list[Chunk]]:
        """What was written since the last time."""
        ring = self._process.process_ring
        if ring is not None:
            self.add(files.PROCESS_RING, ring.buffer)
        for number, ring in enumerate(list(self._process.rings)):
            self.add(files.loop_ring(number), ring.buffer)
        yield from super().chunks(final=final)


class RunFollower:
    """All processes of a run directory, as they come and go."""

    def __init__(self, path: str | os.PathLike[str], statistics: Statistics | None = None) -> None:
        self.statistics = statistics if statistics is not None else Statistics()
        self.directory = RunDirectory(path)
        self.statistics.command = self.directory.command
        self.processes: dict[str, FolderFollower] = {}
        #: Names of folders whose process has ended and was read to its end, and of those that crashed or were killed.
        self.ended: set[str] = set()
        self.crashed: set[str] = set()

    def is_quiet(self) -> bool:
        """Whether no process has come or ended, made a ring or written anything new, and none runs. 50 us a process."""
        with self.statistics.lock:
            living = [process for name, process in self.processes.items() if name not in self.ended]
            return (
                bool(living)
                and all(process.is_quiet() and process.is_known for process in living)
                and all(each.name in self.processes or each.name in self.ended for each in self.directory.processes())
            )

    def is_filling(self) -> bool:
        """Whether a ring has to be read soon. Its writer ends the collector's wait then, but may have lost the right to
        (a server that has changed its user)."""
        with self.statistics.lock:
            living = [process for name, process in self.processes.items() if name not in self.ended]
            return any(ring.is_filling for process in living for ring in process.rings.values())

    def poll(self, *, last: bool = False) -> list[Chunk]:
        """Reads what is new of every process. ``last``: as far as there is anything, living processes too."""
        with self.statistics.lock:
            return [chunk for chunks in self.chunks(last=last) for chunk in chunks]

    def chunks(self, *, last: bool = False) -> Iterator[list[Chunk]]:
        """The same a chunk at a time: a caller that drops each before the next needs little memory, however far behind
        the readers are. To be used up, under the statistics' lock.
        """
        for folder in self.directory.processes():
            if folder.name in self.ended:
                continue
            follower = self.processes.get(folder.name)
            if follower is None:
                follower = self.processes[folder.name] = FolderFollower(self.statistics, folder)
            # Asked before the read: only then is what was read all that there is.
            now = time.monotonic()
            if self.directory.writing(folder):
                follower.seen_at = now
                more = True
                while more:
                    more = False
                    for chunks in follower.chunks():
                        yield chunks
                        more = last
            else:
                yield from follower.chunks()  # what it says of its end stands in rings perhaps not seen yet
                crashed = not folder.ended and self.directory.current(folder) and not follower.ended_well()
                unfinished = crashed  # as is a snapshot, but it is no crash
                crashed = crashed and not folder.is_snapshot
                yield from follower.last_chunks(crashed=crashed, unfinished=unfinished)
                self.ended.add(folder.name)
                follower.take_usage()
                if crashed:
                    self.crashed.add(folder.name)

    @property
    def problems(self) -> list[str]:
        """Rings that could not be read, one line each."""
        return [problem for process in self.processes.values() for problem in process.problems]
