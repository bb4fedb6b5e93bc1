"""Stalls as a part of the statistics: gives every process an index of its stalls, and its loops their culprits.

Call ``add_to(statistics)`` before the first process is attached. Spans and reports call ``stalls_of(process)`` later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...record import layout
from ...record.frames import Frame, culprit_frame
from ...record.layout import SITE_LIMIT
from ...record.sites import site_of
from ..decoding.decoded import Decoded
from ..decoding.runs import Run
from ..statistics.parts import Sample
from ..statistics.slow_places import SlowPlaces
from .index import StallIndex
from .model import StallInfo

if TYPE_CHECKING:
    from ..statistics.loop import LoopStatistics
    from ..statistics.process import ProcessStatistics
    from ..statistics.run import Statistics


class ProcessStalls:
    """The stalls of the process that has a slot."""

    def __init__(self, process: ProcessStatistics) -> None:
        self._process = process
        self._processes = -1
        self._index: StallIndex | None = None
        #: Indexes of the latest processes that had the slot before, for the report.
        self.earlier: list[StallIndex] = []

    @property
    def index(self) -> StallIndex:
        """The index of the process that has the slot, or had it last."""
        process = self._process
        if self._index is None or self._processes != process.processes:
            if self._index is not None:
                self._index.finish()
                self.earlier = [*self.earlier[-15:], self._index]
            sites = process.sites
            self._index = StallIndex(sites.label, process.context.threshold_for)
            self._processes = process.processes
        return self._index

    def feed(self, decoded: Decoded) -> None:
        """Takes in a chunk of the process ring. Chunks of the loops' rings come through ``LoopStalls``."""
        if decoded.loop is None and not len(decoded.iterations) and (decoded.events or decoded.collections):
            self.index.take_process(decoded)

    def metrics(self) -> Iterator[Sample]:
        """No series of its own: culprits and bills are labels and values of the loops' series."""
        return iter(())


class LoopStalls:
    """The slow runs of one loop label."""

    def __init__(self, process: ProcessStatistics, loop: LoopStatistics) -> None:
        self._process = process
        self._loop = loop
        self._ring = -1
        loop.callbacks.culprit_of = self._culprit_of
        loop.callbacks.is_suspension = self._is_suspension
        loop.callbacks.is_known = self._is_known
        self._places = SlowPlaces(loop, self._location_of)

    @property
    def index(self) -> StallIndex:
        """The index of the loop's process."""
        return stalls_of(self._process).index

    def _ring_number(self) -> int:
        # A closed loop has given its ring back. Chunks that are fed afterwards are still from that ring.
        if self._loop.reader is not None:
            self._ring = self._loop.reader.number
        return self._ring

    def _culprit_of(self, run: Run, callback: str) -> str:
        return self.index.culprit(self._ring_number(), run[1], run[2])

    def _location_of(self, run: Run) -> str:
        """``file:line`` of the culprit, where a stack names it; else of the callback."""
        info = self.index.lookup(self._ring_number(), run[1], run[2])
        stack = info.stack if info is not None else None
        own = culprit_frame(stack.frames, stack.awaiting) if stack is not None else None
        if own is not None:
            return f"{own[0]}:{own[1]}"
        site = self._process.sites.site(site_of(run[3]))
        return f"{site.file}:{site.line}" if site is not None and site.file else ""

    def _is_suspension(self, run: Run) -> bool:
        return self.index.is_suspension(run[1], run[2])

    def _is_known(self, run: Run) -> bool:
        return self.index.is_known(self._ring_number(), run[1], run[2])

    def feed(self, decoded: Decoded) -> None:
        """Takes in the runs."""
        index = self.index
        callbacks = self._loop.callbacks
        index.take_loop(self._ring_number(), decoded, callbacks.new_slow, callbacks.threshold)

    def in_progress(self) -> StallInfo | None:
        """The stall that the loop is in now, with the stacks so far; None where there is none."""
        reader = self._loop.reader
        if reader is None:
            return None
        return self.index.in_progress(reader.number, reader.word(layout.W_RUNNING))

    def metrics(self) -> Iterator[Sample]:
        """The series of the stall in progress, while there is one, and of the places of those that are over."""
        yield from self._places.metrics()
        info = self.in_progress()
        if info is None:
            return
        lasts = self._process.now() - info.start
        callbacks, process = self._loop.callbacks, self._process
        limit = self.index.limit(info.ring, info.start, info.start + lasts, info.callback, callbacks.threshold)
        if lasts >= limit:
            callback, culprit = process.labels.admit(info.callback), process.culprits.admit(info.culprit)
            labels = (("callback", callback), ("culprit", culprit))
            yield Sample("asyncio_eventloop_stalled_seconds", labels, lasts)


def add_to(statistics: Statistics) -> None:
    """Makes stalls a part of these statistics. Called before the first process is attached."""
    statistics.process_parts.append(ProcessStalls)
    statistics.loop_parts.append(LoopStalls)


def stalls_of(process: ProcessStatistics) -> ProcessStalls:
    """The part of a process slot. Raises LookupError where ``add_to`` was not called."""
    for part in process.parts:
        if isinstance(part, ProcessStalls):
            return part
    raise LookupError("these statistics were made without stalls")


def loop_stalls_of(loop: LoopStatistics) -> LoopStalls:
    """The part of a loop label. Raises LookupError where ``add_to`` was not called."""
    for part in loop.parts:
        if isinstance(part, LoopStalls):
            return part
    raise LookupError("these statistics were made without stalls")


def running_tasks(process: ProcessStatistics) -> dict[float, tuple[float, Frame | None]]:
    """The tasks whose step blocks a loop, or did when their process was killed.

    By ident: since when (monotonic s), and the application's frame that holds the loop, where a stack shows it.
    """
    out: dict[float, tuple[float, Frame | None]] = {}
    try:
        index = stalls_of(process).index
    except LookupError:
        return out
    for key in index.unfinished():
        info = index.lookup(*key)
        if info is not None and info.ident >= SITE_LIMIT:
            stack = info.stack
            frame = culprit_frame(stack.frames, stack.awaiting) if stack is not None else None
            out[info.ident] = info.start, frame
    return out


def watchdog_read_until(process: ProcessStatistics, until: float) -> None:
    """Called when all that the watchdog wrote up to ``until`` was taken in: counts the slow runs that waited for it.

    ``until``: monotonic s; infinite: nothing more will come.
    """
    try:
        index = stalls_of(process).index
    except LookupError:
        return
    index.watchdog_read_until(until)
    for loop in process.loops.values():
        loop.callbacks.count_slow()
