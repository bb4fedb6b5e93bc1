"""A record in Chrome's Trace Event Format (JSON), for chrome://tracing, speedscope, and other tools that read it.

It shows the same as the Perfetto trace. The file is larger, and slower to open.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, Final

from traceloop.reading.decoding.decoded import Decoded
from traceloop.reading.follower import Chunk, ProcessFollower
from traceloop.record.layout import SITE_LIMIT

from .earlier_runs import EarlierRuns
from .model import Source
from .offload_calls import OUTCOMES, OffloadCall, OffloadCalls
from .slow_runs import culprit_line, slow_runs, stack_text
from .timer_counts import TimerCounts

_dump: Final[Callable[[Any], str]] = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False
).encode
_MAX_NAMES: Final = 100_000
# Rows that are no threads have thread ids above any that Linux gives.
_OWN_ROWS: Final = 1 << 23
_TASK_NUMBERS: Final = int(SITE_LIMIT)
_LATEST: Final = 2.0**33


def _encode(value: Any) -> str:
    """JSON that Perfetto's parser reads too: it refuses pairs of surrogates as escapes (what is beyond U+FFFF stands
    as itself), and takes a quote behind any backslash for an escaped one, so that no text may end with a backslash.
    """
    return _dump(value).replace("\\\\", "\\u005c")


def _us(moment: float) -> str:
    """Seconds as JSON's number of microseconds."""
    return f"{int(moment * 1e9)}e-3"


def make(out: BinaryIO, source: Source) -> ChromeTrace:
    """The writer of this format."""
    return ChromeTrace(out, source)


class ChromeTrace:
    """Writes the JSON object: its list of events grows as the record is read."""

    notices: Sequence[str] = ()

    def __init__(self, out: BinaryIO, source: Source) -> None:
        self._out = out
        self._processes: dict[ProcessFollower, _Process] = {}
        about = _encode({"tool": "traceloop", "command": source.command})
        out.write(f'{{"displayTimeUnit":"ms","otherData":{about},"traceEvents":[\n'.encode("utf-8", "replace"))
        self._any = False

    def take(self, chunks: Sequence[Chunk]) -> None:
        """Writes what was read."""
        for chunk in chunks:
            follower = chunk.ring.process
            process = self._processes.get(follower)
            if process is None:
                process = self._processes[follower] = _Process(follower, len(self._processes) + 1)
            self._write(process.take(chunk))

    def end_process(self, process: ProcessFollower) -> None:
        """Writes what never became whole."""
        known = self._processes.get(process)
        if known is not None:
            self._write(known.end())

    def finish(self) -> None:
        """Closes the list."""
        for process in self._processes.values():
            self._write(process.end())
        self._out.write(b"\n]}\n")

    def _write(self, events: list[str]) -> None:
        if events:
            self._out.write(((",\n" if self._any else "") + ",\n".join(events)).encode("utf-8", "replace"))
            self._any = True


