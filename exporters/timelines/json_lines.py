"""A record as JSON lines: an object for each thing that happened. docs/exports.md lists the types and their fields.

Times are nanoseconds since the epoch (``*_unix_nano``), durations seconds. What is not known is left out. Objects of
one loop come in the order in which the record has them; what is put together of several records (an offload, a slow
callback's stacks) comes when it is whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Final

from traceloop.reading.decoding.decoded import Decoded
from traceloop.reading.follower import Chunk, ProcessFollower
from traceloop.record.sites import UNKNOWN_SITE, site_of
from traceloop.version import __version__

from .model import Source
from .offload_calls import OUTCOMES, OffloadCall, OffloadCalls
from .slow_runs import slow_runs

SCHEMA: Final = "traceloop-records/1"
_encode: Final[Callable[[Any], str]] = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
# Escaped names of callbacks, by ident: tasks have idents of their own, so there may be many.
_MAX_NAMES: Final = 100_000


def make(out: BinaryIO, source: Source) -> JsonLines:
    """The writer of this format."""
    return JsonLines(out, source)


class JsonLines:
    """Writes the lines."""

    def __init__(self, out: BinaryIO, source: Source) -> None:
        self._out = out
        self._processes: dict[ProcessFollower, _Process] = {}
        self._write([{"type": "export", "schema": SCHEMA, "version": __version__, "command": source.command}])

    notices: Sequence[str] = ()

    def take(self, chunks: Sequence[Chunk]) -> None:
        """Writes what was read."""
        for chunk in chunks:
            follower = chunk.ring.process
            process = self._processes.get(follower)
            if process is None:
                process = self._processes[follower] = _Process(follower, chunk.ring.reader.clock_offset_ns)
                self._write(process.begin())
            self._out.write(process.runs(chunk).encode("ascii"))
            self._write(process.others(chunk))

    def end_process(self, process: ProcessFollower) -> None:
        """Writes what never became whole."""
        known = self._processes.pop(process, None)
        if known is not None:
            self._write(known.end())

    def finish(self) -> None:
        """Writes what is left of processes that have not ended."""
        for follower in list(self._processes):
            self.end_process(follower)

    def _write(self, objects: Sequence[dict[str, Any]] | Iterator[dict[str, Any]]) -> None:
        text = "".join([_encode(each) + "\n" for each in objects])
        if text:
            self._out.write(text.encode("ascii"))


class _Process:
    def __init__(self, follower: ProcessFollower, clock_offset_ns: int) -> None:
        self._follower = follower
        self._pid = follower.statistics.pid
        self._offset = clock_offset_ns
        self._calls = OffloadCalls()
        self._names: dict[float, str] = {}

    def begin(self) -> Iterator[dict[str, Any]]:
        description = self._follower.statistics.description
        yield {
            "type": "process",
            "pid": self._pid,
            "command": str(description.get("command", ""))[:500],
            "python": str(description.get("python", ""))[:60],
            "traceloop": str(description.get("version", ""))[:60],
        }

    def runs(self, chunk: Chunk) -> str:
        """The handle runs of a chunk. Formatted by hand: there are as many as the loop has run handles."""
        offset, names = self._offset, self._names
        name_of = names.get
        loop = _encode(chunk.loop.label) if chunk.loop is not None else '""'
        head = f'{{"type":"run","pid":{self._pid},"loop":{loop},"ring":{chunk.ring.number},"number":'
        lines: list[str] = []
        if len(names) > _MAX_NAMES:
            names.clear()
        for number, start, end, ident, kind, delay, scheduler, _, iteration, _ in chunk.decoded.runs:
            name = name_of(ident)
            if name is None:
                name = names[ident] = self._name(ident)
            lines.append(
                f'{head}{number},"kind":"{kind}",{name},"start_unix_nano":{int(start * 1e9) + offset},'
                f'"duration_seconds":{end - start:.9f},"iteration":{iteration}'
            )
            if delay >= 0.0:
                lines.append(f',"delay_seconds":{delay:.9f}')
            if scheduler:
                lines.append(f',"scheduled_by":{scheduler}')
            lines.append("}\n")
        return "".join(lines)

    def _name(self, ident: float) -> str:
        task = int(ident) // 65536
        name = f'"callback":{_encode(self._follower.statistics.sites.label_of(ident))}'
        return f'{name},"task":{task}' if task else name

    def others(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
        """Everything of a chunk but the runs."""
        decoded, ring = chunk.decoded, chunk.ring
        where = {"pid": self._pid}
        if chunk.loop is not None:
            where = {**where, "loop": chunk.loop.label, "ring": ring.number}  # type: ignore[dict-item]
        yield from self._tasks(decoded, where)
        for number, start, end, callbacks, polled, late in decoded.iterations:
            iteration = {"type": "iteration", **where, "number": number, **self._span(start, end)}
            iteration |= {"callbacks": callbacks, "poll_seconds": _number(polled)}
            if late >= 0.0:
                iteration["poll_late_seconds"] = _number(late)
            yield iteration
        for collection in decoded.collections:
            yield {
                "type": "collection",
                "pid": self._pid,
                **self._span(collection.start, collection.start + collection.duration),
                "generation": collection.generation,
                "collected": collection.collected,
                "collections": collection.number,
            }
        for when, blocks in decoded.memory:
            yield {"type": "memory", **where, "time_unix_nano": self._ns(when), "allocated_blocks": blocks}
        for when, number, live in decoded.timers:
            yield {
                "type": "timers",
                "pid": self._pid,
                "ring": number,
                "time_unix_nano": self._ns(when),
                "timers": live,
            }
        yield from self._slow(chunk, where)
        self._calls.feed(decoded, ring.number)
        yield from map(self._offload, self._calls.take())
        if decoded.dropped:
            yield {"type": "dropped", **where, "records": decoded.dropped}

    def _tasks(self, decoded: Decoded, where: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for task in decoded.tasks:
            begun = {"type": "task", **where, "task": int(task.ident) // 65536, "name": task.name}
            begun["coroutine"] = self._follower.statistics.sites.label_of(task.ident)
            begun |= {"first_run": task.first_run, "start_unix_nano": self._ns(task.start)}
            if task.creator:
                begun["created_by"] = task.creator
            yield begun
        for ident, outcome, when, number in decoded.finished:
            ended = {"type": "task_end", **where, "task": int(ident) // 65536, "time_unix_nano": self._ns(when)}
            yield {**ended, "outcome": OUTCOMES.get(outcome, "unknown"), "last_run": number}
        for ident, _ in decoded.abandoned:
            yield {"type": "task_end", **where, "task": int(ident) // 65536, "outcome": "abandoned"}

    def _slow(self, chunk: Chunk, where: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for run, info in slow_runs(chunk):
            found = {"type": "slow", **where, "run": run[0], "callback": info.callback, "culprit": info.culprit}
            found |= self._span(run[1], run[2])
            if info.parts.cause:
                found["cause"] = info.parts.cause
                found["cause_is_guess"] = info.parts.guess
            found["stacks"] = [
                {
                    "time_unix_nano": self._ns(stack.at),
                    "frames": [_frame(frame) for frame in (*reversed(stack.awaiting), *stack.frames)],
                }
                for stack in info.stacks
                if stack.frames
            ]
            yield found

    def end(self) -> Iterator[dict[str, Any]]:
        """What never became whole."""
        return map(self._offload, self._calls.take(final=True))

    def _offload(self, call: OffloadCall) -> dict[str, Any]:
        site = self._follower.statistics.sites.site(site_of(call.ident)) or UNKNOWN_SITE
        executor = self._calls.executors.get(call.executor, str(call.executor))
        found = {"type": "offload", "pid": self._pid, "number": call.number, "executor": executor}
        found["function"] = site.label
        moments = ("submit", call.submit), ("start", call.start), ("end", call.finish), ("delivery", call.delivered)
        found |= {f"{name}_unix_nano": self._ns(when) for name, when in moments if when}
        if call.worker in self._calls.workers:
            found["thread"] = self._calls.workers[call.worker][0]
        if call.outcome:
            found["outcome"] = OUTCOMES.get(call.outcome, "unknown")
        if call.run:
            found |= {"ring": call.ring, "submitted_by": call.run}
        if call.delivered_by:
            found["delivered_by"] = call.delivered_by
        return found

    def _span(self, start: float, end: float) -> dict[str, Any]:
        return {"start_unix_nano": self._ns(start), "duration_seconds": _number(max(0.0, end - start))}

    def _ns(self, when: float) -> int:
        return int(when * 1e9) + self._offset if math.isfinite(when) else 0


def _number(value: float) -> float:
    return round(value, 9) if math.isfinite(value) else 0.0


def _frame(frame: tuple[str, int, str, str]) -> dict[str, Any]:
    file, line, module, qualname = frame
    return {"file": file, "line": line, "function": f"{module}.{qualname}" if module else qualname}
