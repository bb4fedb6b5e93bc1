"""What a run's loops do now: the text that `traceloop top` shows, made of what was added since the last look.

A run of a callback is recorded when it ends. So the time of one that is under way at a look counts up to then, and what
was counted of it is left out when it ends: no callback ever has more time than has passed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from traceloop.reading.findings.verdict import verdict
from traceloop.reading.stalls.parts import loop_stalls_of
from traceloop.reading.statistics.callbacks import CallbackTotals
from traceloop.reading.statistics.histograms import Histogram
from traceloop.reading.statistics.loop import LoopStatistics
from traceloop.reading.statistics.run import Statistics
from traceloop.record import layout
from traceloop.record.frames import Frame, called_by, culprit_frame, place
from traceloop.record.plumbing import readable
from traceloop.record.sites import UNKNOWN_LABEL

from .tables import Style, bar, clean, clip, count, counted, percent, seconds, shorten, size, table, visible

#: Rows of the table of callbacks, and of loops.
TOP = 10
TOP_LOOPS = 12
#: A loop's threshold of slow runs is taken for this many s where it is not known yet.
_THRESHOLD = 0.1
_FRAMES = 8
# Of a path that is cut, characters that stay.
_LEAST_PATH = 12
#: What is left to a loop's name, characters.
_NAME_WIDTH = 12


class _Seen:
    """A loop's counters at the last look."""

    __slots__ = ("active", "callbacks", "delays", "idle", "runs", "slow", "under_way")

    def __init__(self) -> None:
        self.active = self.idle = 0.0
        self.runs = self.slow = 0
        self.delays = Histogram()
        self.callbacks: dict[str, tuple[int, float]] = {}
        #: The callback that was running, and for how long by then; "" where none is known.
        self.under_way = ("", 0.0)


