"""A record in Chrome's Trace Event Format (JSON), for chrome://tracing, speedscope, and other tools that read it.

What it shows is what the Perfetto trace shows. The file is larger, and slower to open.
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

_encode: Final[Callable[[Any], str]] = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_MAX_NAMES: Final = 100_000
# Thread ids of rows that are no threads: above those that Linux gives.
_OWN_ROWS: Final = 1 << 23
_TASK_NUMBERS: Final = int(SITE_LIMIT)
_LATEST: Final = 2.0**33


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
        out.write(f'{{"displayTimeUnit":"ms","otherData":{about},"traceEvents":[\n'.encode())
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
            self._out.write(((",\n" if self._any else "") + ",\n".join(events)).encode("ascii"))
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
        # By ring, its loop's row; by ring and task's number, the fields that its events have in common.
        self._loop_rows: dict[int, int] = {}
        self._tasks: dict[tuple[int, int], str] = {}
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
        """The slices of runs and the steps of tasks. Formatted by hand: they are as many as handles were run."""
        runs, ring = list(chunk.decoded.runs), chunk.ring.number
        label = chunk.loop.label if chunk.loop is not None else f"loop-{ring}"
        row = self._loop_rows[ring] = self._row(label, chunk.thread_id)
        self._loop_labels[ring] = label
        earlier = self._earlier.setdefault(ring, EarlierRuns())
        earlier.add(runs)
        if len(self._names) > _MAX_NAMES:
            self._names.clear()
        names, append = self._names, self._events.append
        self._begin_tasks(chunk.decoded, ring)
        where = f'"pid":{self._pid},"tid":{row}'
        arrow = f'{where},"name":"scheduled","cat":"flow","id":'
        base = self._identity(ring, 0)
        first = runs[0][0] if runs else 0
        for number, start, end, ident, kind, delay, scheduler, _, _, outcome in runs:
            name = names.get(ident)
            if name is None:
                name = names[ident] = _encode(self._label(ident))
            ts, dur = start * 1e6, (end - start) * 1e6
            waited = f',"delay_us":{delay * 1e6:.3f}' if delay >= 0.0 else ""
            append(
                f'{{"ph":"X",{where},"ts":{ts:.3f},"dur":{dur:.3f},"name":{name},'
                f'"args":{{"run":{number},"kind":"{kind}"{waited}}}}}'
            )
            if scheduler:
                begun = runs[scheduler - first][1] if scheduler >= first else earlier.start_of(scheduler)
                if begun >= 0.0:
                    # Within both slices, which have the same ends as others by chance.
                    append(f'{{"ph":"s",{arrow}{base + number},"ts":{begun * 1e6 + 0.002:.3f}}}')
                    append(f'{{"ph":"f","bp":"e",{arrow}{base + number},"ts":{ts + 0.001:.3f}}}')
            if kind == "task":
                self._step(ring, ident, ts, ts + dur, outcome)

    def _begin_tasks(self, decoded: Decoded, ring: int) -> None:
        for task in decoded.tasks:
            number = int(task.ident) // _TASK_NUMBERS
            name = f"{self._label(task.ident)}: {task.name}" if task.name else self._label(task.ident)
            self._begin_task(ring, number, name, task.start * 1e6)

    def _begin_task(self, ring: int, number: int, name: str, ts: float) -> str:
        common = f'"cat":"task","id":"{self._number}.{ring}.{number}","pid":{self._pid},"tid":{self._row("tasks")}'
        if len(self._tasks) >= _MAX_NAMES:  # their ends were lost
            self._tasks.clear()
            self._alive.clear()
        self._tasks[ring, number] = common = f'{common},"name":{_encode(name)}'
        self._events.append(f'{{"ph":"b",{common},"ts":{ts:.3f}}}')
        self._count_tasks(ring, 1, ts)
        return common

    def _count_tasks(self, ring: int, more: int, ts: float) -> None:
        alive = self._alive[ring] = self._alive.get(ring, 0) + more
        self._counter(f"tasks of {self._loop_labels.get(ring, '')}", ts / 1e6, "tasks", alive)

    def _step(self, ring: int, ident: float, ts: float, until: float, outcome: int) -> None:
        number = int(ident) // _TASK_NUMBERS
        common = self._tasks.get((ring, number))
        if common is None:  # its beginning was lost
            common = self._begin_task(ring, number, self._label(ident), ts)
        step = f'{common.rpartition(",")[0]},"name":"step"'
        self._events.append(f'{{"ph":"b",{step},"ts":{ts:.3f}}}')
        self._events.append(f'{{"ph":"e",{step},"ts":{until:.3f}}}')
        if outcome:
            args = f'"args":{{"outcome":"{OUTCOMES.get(outcome, "unknown")}"}}'
            self._events.append(f'{{"ph":"e",{common},"ts":{until:.3f},{args}}}')
            del self._tasks[ring, number]
            self._count_tasks(ring, -1, until)

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
            args = {"collected": each.collected}
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
                f'{{"ph":"C","pid":{self._pid},"tid":0,"ts":{when * 1e6:.3f},"name":{_encode(name)},"args":{args}}}'
            )

    def _slice(self, row: int, name: str, start: float, end: float, args: dict[str, Any]) -> None:
        if 0.0 <= start <= end < _LATEST:
            times = f'"ts":{start * 1e6:.3f},"dur":{(end - start) * 1e6:.3f}'
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
                self._events.append(f'{{"ph":"{phase}",{arrow},"tid":{thread},"ts":{when * 1e6 + 0.001:.3f}}}')
