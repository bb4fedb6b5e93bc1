"""Everything that TELEMETRY's metrics say, of all processes of a run, at any moment.

``Statistics`` -> ``ProcessStatistics`` by slot -> ``LoopStatistics`` by label, each made of parts (``samples.Part``)
that are fed with what the rings' decoders return. To add a part to every loop or process, append its factory to
``loop_parts`` or ``process_parts`` before the first process is attached.

Nothing here is thread-safe by itself: who feeds and who asks in different threads hold ``lock`` meanwhile. The
follower (follower.py) and the exporters do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..site_names import SiteNames
from .labels import DEFAULT_LIMIT, NumberSlots
from .loop import LoopStatistics
from .parts import Part, Sample
from .process import ProcessStatistics


def _same_threshold(callback: str, threshold: float) -> float:
    return threshold


class Statistics:
    """The statistics of a run.

    ``threshold_for``: seconds from which a callback (label) is slow, given its loop's own threshold.
    ``lowest_threshold``: the lowest of these, given the loop's own.
    ``callback_limit``: callbacks that a process may have as label values; the rest is ``other``.
    """

    def __init__(
        self,
        *,
        threshold_for: Callable[[str, float], float] = _same_threshold,
        lowest_threshold: Callable[[float], float] = lambda threshold: threshold,
        callback_limit: int = DEFAULT_LIMIT,
    ) -> None:
        self.lock = threading.RLock()
        self.threshold_for = threshold_for
        self.lowest_threshold = lowest_threshold
        self.callback_limit = callback_limit
        self.version = _own_version()
        self.loop_parts: list[Callable[[LoopStatistics], Part]] = []
        self.process_parts: list[Callable[[ProcessStatistics], Part]] = []
        #: More series, of nobody's process: an exporter's own counters.
        self.extra: list[Callable[[], Iterable[Sample]]] = []
        self.processes: dict[int, ProcessStatistics] = {}
        self._slots = NumberSlots()

    def attach(self, pid: int, sites: SiteNames, description: dict[str, Any] | None = None) -> ProcessStatistics:
        """A process begins: it gets the smallest free slot, and continues the counters that stand there."""
        slot = self._slots.take()
        process = self.processes.get(slot)
        if process is None:
            process = self.processes[slot] = ProcessStatistics(self, slot)
            process.parts += [make(process) for make in self.process_parts]
        process.attach(pid, sites, description or {})
        return process

    def give_slot(self, process: ProcessStatistics) -> None:
        """For ``ProcessStatistics.detach``."""
        self._slots.free(process.slot)

    def make_loop(self, process: ProcessStatistics, label: str) -> LoopStatistics:
        """For ``ProcessStatistics.open_loop``."""
        loop = LoopStatistics(process, label)
        loop.parts += [make(loop) for make in self.loop_parts]
        return loop

    def loops(self) -> Iterator[LoopStatistics]:
        """All loops of all processes, ended ones too, in order of slot and label."""
        for _, process in sorted(self.processes.items()):
            yield from process.loops.values()

    def samples(self) -> Iterator[Sample]:
        """Every series as it stands, with all its labels. To be used up under ``lock``."""
        for slot, process in sorted(self.processes.items()):
            owner = ("process", str(slot))
            for name, labels, value in process.metrics():
                yield Sample(name, (owner, *labels), value)
            for label, loop in process.loops.items():
                both = (owner, ("loop", label))
                for name, labels, value in loop.metrics():
                    yield Sample(name, (*both, *labels), value)
        for more in self.extra:
            yield from more()


def _own_version() -> str:
    from ...version import __version__

    return __version__