class LiveView:
    """Shows statistics that other code feeds; each ``lines`` has what came since the one before."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self._seen: dict[tuple[int, str], _Seen] = {}
        self._looked = time.monotonic()
        with statistics.lock:
            self._take()

    def lines(self, style: Style, title: str = "", rows: int = 0) -> list[str]:
        """The text, by lines that are no longer than the style's width. Rates are those since the last call.

        ``rows``: how many lines there may be; 0: as many as there are.
        """
        now = time.monotonic()
        with self._statistics.lock:
            passed, self._looked = max(now - self._looked, 1e-3), now
            before = self._seen
            self._take()
            gains = {key: _gained(seen, before.get(key, _NOTHING)) for key, seen in self._seen.items()}
            loops = [loop for loop in self._statistics.loops() if loop.is_open]
            # What is wrong now, then the loops, then what they spend their time on, in what is left of the screen.
            room = max(rows - 4, 6) if rows else 1000
            frames = _FRAMES if room > 30 else 3
            blocked = [line for loop in loops for line in self._blocked(loop, style, frames)][: room // 2]
            room -= len(blocked)
            shown = list(self._loops(loops, gains, passed, style, min(TOP_LOOPS, max(room // 2 - 1, 2))))
            room -= len(shown)
            out = [self._headline(loops, style, title), *self._worst(style), "", *shown]
            out += list(self._callbacks(loops, gains, passed, style, min(TOP, room - 2))) + blocked
        return [clip(line, style.width) for line in out][: rows or None]

    def _take(self) -> None:
        self._seen = {_key(loop): _look(loop) for loop in self._statistics.loops()}

    def _worst(self, style: Style) -> list[str]:
        """The worst finding since the beginning, in one line; nothing where there is none."""
        judged = verdict(self._statistics)
        return [style.warn(clip(f"worst so far: {clean(judged.line)}", style.width))] if judged.troubles else []

    def _headline(self, loops: list[LoopStatistics], style: Style, title: str) -> str:
        processes = [process for process in self._statistics.processes.values() if process.attached]
        facts = [counted(len(processes), "process", "processes"), counted(len(loops), "loop")]
        resident = sum(process.usage.resident_bytes for process in processes if process.usage is not None)
        if resident:
            facts.append(size(resident))
        lost = sum(process.lost for process in processes)
        if lost:
            facts.append(f"{count(lost)} records missed")
        text = ", ".join(facts)
        return style.bold(shorten(clean(title), max(10, style.width - len(text) - 2))) + "  " + text

    def _loops(
        self, loops: list[LoopStatistics], gains: dict[tuple[int, str], _Seen], passed: float, style: Style, most: int
    ) -> Iterator[str]:
        rows = []
        for loop in sorted(loops, key=lambda each: (-each.running_seconds(), -gains[_key(each)].runs))[:most]:
            gained = gains[_key(loop)]
            total = gained.active + gained.idle
            share = gained.active / total if total else 0.0
            running = loop.running_seconds()
            late = running >= (loop.callbacks.threshold or _THRESHOLD)
            rows.append(
                [
                    loop.label,
                    f"{self._statistics.processes[loop.slot].pid}",
                    bar(share, 10),
                    percent(share),
                    count(gained.runs / passed),
                    seconds(gained.delays.quantile(0.99)) if gained.delays.count else "-",
                    count(gained.slow),
                    count(loop.tasks_alive),
                    count(loop.gauge(layout.W_TIMERS) - loop.gauge(layout.W_TIMERS_CANCELLED)),
                    style.bad(seconds(running)) if late else "-",
                ]
            )
        header = ["loop", "pid", "", "active", "callbacks/s", "delay p99", "slow", "tasks", "timers", "blocked for"]
        yield from table(style, *_fitting(header, rows, style.width), indent=0)
        if not rows:
            known = bool(self._statistics.processes)
            yield style.dim("no loop runs" if known else "the program has not run an asyncio event loop yet")
        if len(loops) > most:
            yield style.dim(f"and {counted(len(loops) - most, 'more loop')}")

    def _callbacks(
        self, loops: list[LoopStatistics], gains: dict[tuple[int, str], _Seen], passed: float, style: Style, most: int
    ) -> Iterator[str]:
        totals: dict[str, CallbackTotals] = {}
        for loop in loops:
            for label, (runs, spent) in gains[_key(loop)].callbacks.items():
                each = totals.setdefault(label, CallbackTotals(label))
                each.runs += runs
                # A run whose beginning no watchdog saw may be longer than the time since the last look.
                each.seconds += min(spent, passed)
        rows = [
            [
                readable(each.label),
                f"{each.runs / passed:,.1f}",
                percent(each.seconds / passed),
                seconds(each.seconds / each.runs) if each.runs else "runs now",
            ]
            for each in sorted(totals.values(), key=lambda each: -each.seconds)[: max(0, most)]
        ]
        if rows:
            yield ""
            yield from table(
                style, [f"callbacks of the last {seconds(passed)}", "runs/s", "time", "mean"], rows, indent=0
            )

    def _blocked(self, loop: LoopStatistics, style: Style, most: int) -> Iterator[str]:
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
        culprit = "" if stall.culprit in (UNKNOWN_LABEL, stall.callback) else f", in {clean(readable(stall.culprit))}"
        yield style.bad(
            f"{whose} has been blocked for {seconds(running)} by {clean(readable(stall.callback))}{culprit}"
        )
        stack = stall.stack
        if stack is not None:
            if stall.holder is not None:
                yield "  " + shorten(clean(f"it {stall.holder}"), style.width - 2)
            frames, awaiting = stack.frames, stack.awaiting
            own = culprit_frame(frames, awaiting)
            if own is not None:
                called = called_by(frames, own)
                yield "  " + _placed(own, style.width - 2)
                if called is not None:
                    yield "    in " + _placed(called, style.width - 7)
            lines = stack.text.splitlines()[1:]
            if len(lines) > most:
                yield style.dim(f"  ... {len(lines) - most} frames above")
            yield from ("  " + shorten(clean(line.strip()), style.width - 2) for line in lines[-most:])


def _placed(frame: Frame, width: int) -> str:
    """``NAME (FILE:LINE)`` in this width: the beginning of the file's path goes first, for its end tells more."""
    text, where = clean(place(frame)), clean(f"{frame[0]}:{frame[1]}")
    over = len(text) - width
    if 0 < over < len(where) - _LEAST_PATH:
        return f"{text[: -len(where) - 1]}…{where[over + 1 :]})"
    return shorten(text, width)


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
    stall = loop_stalls_of(loop).in_progress() if loop.is_open and loop.running_seconds() else None
    if stall is not None:
        seen.under_way = (stall.callback, max(0.0, time.monotonic() - stall.start))
        runs, spent = seen.callbacks.get(stall.callback, (0, 0.0))
        seen.callbacks[stall.callback] = (runs, spent + seen.under_way[1])
    return seen


def _fitting(header: list[str], rows: list[list[str]], width: int) -> tuple[list[str], list[list[str]]]:
    """The columns that fit into a line of this width; the others go, the dispensable ones first."""
    for name in ("", "timers", "tasks", "pid", "slow"):
        needed = sum(max(map(visible, column)) for column in zip(header[1:], *(row[1:] for row in rows), strict=True))
        if _NAME_WIDTH + needed + 2 * (len(header) - 1) <= width:
            break
        place = header.index(name)
        header = header[:place] + header[place + 1 :]
        rows = [row[:place] + row[place + 1 :] for row in rows]
    return header, rows


def _gained(now: _Seen, then: _Seen) -> _Seen:
    """What was added between two looks at a loop."""
    gained = _Seen()
    gained.active, gained.idle = now.active - then.active, now.idle - then.idle
    gained.runs, gained.slow = now.runs - then.runs, now.slow - then.slow
    gained.delays.merge([now.delays])  # of which the maximum stays: no quantile is above it
    gained.delays.counts = [new - old for new, old in zip(now.delays.counts, then.delays.counts, strict=True)]
    for label, (runs, spent) in now.callbacks.items():
        runs_then, spent_then = then.callbacks.get(label, (0, 0.0))
        if runs > runs_then or spent > spent_then:
            gained.callbacks[label] = (runs - runs_then, max(0.0, spent - spent_then))
    return gained