class _Process:
    """One process."""

    def __init__(self, follower: ProcessFollower, number: int) -> None:
        self._follower = follower
        self._number = number
        self._pid = follower.statistics.pid
        self._calls = OffloadCalls()
        self._timers = TimerCounts()
        # By ring, how many of its tasks are alive.
        self._alive: dict[int, int] = {}
        self._loop_labels: dict[int, str] = {}
        self._earlier: dict[int, EarlierRuns] = {}
        self._names: dict[float, str] = {}
        self._rows: dict[str, int] = {}
        self._named: set[int] = set()
        # By ring, its loop's row; by ring and task's number, the fields that its slice's events have in common, and
        # those that its steps' have.
        self._loop_rows: dict[int, int] = {}
        self._tasks: dict[tuple[int, int], tuple[str, str]] = {}
        self._events: list[str] = []
        command = str(follower.statistics.description.get("command", "")) or "python"
        self._name_row("process_name", 0, command[:300])

    def take(self, chunk: Chunk) -> list[str]:
        """The events of a chunk."""
        if chunk.ring.is_loop:
            self._loop(chunk)
        self._calls.feed(chunk.decoded, chunk.ring.number)
        self._others(chunk)
        for call in self._calls.take():
            self._offload(call)
        return self._taken()

    def end(self) -> list[str]:
        """The events that end what is open."""
        for call in self._calls.take(final=True):
            self._offload(call)
        return self._taken()

    def _taken(self) -> list[str]:
        events, self._events = self._events, []
        return events

    def _name_row(self, what: str, row: int, name: str) -> None:
        if row not in self._named:
            self._named.add(row)
            args = _encode({"name": name})
            self._events.append(f'{{"ph":"M","name":"{what}","pid":{self._pid},"tid":{row},"ts":0,"args":{args}}}')

    def _row(self, name: str, tid: int = 0) -> int:
        """The row of a thread, or of something else by its name."""
        if not 0 < tid < _OWN_ROWS:
            tid = self._rows.setdefault(name, _OWN_ROWS + len(self._rows))
        self._name_row("thread_name", tid, name)
        return tid

    def _label(self, ident: float) -> str:
        return self._follower.statistics.sites.label_of(ident)

    def _identity(self, ring: int, number: int) -> int:
        """What names an arrow: an integer that every reader of JSON holds exactly."""
        return (self._number % 2048 * 1024 + ring % 1024 << 32) + number % (1 << 32)

    def _loop(self, chunk: Chunk) -> None:
        """The slices of runs and the steps of tasks. Formatted by hand: they are as many as handles were run.

        Times are whole nanoseconds with an exponent: a third of what formatting microseconds with a fraction takes.
        """
        runs, ring = list(chunk.decoded.runs), chunk.ring.number
        label = chunk.loop.label if chunk.loop is not None else f"loop-{ring}"
        row = self._loop_rows[ring] = self._row(label, chunk.thread_id)
        self._loop_labels[ring] = label
        earlier = self._earlier.setdefault(ring, EarlierRuns())
        earlier.add(runs)
        if len(self._names) > _MAX_NAMES:
            self._names.clear()
        names, append, task_of = self._names, self._events.append, self._tasks.get
        self._begin_tasks(chunk.decoded, ring)
        where = f'"pid":{self._pid},"tid":{row}'
        arrow = f'{where},"name":"scheduled","cat":"flow","id":'
        base = self._identity(ring, 0)
        first = runs[0][0] if runs else 0
        for number, start, end, ident, kind, delay, scheduler, _, _, outcome in runs:
            name = names.get(ident)
            if name is None:
                name = names[ident] = _encode(self._label(ident))
            start_ns, end_ns = int(start * 1e9), int(end * 1e9)
            waited = f',"delay_us":{int(delay * 1e9)}e-3' if delay >= 0.0 else ""
            append(
                f'{{"ph":"X",{where},"ts":{start_ns}e-3,"dur":{end_ns - start_ns}e-3,"name":{name},'
                f'"args":{{"run":{number},"kind":"{kind}"{waited}}}}}'
            )
            if scheduler:
                begun = runs[scheduler - first][1] if scheduler >= first else earlier.start_of(scheduler)
                if begun >= 0.0:
                    # Within both slices, which have the same ends as others by chance.
                    append(
                        f'{{"ph":"s",{arrow}{base + number},"ts":{int(begun * 1e9) + 2}e-3}},\n'
                        f'{{"ph":"f","bp":"e",{arrow}{base + number},"ts":{start_ns + 1}e-3}}'
                    )
            if kind == "task":
                task = task_of((ring, int(ident) // _TASK_NUMBERS)) or self._begin_lost_task(ring, ident, start)
                append(f'{{"ph":"b",{task[1]},"ts":{start_ns}e-3}},\n{{"ph":"e",{task[1]},"ts":{end_ns}e-3}}')
                if outcome:
                    self._end_task(ring, ident, end, outcome)

    def _begin_tasks(self, decoded: Decoded, ring: int) -> None:
        for task in decoded.tasks:
            number = int(task.ident) // _TASK_NUMBERS
            name = f"{self._label(task.ident)}: {task.name}" if task.name else self._label(task.ident)
            self._begin_task(ring, number, name, task.start)

    def _begin_task(self, ring: int, number: int, name: str, when: float) -> tuple[str, str]:
        common = f'"cat":"task","id":"{self._number}.{ring}.{number}","pid":{self._pid},"tid":{self._row("tasks")}'
        if len(self._tasks) >= _MAX_NAMES:  # their ends were lost
            self._tasks.clear()
            self._alive.clear()
        whole = f'{common},"name":{_encode(name)}'
        task = self._tasks[ring, number] = (whole, f'{common},"name":"step"')
        self._events.append(f'{{"ph":"b",{whole},"ts":{_us(when)}}}')
        self._count_tasks(ring, 1, when)
        return task

    def _begin_lost_task(self, ring: int, ident: float, when: float) -> tuple[str, str]:
        """For the first step that is there of a task whose beginning is not."""
        return self._begin_task(ring, int(ident) // _TASK_NUMBERS, self._label(ident), when)

    def _end_task(self, ring: int, ident: float, when: float, outcome: int) -> None:
        whole, _ = self._tasks.pop((ring, int(ident) // _TASK_NUMBERS))
        args = f'"args":{{"outcome":"{OUTCOMES.get(outcome, "unknown")}"}}'
        self._events.append(f'{{"ph":"e",{whole},"ts":{_us(when)},{args}}}')
        self._count_tasks(ring, -1, when)

    def _count_tasks(self, ring: int, more: int, when: float) -> None:
        alive = self._alive[ring] = self._alive.get(ring, 0) + more
        self._counter(f"tasks of {self._loop_labels.get(ring, '')}", when, "tasks", alive)

    def _others(self, chunk: Chunk) -> None:
        decoded = chunk.decoded
        last = -1
        label = chunk.loop.label if chunk.loop is not None else ""
        for iteration in decoded.iterations:
            if iteration.callbacks != last:
                last = iteration.callbacks
                self._counter(f"ready queue of {label}", iteration.start, "handles", last)
        for when, blocks in decoded.memory:
            self._counter("allocated blocks", when, "blocks", blocks)
        for loop, when, timers in self._timers.take(chunk):
            self._counter(f"timers of {loop}", when, "timers", timers)
        for each in decoded.collections:
            args = {"collected": each.collected} | ({"collections": each.number} if each.number > 1 else {})
            name = f"generation {each.generation}"
            self._slice(self._row("garbage collector"), name, each.start, each.start + each.duration, args)
        for run, info in slow_runs(chunk):
            slow: dict[str, Any] = {"callback": info.callback, "culprit": info.culprit, "cause": info.parts.cause}
            stacks = [stack for stack in info.stacks if stack.frames]
            slow |= {f"stack {number}": stack_text(stack, info.start) for number, stack in enumerate(stacks, 1)}
            self._slice(self._row(f"slow callbacks of {label}"), culprit_line(info), run[1], run[2], slow)

    def _counter(self, name: str, when: float, unit: str, value: int) -> None:
        if 0.0 <= when < _LATEST:
            args = _encode({unit: value})
            self._events.append(
                f'{{"ph":"C","pid":{self._pid},"tid":0,"ts":{_us(when)},"name":{_encode(name)},"args":{args}}}'
            )

    def _slice(self, row: int, name: str, start: float, end: float, args: dict[str, Any]) -> None:
        if 0.0 <= start <= end < _LATEST:
            times = f'"ts":{_us(start)},"dur":{_us(end - start)}'
            where = f'"pid":{self._pid},"tid":{row}'
            self._events.append(f'{{"ph":"X",{where},{times},"name":{_encode(name)},"args":{_encode(args)}}}')

    def _offload(self, call: OffloadCall) -> None:
        if not call.start:
            return  # given up before it started
        name, tid = self._calls.workers.get(call.worker, ("worker", 0))
        executor = self._calls.executors.get(call.executor, "")
        row = self._row(name, tid) if tid else self._row(f"{executor} {call.worker}")
        args = {"executor": executor, "outcome": OUTCOMES.get(call.outcome, "unknown")}
        self._slice(row, self._label(call.ident), call.start, call.finish or call.start, args)
        loop_row = self._loop_rows.get(call.ring, 0)
        arrow = f'"pid":{self._pid},"name":"offload","cat":"offload","id":{self._identity(0, call.number)}'
        steps = ("s", loop_row, call.submit), ("t", row, call.start), ("f", loop_row, call.delivered)
        for phase, thread, when in steps:
            if when:
                self._events.append(f'{{"ph":"{phase}",{arrow},"tid":{thread},"ts":{_us(when + 1e-9)}}}')
