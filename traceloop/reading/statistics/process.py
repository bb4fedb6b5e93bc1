"""What is known of one process slot: a process, and those that take its number when it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...record.proc import ProcessUsage, is_stopped, process_usage
from ...record.text import printable
from ..decoding.choose import reader_name
from ..decoding.decoded import Decoded
from ..decoding.stream import LoopStream
from ..site_names import SiteNames
from .blocking_calls import BlockingCallStatistics
from .context import Context
from .executors import ExecutorStatistics
from .garbage import CollectionStatistics
from .growth import GrowthStatistics
from .labels import BoundedLabels, LabelSlots
from .loop import LoopStatistics
from .parts import Part, Sample
from .peers import Peers
from .profile import Profile
from .swallowed import SwallowedErrors
from .throttling import Throttling
from .wait_series import WaitSeries
from .waits import Waits

if TYPE_CHECKING:
    from ..decoding.ring_reader import RingReader


# How long the answer whether a process is stopped is kept, s. To ask takes 40 us, and each loop's gauges need it.
_ASK_AGAIN_SECONDS = 0.05
# A task that is known from looks only counts once another look, this much later (s), has found it too.
_FOUND_AGAIN_SECONDS = 0.5


class MemoryStatistics:
    """Allocated blocks of one process, as sampled."""

    def __init__(self) -> None:
        self.blocks = -1
        self.most_blocks = 0

    def feed(self, decoded: Decoded) -> None:
        """Takes in a chunk's samples."""
        if decoded.memory:
            self.blocks = decoded.memory[-1][1]
            self.most_blocks = max(self.most_blocks, max(blocks for _, blocks in decoded.memory))

    def metrics(self) -> Iterator[Sample]:
        """The last sample, where there is one."""
        if self.blocks >= 0:
            yield Sample("cpython_memory_allocated_blocks", (), self.blocks)


