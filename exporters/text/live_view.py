"""What a run's loops do now: the text that `traceloop top` shows, made of what was added since the last look."""

from __future__ import annotations

import time
from collections.abc import Iterator

from traceloop.reading.stalls.parts import loop_stalls_of
from traceloop.reading.statistics.callbacks import CallbackTotals
from traceloop.reading.statistics.histograms import Histogram
from traceloop.reading.statistics.loop import LoopStatistics
from traceloop.reading.statistics.run import Statistics
from traceloop.record import layout

from .tables import Style, bar, clean, count, counted, percent, seconds, shorten, size, table

#: Rows of the table of callbacks, and of loops.
TOP = 10
TOP_LOOPS = 12
#: A loop's threshold of slow runs is taken for this many s where it is not known yet.
_THRESHOLD = 0.1
_FRAMES = 8


class _Seen:
    """A loop's counters at the last look."""

    __slots__ = ("active", "callbacks", "delays", "idle", "runs", "slow")

    def __init__(self) -> None:
        self.active = self.idle = 0.0
        self.runs = self.slow = 0
        self.delays = Histogram()
        self.callbacks: dict[str, tuple[int, float]] = {}


class LiveView:
    """Looks at statistics that somebody else feeds; each ``lines`` tells what came since the one before."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self._seen: dict[tuple[int, str], _Seen] = {}
        self._looked = time.monotonic()
        with statistics.lock:
            self._take()

    def lines(self, style: Style, title: str = "") -> list[str]:
        """The text, by lines that are no longer than the style's width. Rates are those since the last call."""
        now = time.monotonic()
        with self._statistics.lock:
            passed, self._looked = max(now - self._looked, 1e-3), now
            before = self._seen
            self._take()
            gains = {key: _gained(seen, before.get(key, _NOTHING)) for key, seen in self._seen.items()}
            loops = [loop for loop in self._statistics.loops() if loop.is_open]
            out = [self._headline(loops, style, title), ""]
            out += self._loops(loops, gains, passed, style)
            out += self._callbacks(loops, gains, passed, style)
            for loop in loops:
                out += self._blocked(loop, style)
        return out

    def _take(self) -> None:
        self._seen = {_key(loop): _look(loop) for loop in self._statistics.loops()}

    def _headline(self, loops: list[LoopStatistics], style: Style, title: str) -> str:
        processes = [process for process in self._statistics.processes.values() if process.attached]
        facts = [counted(len(processes), "process", "processes"), counted(len(loops), "loop")]
        resident = sum(process.usage.resident_bytes for process in processes if process.usage is not None)
        if resident:
            facts.append(size(resident))
        dropped = sum(process.dropped for process in processes)
        if dropped:
            facts.append(f"{count(dropped)} records missed")
        text = ", ".join(facts)
        return style.bold(shorten(clean(title), max(10, style.width - len(text) - 2))) + "  " + text

    def _loops(
        self, loops: list[LoopStatistics], gains: dict[tuple[int, str], _Seen], passed: float, style: Style
    ) -> Iterator[str]:
        rows = []
        for loop in sorted(loops, key=lambda each: (-each.running_seconds(), -gains[_key(each)].runs))[:TOP_LOOPS]:
            gained = gains[_key(loop)]
            total = gained.active + gained.idle
            share = gained.active / total if total else 0.0
            running = loop.running_seconds()
            late = running >= (loop.callbacks.threshold or _THRESHOLD)
            rows.append(
                [
                    loop.label,
                    f"{self._statistics.processes[loop.slot].pid}",
                    f"{bar(share, 10)} {percent(share):>6}",
                    count(gained.runs / passed),
                    seconds(gained.delays.quantile(0.99)),
                    count(gained.slow),
                    count(loop.tasks_alive),
                    count(loop.gauge(layout.W_TIMERS) - loop.gauge(layout.W_TIMERS_CANCELLED)),
                    style.bad(seconds(running)) if late else "-",
                ]
            )
        header = ["loop", "pid", "active", "callbacks/s", "delay p99", "slow", "tasks", "timers", "blocked for"]
        yield from table(style, header, rows, indent=0)
        if not rows:
            yield style.dim("no loop runs")
        if len(loops) > TOP_LOOPS:
            yield style.dim(f"and {counted(len(loops) - TOP_LOOPS, 'more loop')}")

    def _callbacks(
        self, loops: list[LoopStatistics], gains: dict[tuple[int, str], _Seen], passed: float, style: Style
    ) -> Iterator[str]:
        totals: dict[str, CallbackTotals] = {}
        for loop in loops:
            for label, (runs, spent) in gains[_key(loop)].callbacks.items():
                each = totals.setdefault(label, CallbackTotals(label))
                each.runs += runs
                each.seconds += spent
        rows = [
            [
                each.label,
                f"{each.runs / passed:,.1f}",
                percent(each.seconds / passed),
                seconds(each.seconds / each.runs),
            ]
            for each in sorted(totals.values(), key=lambda each: -each.seconds)[:TOP]
        ]
        if rows:
            yield ""
            yield from table(
                style, [f"callbacks of the last {seconds(passed)}", "runs/s", "time", "mean"], rows, indent=0
            )

    def _blocked(self, loop: LoopStatistics, style: Style) -> Iterator[str]:
        """The stack of a loop that does not come back to its poll, as far as it is known."""
        running = loop.running_seconds()
        if running < (loop.callbacks.threshold or _THRESHOLD):
            return
        yield ""
        whose = f"{clean(loop.label)} of process {self._statistics.processes[loop.slot].pid}"
        stall = loop_stalls_of(loop).in_progress()
        if stall is None:
            yield style.bad(f"{whose} has not polled for {seconds(running)}")
            return
        culprit = "" if stall.culprit in ("unknown", stall.callback) else f", in {clean(stall.culprit)}"
        yield style.bad(f"{whose} has been blocked for {seconds(running)} by {clean(stall.callback)}{culprit}")
        stacks = [stack for stack in stall.stacks if stack.frames]
        if stacks:
            lines = stacks[-1].text.splitlines()[1:]
            if len(lines) > _FRAMES:
                yield style.dim(f"  ... {len(lines) - _FRAMES} frames above")
            yield from ("  " + shorten(clean(line.strip()), style.width - 2) for line in lines[-_FRAMES:])


_NOTHING = _Seen()


def _key(loop: LoopStatistics) -> tuple[int, str]:
    return loop.slot, loop.label


def _look(loop: LoopStatistics) -> _Seen:
    loop.refresh()
    seen = _Seen()
    seen.active, seen.idle = loop.times()
    seen.runs, seen.slow = loop.callbacks.runs, loop.callbacks.slow_runs
    seen.delays.merge(loop.callbacks.delays.values())
    seen.callbacks = {label: (each.runs, each.seconds) for label, each in loop.callbacks.callbacks.items()}
    return seen


def _gained(now: _Seen, then: _Seen) -> _Seen:
    """What was added between two looks at a loop."""
    gained = _Seen()
    gained.active, gained.idle = now.active - then.active, now.idle - then.idle
    gained.runs, gained.slow = now.runs - then.runs, now.slow - then.slow
    gained.delays.merge([now.delays])  # of which the maximum stays: no quantile is above it
    gained.delays.counts = [new - old for new, old in zip(now.delays.counts, then.delays.counts, strict=True)]
    for label, (runs, spent) in now.callbacks.items():
        runs_then, spent_then = then.callbacks.get(label, (0, 0.0))
        if runs > runs_then:
            gained.callbacks[label] = (runs - runs_then, spent - spent_then)
    return gained
