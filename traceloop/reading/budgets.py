"""Budgets: what a run may do at most. `traceloop check` holds a run to them, the pytest plugin each test.

Each budget that was asked for gives a ``Judgement``: what broke it, the worst first. The time for which a callback
waited for a processor is the machine's fault and taken off, as far as it was measured, so that a busy CI machine fails
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from ..record.frames import place
from ..record.plumbing import readable
from .findings.verdict import verdict
from .stalls.causes import SUSPENDED
from .stalls.model import StallInfo
from .stalls.parts import stalls_of
from .statistics.histograms import Histogram
from .units import count, counted, seconds

if TYPE_CHECKING:
    from .findings.model import Finding
    from .statistics.loop import LoopStatistics
    from .statistics.process import ProcessStatistics
    from .statistics.run import Statistics

#: Kinds of findings that are leaks.
LEAKS: Final = frozenset(("task-leak", "timer-leak", "memory-leak", "lost-tasks"))
_MAX_OFFENDERS: Final = 200


class Budgets(NamedTuple):
    """max_callback, max_delay_p99: s; None: not asked for."""

    max_callback: float | None = None
    max_delay_p99: float | None = None
    slow: bool = False
    leak: bool = False
    findings: bool = False
    blocking: bool = False


class Offender(NamedTuple):
    """Who broke a budget. name: a callback, a loop, a finding's title. measured: as text, ``157 ms``. value: the same
    as a number (s, or how many). where: ``app.parse (app/prices.py:31)``, or what else there is to say; "" for nothing.
    """

    name: str
    measured: str
    value: float
    where: str = ""
    within: str = ""

    @property
    def text(self) -> str:
        """In one line, as people read it: asyncio's code and ours is called by what it does."""
        name = f"{readable(self.name)} ({self.within})" if self.within else readable(self.name)
        return f"{name}, {self.measured}" + (f": {self.where}" if self.where else "")


class Judgement(NamedTuple):
    """One budget: its option without dashes, its limit as text ("" where it has none), and who broke it. pardoned: what
    would have broken it, had it not been the machine's fault; "" for nothing.
    """

    budget: str
    limit: str
    offenders: tuple[Offender, ...]
    pardoned: str = ""

    @property
    def kept(self) -> bool:
        """Whether it was kept."""
        return not self.offenders

    @property
    def title(self) -> str:
        """The budget with its limit."""
        return f"{self.budget} {self.limit}".strip()


def net_seconds(length: float, info: StallInfo | None, most: float = inf) -> float:
    """How long a run was without what the machine owes it, s: 0 where its process was stopped as a whole.

    Where the samples around a run leave open how long it waited for a processor, it waited for as long as they allow.
    Where that is most of the time in which it did not compute, the rest of that time is taken off too: another thread,
    the watchdog for one, held the GIL and waited for a processor itself. ``most``: s that its thread can have waited.
    """
    if info is not None and info.parts.cause == SUSPENDED:
        return 0.0
    if info is None or info.parts.processor_wait < 0.0:
        return length - (most if most < inf else 0.0)
    waited = min(most, max(info.parts.processor_wait, info.parts.longest_wait))
    if info.parts.cpu >= 0.0 and waited > (length - info.parts.cpu) / 2:
        return min(length, info.parts.cpu)
    return length - waited


def judge(statistics: Statistics, budgets: Budgets) -> list[Judgement]:
    """Holds the run to each budget that was asked for. To be called under the statistics' lock, after the last read."""
    out: list[Judgement] = []

    def add(budget: str, limit: str, found: Callable[[], Iterator[Offender]], pardoned: str = "") -> None:
        offenders = sorted(found(), key=lambda each: -each.value)[:_MAX_OFFENDERS]
        out.append(Judgement(budget, limit, tuple(offenders), pardoned))

    longest, delay = budgets.max_callback, budgets.max_delay_p99
    if longest is not None:
        pardoned = _pardoned_run(statistics, longest)
        add("max-callback", seconds(longest), lambda: _long_callbacks(statistics, longest), pardoned)
    if delay is not None:
        add("max-delay-p99", seconds(delay), lambda: _late_loops(statistics, delay))
    if budgets.slow:
        add("no-slow", "", lambda: _slow_callbacks(statistics))
    if budgets.leak:
        add("no-leak", "", lambda: _leaks(statistics))
    if budgets.findings:
        add("no-findings", "", lambda: _findings(statistics), _pardoned_finding(statistics))
    if budgets.blocking:
        add("no-blocking", "", lambda: _blocking_calls(statistics))
    return out


def callbacks_run(statistics: Statistics) -> int:
    """How many callbacks there are to judge by."""
    return sum(loop.callbacks.runs for loop in statistics.loops())


def _loops(statistics: Statistics) -> Iterator[tuple[ProcessStatistics, LoopStatistics]]:
    for _, process in sorted(statistics.processes.items()):
        for loop in process.loops.values():
            yield process, loop


def _within(statistics: Statistics, process: ProcessStatistics, loop: LoopStatistics | None = None) -> str:
    """Which process of several, and which of its loops: two that break a budget alike are told apart."""
    where = f"process {process.slot}" if len(statistics.processes) > 1 else ""
    if loop is None or len(process.loops) == 1:
        return where
    return f"{loop.label} of {where}" if where else loop.label


