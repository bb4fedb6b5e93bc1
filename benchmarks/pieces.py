"""What each piece of a recorded handle costs by itself, in nanoseconds: where the time of the hot path goes.

    python benchmarks/pieces.py

Each piece runs 1,000 times in a loop whose own cost is taken off; the least of 300 such loops counts. In the event
loop a piece may cost more: what it looks at (a task, its dictionary) is then not in the first-level cache.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import zlib
from collections import deque
from contextvars import copy_context
from gc import get_referents
from itertools import count
from time import monotonic, perf_counter_ns
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from traceloop.core.handles import Handle

_TIMES = 1000
_LOOPS = 300
_RECORDS = 1024

#: What it is, and the statement that does it once; the names are those of ``_things``.
PIECES = (
    ("for every handle, recorded or not", ""),
    ("take it from the queue: ready.popleft()", "ready.append(None); ready.popleft()"),
    ("make it: Handle()", "handle_type()"),
    ("copy_context()", "copy_context()"),
    ("for every recorded handle", ""),
    ("the clock: monotonic()", "clock()"),
    ("one append to the records (three a record)", "records.append(None)"),
    ("len(ready)", "len(ready)"),
    ("type(callback)", "type(callback)"),
    ("for a Python function", ""),
    ("callback.__code__", "function.__code__"),
    ("id(code) and its site, where the one before was another", "sites[id(code)]"),
    ("for a step of a task", ""),
    ("callback.__self__", "callback.__self__"),
    ("task._loop_ident", "task._loop_ident"),
    ("task.done()", "task.done()"),
    ("task._fut_waiter, for one that wakes up", "task._fut_waiter"),
    ("for a C method", ""),
    ("its site, by its name", "methods[type(method.__self__)][method.__name__]"),
    ("for the first step of a task", ""),
    ("its number: next_task()", "next_task()"),
    ("its code: task.get_coro().cr_code", "task.get_coro().cr_code"),
    ("its name: task.get_name()", "task.get_name()"),
    ("its automatic name's number: get_referents(task)", "get_referents(task)"),
    ("task._exception, task.cancelled()", "task._exception; task.cancelled()"),
)


def _things() -> dict[str, Any]:
    loop = asyncio.new_event_loop()
    future = loop.create_future()

    class Scheduler(asyncio.SelectorEventLoop):
        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
            steps.append(callback)
            return super().call_soon(callback, *args, context=context)

    async def waits() -> None:
        await other.create_future()

    steps: list[Any] = []
    other = Scheduler()
    task = other.create_task(waits())
    other.call_soon(other.stop)
    other.run_forever()
    task._loop_ident = 65537.0  # type: ignore[attr-defined]

    def function() -> None:
        pass

    return {
        "clock": monotonic, "copy_context": copy_context, "handle_type": Handle, "get_referents": get_referents,
        "ready": deque([None] * 100), "records": [], "callback": steps[0], "task": task, "function": function,
        "code": function.__code__, "sites": {id(function.__code__): 1.0}, "method": future.set_result,
        "methods": {type(future): {"set_result": 1.0}}, "next_task": count(65536.0, 65536.0).__next__,
    }  # fmt: skip


def _nanoseconds(statement: str, things: dict[str, Any]) -> float:
    names = ", ".join(f"{name}={name}" for name in things)
    source = f"def run(*, {names}):\n    t = now()\n    for _ in times:\n        {{}}\n    return now() - t\n"
    least = []
    for body in (statement, "pass"):
        namespace = {**things, "now": perf_counter_ns, "times": range(_TIMES)}
        exec(source.format(body), namespace)
        least.append(min(namespace["run"]() for _ in range(_LOOPS)))
    return (least[0] - least[1]) / _TIMES


def _flushing() -> dict[str, float]:
    """The parts of writing a batch, ns a record."""
    pack = struct.Struct(f"{3 * _RECORDS}d").pack
    taken: dict[str, list[int]] = {}
    for _ in range(_LOOPS):
        records: list[float] = []
        for number in range(_RECORDS):
            records += (monotonic(), 65536.0 * number, number % 100)
        moments = [perf_counter_ns()]
        body = pack(*records)
        moments.append(perf_counter_ns())
        zlib.crc32(body)
        moments.append(perf_counter_ns())
        records.clear()
        moments.append(perf_counter_ns())
        for name, begun, end in zip(("pack", "checksum", "clear"), moments, moments[1:], strict=False):
            taken.setdefault(name, []).append(end - begun)
    return {name: min(values) / _RECORDS for name, values in taken.items()}


def main() -> None:
    things = _things()
    print(f"Python {sys.version.split()[0]}\n\n| | ns |\n|---|---|")
    for name, statement in PIECES:
        print(f"| {name} | {_nanoseconds(statement, things):.0f} |" if statement else f"| **{name}** | |", flush=True)
    print("| **for every record, with its batch of 1,024** | |")
    for name, nanoseconds in _flushing().items():
        print(f"| {name} | {nanoseconds:.0f} |")
    things["task"]._log_destroy_pending = False


if __name__ == "__main__":
    main()
