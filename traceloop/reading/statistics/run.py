"""The statistics of a run: the present values of all its metrics (docs/telemetry.md), for all processes.

``Statistics`` has a ``ProcessStatistics`` by slot, which has a ``LoopStatistics`` by label. Each is made of parts
(``parts.Part``), which are fed with what the rings' decoders return. To add a part to every loop or process, append its
factory to ``loop_parts`` or ``process_parts`` before the first process is attached.

Nothing here is thread-safe by itself. Threads that feed or read the statistics hold ``lock``, as the follower
(follower.py) and the exporters do.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..site_names import SiteNames
from .context import Context, own_threshold, same_threshold
from .labels import DEFAULT_LIMIT, NumberSlots
from .loop import LoopStatistics
from .parts import Part, Sample
from .process import ProcessStatistics
from .task_tree import last_moment, tasks_in_circles, tasks_of_broken_circles


class Statistics:
    """The statistics of a run. The arguments are those of ``Context``."""

    def __init__(
        self,
        *,
        threshold_for: Callable[[str, float], float] = same_threshold,
        lowest_threshold: Callable[[float], float] = own_threshold,
        callback_limit: int = DEFAULT_LIMIT,
    ) -> None:
        self.lock = threading.RLock()
        self.context = Context(threshold_for, lowest_threshold, callback_limit)
        self.loop_parts: list[Callable[[ProcessStatistics, LoopStatistics], Part]] = []
        #: Factories of parts that are fed before a loop's other parts.
        self.first_loop_parts: list[Callable[[ProcessStatistics, LoopStatistics], Part]] = []
        self.process_parts: list[Callable[[ProcessStatistics], Part]] = []
        #: Further series that belong to no process, such as an exporter's own counters.
        self.extra: list[Callable[[], Iterable[Sample]]] = []
        #: Adds the counts of an earlier collector; and since when that one counted (wall clock, ns; 0: there was none).
        self.carry: Callable[[Iterable[Sample]], Iterator[Sample]] | None = None
        self.began_ns = 0
        #: Whether this reads from the run's beginning, as its collector does. What was overwritten before the first
        #: reading is lost then; others come later, and a ring has the latest records.
        self.from_start = False
        #: The command that was run; "" where that is not known.
        self.command: Callable[[], str] = lambda: ""
        self.processes: dict[int, ProcessStatistics] = {}
        self._slots = NumberSlots()

    def attach(self, pid: int, sites: SiteNames, description: dict[str, Any] | None = None) -> ProcessStatistics:
        """A process begins: it gets the smallest free slot, and continues the counters of that slot.

        Two processes that lived at the same time get different slots, even if one of them has been read to its end
        already: the processes of a kept record are read one after the other.
        """
        since = (description or {}).get("monotonic_ns")
        slot = self._slots.take(since / 1e9 if isinstance(since, int) and 0 <= since < 1 << 63 else math.inf)
        process = self.processes.get(slot)
        if process is None:
            process = self.processes[slot] = ProcessStatistics(
                self.context, slot, self.loop_parts, self.first_loop_parts
            )
            process.parts += [make(process) for make in self.process_parts]
        process.attach(pid, sites, description or {})
        return process

    def detach(self, process: ProcessStatistics, *, crashed: bool = False, at: float = 0.0) -> None:
        """The process has ended and was read to its end: its slot is free, and keeps its counters.

        ``at``: when it ended (monotonic s); 0 where that is not known.
        """
        if process.attached:
            # Only the end of the process broke these circles, so a report tells of them.
            circle = tasks_in_circles(process, max(at, last_moment(process)))
            circle = circle or tasks_of_broken_circles(process, 0.0)
            process.left_in_circles = circle or process.left_in_circles
            process.detach(crashed=crashed, at=at)
            self._slots.free(process.slot, at)

    def loops(self) -> Iterator[LoopStatistics]:
        """All loops of all processes, ended ones too, in order of slot and label."""
        for _, process in sorted(self.processes.items()):
            yield from process.loops.values()

    def samples(self) -> Iterator[Sample]:
        """All series with their present values and all their labels. Hold ``lock`` until the iterator is used up."""
        return self._samples() if self.carry is None else self.carry(self._samples())

    def _samples(self) -> Iterator[Sample]:
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
