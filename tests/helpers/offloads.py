"""What the tests of this folder share: a recorded loop, and what its record says of offloads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from tests.helpers.waiting import PATIENCE
from traceloop.loop.event_loop import EventLoop
from traceloop.reading.decoding.decoded import Decoded
from traceloop.reading.decoding.ring_reader import RingReader
from traceloop.reading.decoding.stream import LoopStream
from traceloop.recording.process import Process
from traceloop.recording.recorder import Recorder
from traceloop.settings import Settings


@contextlib.contextmanager
def recorded_loop(ring_size: int = 32 << 20) -> Iterator[tuple[EventLoop, Process]]:
    """A loop that records into private memory, closed at the end."""
    process = Process(Settings(ring_size=ring_size))
    loop = EventLoop(recorder=Recorder(process))
    try:
        yield loop, process
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def decode(process: Process) -> list[Decoded]:
    """Everything that the rings of ``process`` say, the process ring last."""
    out: list[Decoded] = []
    rings = [*process.rings, *([process.process_ring] if process.process_ring is not None else [])]
    for ring in rings:
        reader = RingReader(ring.buffer)
        stream = LoopStream()
        while batches := reader.read():
            out += stream.feed(batches)
        reader.close()
    assert not any(decoded.dropped for decoded in out)
    return out


def offloads(process: Process) -> dict[int, Any]:
    """By number: submit, start, finish, deliver (times or None), outcome, label, name, thread."""
    found: dict[int, Any] = {}
    labels: dict[int, str] = {}
    threads: dict[int, str] = {}
    steps = []
    for decoded in decode(process):
        labels.update((executor.number, executor.label) for executor in decoded.executors)
        threads.update((thread.number, thread.name) for thread in decoded.threads)
        steps += decoded.offloads
    for step in steps:
        item = found.setdefault(
            step.number,
            SimpleNamespace(submit=None, start=None, finish=None, deliver=None, outcome=0, thread=""),
        )
        # A start without a worker may be told again, by the worker.
        again = step.step == "start" and step.worker
        assert getattr(item, step.step) is None or again, f"{step.step} twice for {step.number}"
        setattr(item, step.step, step.when)
        if step.step == "submit":
            item.label = labels[step.executor]
            item.name = process.site_log.sites[int(step.ident)].label
        elif step.step == "start":
            item.thread = threads.get(step.worker, "")
        elif step.step == "finish":
            item.outcome = step.outcome
    return found


def run(loop: EventLoop, coro: Any) -> Any:
    """Runs ``coro`` with a limit of time."""
    return loop.run_until_complete(asyncio.wait_for(coro, PATIENCE))
