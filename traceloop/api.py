"""The library: the traced loop for programs that ask for it in their own code."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from .loop.event_loop import EventLoop

if TYPE_CHECKING:
    from .instrument.library_run import Run

_T = TypeVar("_T")


def new_event_loop() -> EventLoop:
    """A traced event loop; what `loop_factory=` of `asyncio.run` and `asyncio.Runner` wants."""
    return EventLoop()


def run(main: Coroutine[Any, Any, _T], *, debug: bool | None = None) -> _T:
    """Runs a coroutine on a traced loop, as `asyncio.run` does; from a thread in which no loop runs."""
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(main)


def install() -> None:
    """From now on every loop that asyncio makes in this process is a traced one.

    Loops that exist stay what they are. uvloop is left alone: a program that calls this function chooses its
    loop.
    """
    from .instrument import process_end, rebinding

    rebinding.rebind_asyncio(asyncio)
    process_end.arm(rebinding.running_loop_watchers, rebinding.untraced, rebinding.restore)


def start(**choices: Any) -> Run:
    """Begins a run in this process, as `traceloop run` does around one: a collector, metrics, spans.

    Takes the options of `traceloop run` by name, where they differ from what the environment says:
    `traceloop.start(metrics_port=0, spans="slow")`. What it records are traced loops made from now on: those of
    `traceloop.run` and `new_event_loop`, all that asyncio makes after `install`, and those of processes that this one
    starts. So call it before the first loop is made; it says so on stderr where it comes too late for one.

    Returns the run, a context manager, with `metrics_url` and `stop()`; without `stop()` it ends with the process.
    While it is under way another `start()` returns the same run. Under `traceloop run`, and where `OTEL_SDK_DISABLED`
    is true, there is nothing to begin, and the returned run does nothing. From any thread.

    Raises `ValueError` for a choice that cannot be used, `RuntimeError` where a run with other choices is under way,
    and `OSError` where no collector can be started: the metrics port is taken, say.

    `tracer_provider=`: a `TracerProvider` of opentelemetry-sdk, whose processors and exporters get this process's spans
    instead of those that the environment names. It lives here, so the record is read by a thread of this process.
    Raises `TypeError` for another kind of provider.
    """
    from .instrument.library_run import start_run

    return start_run(choices)