class ProcessStatistics:
    """Statistics of one process slot. ``attach`` and ``detach`` say which process has the slot.

    ``parts`` feed on every chunk of every ring of the process, after the loop's own.
    """

    def __init__(
        self,
        context: Context,
        slot: int,
        loop_parts: Sequence[Callable[[ProcessStatistics, LoopStatistics], Part]] = (),
        first_loop_parts: Sequence[Callable[[ProcessStatistics, LoopStatistics], Part]] = (),
    ) -> None:
        """``loop_parts``: make further parts of every loop. ``first_loop_parts``: make those that are fed first."""
        self.context = context
        self.slot = slot
        self.sites = SiteNames()
        self.labels = BoundedLabels(context.callback_limit)
        self.culprits = BoundedLabels(context.callback_limit)
        self._loop_parts = loop_parts
        self._first_loop_parts = first_loop_parts
        self.loops: dict[str, LoopStatistics] = {}
        self._loop_slots = LabelSlots()
        self.executors = ExecutorStatistics(self.sites, self.labels)
        self.collections = CollectionStatistics(lambda: self.sites, self.labels)
        self.memory = MemoryStatistics()
        self.waits = Waits()
        self.growth = GrowthStatistics()
        self.wait_series = WaitSeries(self.waits, lambda: self.loops.values(), lambda: self.sites, self.labels)
        self.blocking_calls = BlockingCallStatistics()
        self.profile = Profile(lambda: self.sites)
        self.peers = Peers()
        self.throttling = Throttling()
        self.swallowed = SwallowedErrors(self.labels)
        self.parts: list[Part] = [
            self.executors,
            self.collections,
            self.memory,
            self.growth,
            self.wait_series,
            self.blocking_calls,
            self.profile,
            self.peers,
            self.throttling,
            self.swallowed,
        ]
        self.pid = 0
        self.description: dict[str, Any] = {}
        self.attached = False
        #: What ``task_tree.tasks_in_circles`` found when a process of the slot ended.
        self.left_in_circles: Sequence[Any] = ()
        #: When the latest process of the slot ended (monotonic s); 0 while it lives, or where nothing tells.
        self.ended_at = 0.0
        self._attached_at = 0.0
        #: Processes that have had the slot.
        self.processes = 0
        self._records: dict[int, tuple[int, int, int]] = {}
        self._ended_records = (0, 0, 0)
        self.usage: ProcessUsage | None = None
        # When the process was last seen to run; when that was last asked, and whether it ran then.
        self._ran_at = self._asked_at = 0.0
        self._runs = True
        self.most_resident_bytes = 0
        self._ended_cpu_s = 0.0

    # -- who has the slot

    def attach(self, pid: int, sites: SiteNames, description: dict[str, Any]) -> None:
        """A process takes the slot."""
        self.wait_series.new_process()
        self.pid = pid
        self.sites = sites
        self.description = description
        self.executors.new_process(sites)
        self.waits.new_process()
        self.blocking_calls.new_process()
        self.profile.new_process()
        self.peers.new_process()
        self.attached = True
        self.ended_at = 0.0
        self._attached_at = time.monotonic()
        self._ran_at = 0.0
        self.processes += 1
        self.usage = None

    def detach(self, *, crashed: bool = False, at: float = 0.0) -> None:
        """The process has ended and was read to its end. Called by ``Statistics.detach`` only."""
        for loop in self.loops.values():
            loop.callbacks.count_slow(final=True)
            if loop.is_open:
                loop.close(at, crashed=crashed)
                self._loop_slots.free(loop.label)
        self.executors.new_process(self.sites)
        self._ended_records = self._counted()
        self._records.clear()
        if self.usage is not None:
            self._ended_cpu_s += self.usage.cpu_s
            self.usage = None
        self.memory.blocks = -1
        self.peers.new_process()
        self.attached = False
        self.ended_at = at

    def open_loop(
        self, thread: str, number: int, since: float, reader: RingReader, decoder: LoopStream
    ) -> LoopStatistics:
        """A loop began in this thread (at ``since``, monotonic s). Returns its statistics, under a label that no other
        living loop has.
        """
        label = self._loop_slots.take(thread, since)
        loop = self.loops.get(label)
        if loop is None:
            loop = LoopStatistics(
                label,
                slot=self.slot,
                context=self.context,
                sites_of=lambda: self.sites,
                labels=self.labels,
                culprits=self.culprits,
                waits=self.waits,
                clock=self.now,
            )
            loop.parts[:0] = [make(self, loop) for make in self._first_loop_parts]
            loop.parts += [make(self, loop) for make in self._loop_parts]
            self.loops[label] = loop
        loop.open(reader, decoder, number)
        return loop

    def close_loop(self, loop: LoopStatistics, when: float) -> None:
        """The loop was closed (``when``, monotonic s): its label is free for the next one of its thread."""
        loop.close(when)
        self._loop_slots.free(loop.label, when)

    # -- taking in

    def feed(self, decoded: Decoded, loop: LoopStatistics | None) -> None:
        """Takes in a chunk of one of the process's rings; ``loop`` is None for the process ring."""
        for number, text in decoded.chains:  # before the looks that found them
            self.waits.chains.define(number, text)
        if loop is not None:
            loop.feed(decoded)
        elif decoded.look_period or decoded.standing or decoded.awaited:  # a look may go on in the next chunk
            self.waits.look(decoded.standing, decoded.look_period, decoded.awaited)
        for part in self.parts:
            part.feed(decoded)


    def count_records(self, ring: int, written: float, dropped: int, overwritten: int = 0) -> None:
        """How many records were ever written to a ring of this process, and dropped unread; how many of these had been
        overwritten before the first reading.
        """
        count = int(written) if 0.0 <= written < 2.0**53 else 0
        before = self._records.get(ring, (0, 0, 0))
        self._records[ring] = (max(count, before[0]), max(dropped, before[1]), max(overwritten, before[2]))

    def _counted(self) -> tuple[int, int, int]:
        ended = self._ended_records
        written, dropped, overwritten = zip(ended, *self._records.values(), strict=True)
        return sum(written), sum(dropped), sum(overwritten)

    def adopt_tasks(self) -> None:
        """Gives a loop the tasks that looks have found and no loop knows, since their beginning is not in the record.

        A look that is read late may show a task that has ended. So a task is adopted only if a later look finds it too,
        or if the look was made after we began to follow the process.
        """
        loops = [loop for loop in self.loops.values() if loop.is_open] or list(self.loops.values())
        if not loops:
            return
        known: set[float] = set()
        for loop in self.loops.values():
            known |= loop.tasks.idents()
        for ident, seen in self.waits.looks.items():
            if ident not in known and (seen[-2] - seen[0] >= _FOUND_AGAIN_SECONDS or seen[-2] > self._attached_at):
                loops[0].tasks.adopt(ident, seen[0])

    def look(self) -> None:
        """Asks the kernel for the process's usage; about 60 us."""
        self.now()
        if self.attached and self.pid:
            usage = process_usage(self.pid)
            if usage is not None and (self.usage is None or usage.cpu_s >= self.usage.cpu_s):
                self.usage = usage
                self.most_resident_bytes = max(self.most_resident_bytes, usage.resident_bytes)

    # -- as it stands

    def now(self) -> float:
        """The present (monotonic s). For a stopped process (SIGSTOP): when it was last seen to run, as nothing lasts in
        it.
        """
        now = time.monotonic()
        if self._ran_at and now - self._asked_at < _ASK_AGAIN_SECONDS:
            return now if self._runs else self._ran_at
        self._asked_at = now
        self._runs = not (self.attached and self._ran_at and is_stopped(self.pid))
        if self._runs:
            self._ran_at = now
        return self._ran_at

    @property
    def records(self) -> int:
        """Records written by the processes that have had the slot."""
        return self._counted()[0]

    @property
    def dropped(self) -> int:
        """How many of those records were overwritten or damaged before they were read."""
        return self._counted()[1]

    @property
    def overwritten(self) -> int:
        """How many of the dropped ones later ones had overwritten before the first reading: of a kept record, a ring
        has the latest only.
        """
        return self._counted()[2]

    @property
    def lost(self) -> int:
        """How many of the dropped ones a reader that was there in time would have had."""
        _, dropped, overwritten = self._counted()
        return dropped - overwritten

    def metrics(self) -> Iterator[Sample]:
        """The process's own series, without the label ``process``."""
        self.look()
        for part in self.parts:
            yield from part.metrics()
        yield Sample("traceloop_records_total", (), self.records)
        yield Sample("traceloop_records_dropped_total", (), self.dropped)
        usage = self.usage
        if usage is not None or self._ended_cpu_s:
            yield Sample("process_cpu_seconds_total", (), self._ended_cpu_s + (usage.cpu_s if usage else 0.0))
        if usage is not None:
            yield Sample("process_resident_memory_bytes", (), usage.resident_bytes)
            yield Sample("process_start_time_seconds", (), usage.started)
            if usage.open_fds >= 0:
                yield Sample("process_open_fds", (), usage.open_fds)
        if self.attached:
            labels = (
                ("pid", str(self.pid)),
                ("python", printable(str(self.description.get("python", "")), 60)),
                ("version", printable(str(self.description.get("version", self.context.version)), 60)),
                ("core", printable(str(self.description.get("core", "")), 20)),
                ("reader", reader_name()),
                ("command", printable(str(self.description.get("command", "")), 200)),
            )
            yield Sample("traceloop_process_info", labels, 1)

    def dropped_by(self, ring: int) -> int:
        """Records dropped of one ring of the process that has the slot."""
        return self._records.get(ring, (0, 0))[1]
