"""Lines about findings that last, which the collector prints while the program runs. The process itself prints stalls.

A leak or a deadlock is reported when it is first found. A full executor is reported when calls have waited for a worker
for ten times as long as a callback may take: what its workers run, where they stand, and what waits. Each is reported
again after ``REPEAT_SECONDS`` if it has got worse, and there are at most ``LINES_A_MINUTE``.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

from ..statistics.full_executors import Calls, FullExecutor, full_executors
from ..units import counted, seconds
from .model import Finding, Verdict
from .scope import frame_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..statistics.run import Statistics

#: Time between two looks, s.
LOOK_SECONDS: Final = 5.0
REPEAT_SECONDS: Final = 300.0
LINES_A_MINUTE: Final = 6
_AT_ONCE: Final = frozenset(("deadlock", "timer-leak", "memory-leak", "task-leak"))
_WHEN_IT_GOES_ON: Final = frozenset(("pool-waits-for-itself",))
#: Time between two looks at the executors, s. One that has been full for so many slow thresholds is reported.
EXECUTOR_SECONDS: Final = 1.0
PATIENCE: Final = 10.0
_THRESHOLD: Final = 0.1
_FUNCTIONS: Final = 2
_MAX_KNOWN: Final = 500


class Lasting:
    """What was reported of one run. For one thread."""

    def __init__(self, first: float = 0.0) -> None:
        """``first``: the moment (monotonic s) before which the rules are not applied. Importing them takes 30 ms."""
        # By finding: when it was reported (s), and how bad it was then; and how bad it was at the look before.
        self._reported: dict[tuple[str, int, str], tuple[float, str]] = {}
        self._seen: dict[tuple[str, int, str], str] = {}
        self._line_times: deque[float] = deque(maxlen=LINES_A_MINUTE)
        self._next = first
        self._next_executors = 0.0

    def look(self, statistics: Statistics) -> list[str]:
        """The lines to print now; none between two looks. Takes the statistics' lock."""
        now = time.monotonic()
        if not statistics.processes:
            return []
        out: list[str] = []
        if now >= self._next_executors:
            with statistics.lock:
                out += self._executors(statistics, now)
            # It goes through all calls under way.
            self._next_executors = now + max(EXECUTOR_SECONDS, 100 * (time.monotonic() - now))
        if now < self._next:
            return out
        from .verdict import verdict  # here, since a short program ends before it is asked for

        with statistics.lock:
            judged = verdict(statistics, now)
            processes = statistics.processes.items()
            pids = {slot: process.pid for slot, process in processes} if len(processes) > 1 else None
        # A verdict of a very large process takes its time: no more than a hundredth of the collector's.
        self._next = now + max(LOOK_SECONDS, 100 * (time.monotonic() - now))
        return [*out, *self.lines(judged, now, pids)]

    def _executors(self, statistics: Statistics, now: float) -> list[str]:
        out: list[str] = []
        for slot, process in statistics.processes.items():
            if not process.attached or not any(each.waiting for each in process.executors.executors.values()):
                continue
            thresholds = [loop.callbacks.threshold for loop in process.loops.values() if loop.callbacks.threshold > 0]
            full = full_executors(process.executors, now)
            out += self.full_lines(slot, process.pid, full, min(thresholds, default=_THRESHOLD), now)
        return out

    def full_lines(self, slot: int, pid: int, full: list[FullExecutor], threshold: float, now: float) -> list[str]:
        """The lines about executors that are full at ``now`` (s). ``threshold``: s, of slow callbacks."""
        out: list[str] = []
        for each in full:
            patience = PATIENCE * threshold
            # The process writes at about that time where its workers stand: wait for one more look.
            if each.full_s < patience or (each.stacks is None and each.full_s < patience + 2 * EXECUTOR_SECONDS):
                continue
            key, harm = ("executor-full", slot, each.executor), seconds(each.full_s)
            reported = self._reported.get(key)
            if self._has_room(now) and (reported is None or now - reported[0] >= REPEAT_SECONDS):
                self._reported[key] = now, harm
                self._line_times.append(now)
                out.append(_full_line(each, pid))
        return out

    def lines(self, verdict: Verdict, now: float, pids: Mapping[int, int] | None = None) -> list[str]:
        """The lines to print of this verdict at ``now`` (s). ``pids``: of processes to name, by slot. None
        where the run has only one.
        """
        out: list[str] = []
        seen: dict[tuple[str, int, str], str] = {}
        for finding in verdict.troubles:
            if finding.kind not in _AT_ONCE and finding.kind not in _WHEN_IT_GOES_ON:
                continue
            # The title may have numbers that change; the code that it names does not change.
            key = finding.kind, finding.process, finding.who.function if finding.who is not None else ""
            seen[key] = finding.harm
            if self._is_due(key, finding, now):
                self._reported[key] = now, finding.harm
                self._line_times.append(now)
                where = f"; in process {pids[finding.process]}" if pids and finding.process in pids else ""
                out.append(f"{finding.kind}: {finding.title}; {finding.harm}{where}")
        self._seen = seen
        if len(self._reported) > _MAX_KNOWN:
            self._reported.clear()
        return out

    def _is_due(self, key: tuple[str, int, str], finding: Finding, now: float) -> bool:
        if not self._has_room(now):
            return False
        if finding.kind in _WHEN_IT_GOES_ON and self._seen.get(key) in (None, finding.harm):
            return False
        reported = self._reported.get(key)
        return reported is None or (now - reported[0] >= REPEAT_SECONDS and reported[1] != finding.harm)

    def _has_room(self, now: float) -> bool:
        return len(self._line_times) < LINES_A_MINUTE or now - self._line_times[0] >= 60.0


def _full_line(full: FullExecutor, pid: int) -> str:
    """Which calls fill the executor, where they stand, which calls wait, and for how long."""
    text = f"executor-full: executor {full.executor} of process {pid} is full for {seconds(full.full_s)}: "
    text += f"its {counted(full.workers, 'worker')} run {_functions(full.fillers)}"
    if full.stacks is not None and full.stacks.places:
        number, own, _ = full.stacks.places[0]
        text += f" ({number} stood at {frame_line(own)})"
    waiting = sum(each.calls for each in full.waiters)
    return text + f"; {counted(waiting, 'call')} wait: {_functions(full.waiters)}"


def _functions(calls: list[Calls]) -> str:
    named = [f"{each.function} ({each.calls})" for each in calls[:_FUNCTIONS]]
    return ", ".join(named) + (", ..." if len(calls) > _FUNCTIONS else "")