def _process_of(statistics: Statistics, found: Finding) -> str:
    process = statistics.processes.get(found.process)
    return _within(statistics, process) if process is not None else ""


class _Known(NamedTuple):
    """A slow run, with what is known about it. length: s."""

    length: float
    info: StallInfo


def _known(process: ProcessStatistics) -> dict[str, list[_Known]]:
    """What is known of the slow runs of the processes that had the slot, by callback."""
    out: dict[str, list[_Known]] = {}
    stalls = stalls_of(process)
    for index in (*stalls.earlier, stalls.index):
        for ring, start in index.slow_runs():
            info = index.lookup(ring, start)
            if info is not None:
                known = _Known(index.length_of(ring, start), info)
                out.setdefault(index.pair_of(ring, start)[0], []).append(known)
    return out


def _where(info: StallInfo | None) -> str:
    """The culprit's line, by the first stack that has it."""
    for stack in info.stacks if info is not None else ():
        for frame in reversed([*stack.awaiting, *stack.frames]):
            if info is not None and f"{frame[2]}.{frame[3]}" == info.culprit:
                return place(frame)
    return ""


def _long_callbacks(statistics: Statistics, limit: float) -> Iterator[Offender]:
    for process, loop in _loops(statistics):
        over = [each for each in loop.callbacks.callbacks.values() if each.longest_s > limit]
        known = _known(process) if over else {}
        for totals in over:
            found = known.get(totals.label, [])
            nets: list[tuple[float, StallInfo | None]] = [(net_seconds(*each), each.info) for each in found]
            if max((each.length for each in found), default=0.0) < totals.longest_s:
                nets.append((totals.longest_s, None))  # nothing more is known of it
            most, info = max(nets, key=lambda each: each[0])
            if most > limit:
                yield Offender(totals.label, seconds(most), most, _where(info), _within(statistics, process, loop))


def _pardoned_run(statistics: Statistics, limit: float) -> str:
    """The longest run, where it is over the limit: part of it was waiting for a processor if the budget is kept."""
    every = (each for loop in statistics.loops() for each in loop.callbacks.callbacks.values())
    longest = max(every, key=lambda each: each.longest_s, default=None)
    if longest is None or longest.longest_s <= limit:
        return ""
    name, length = readable(longest.label), seconds(longest.longest_s)
    return f"the longest, {name}, ran for {length} with its waits for a processor"


def _late_loops(statistics: Statistics, limit: float) -> Iterator[Offender]:
    for process, loop in _loops(statistics):
        delays = Histogram().merge(loop.callbacks.delays.values())
        late = delays.quantile(0.99)
        if late > limit:
            slow = sorted(loop.callbacks.slow.items(), key=lambda each: -each[1].blocked_s)
            blockers = [(callback, totals.blocked_s) for (callback, _), totals in slow if totals.blocked_s]
            waited = [f"{readable(callback)} ({seconds(blocked)})" for callback, blocked in blockers]
            where = f"others waited for {', '.join(waited[:3])}" if waited else ""
            yield Offender(loop.label, seconds(late), late, where, _within(statistics, process))


def _slow_callbacks(statistics: Statistics) -> Iterator[Offender]:
    for process, loop in _loops(statistics):
        known = _known(process) if loop.callbacks.slow else {}
        for (callback, culprit), totals in loop.callbacks.slow.items():
            infos = [each.info for each in known.get(callback, ()) if each.info.culprit == culprit]
            text = f"{counted(totals.runs, 'time')}, {seconds(totals.longest_s)} at most"
            where = _where(infos[0] if infos else None)
            yield Offender(callback, text, totals.longest_s, where, _within(statistics, process, loop))


def _leaks(statistics: Statistics) -> Iterator[Offender]:
    found = [each for each in verdict(statistics).findings if each.kind in LEAKS]
    for each in found:
        yield Offender(each.title, each.harm, each.cost_s, "", _process_of(statistics, each))
    named = {each.who.function for each in found if each.who is not None}
    for process, loop in _loops(statistics):
        for site, totals in loop.tasks.coroutines.items():
            label = loop.tasks.label(site)
            if totals.abandoned and label not in named:
                text = f"{counted(totals.abandoned, 'task')} destroyed or left at the end, not done"
                yield Offender(label, text, totals.abandoned, "", _within(statistics, process, loop))


def _findings(statistics: Statistics) -> Iterator[Offender]:
    for each in verdict(statistics).troubles:
        if not each.is_the_machines:
            yield Offender(each.title, each.harm, each.cost_s, each.explained_by, _process_of(statistics, each))


def _pardoned_finding(statistics: Statistics) -> str:
    """The worst one that is the machine's fault."""
    worst = next((each for each in verdict(statistics).troubles if each.is_the_machines), None)
    return f"{worst.title}: {worst.harm}" if worst is not None else ""


def _blocking_calls(statistics: Statistics) -> Iterator[Offender]:
    for process in statistics.processes.values():
        for at, calls in process.blocking_calls.totals().items():
            text = f"{at.call}, {count(calls.times)} times" if calls.times > 1 else at.call
            name = f"{at.module}.{at.qualname}".lstrip(".")
            where = f"{at.file}:{at.line}"
            yield Offender(name, text, calls.times, where, _within(statistics, process))
