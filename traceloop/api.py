"""The library: the traced loop for programs that ask for it in their own code."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from .loop.event_loop import EventLoop

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
    from .instrument import process_end as ending
    from .instrument import rebinding

    rebinding.rebind_asyncio(asyncio)
    ending.arm(rebinding.running_loop_watchers, rebinding.untraced, rebinding.restore)


def start(**choices: Any) -> Any:
    """Begins a run in this process, as `traceloop run` does around one: a collector, metrics, spans.

    Takes the fields of `traceloop.settings.Settings` that differ from what the environment says, for example
    `traceloop.start(metrics_port=0, spans="slow")`. Loops that begin to run from now on are recorded into the run,
    and so are those of processes that this one starts. Within `traceloop run` there is a run already: nothing
    happens. Returns the run, with `metrics_url` and `stop()`. Raises `ValueError` for a choice that cannot be used
    and `OSError` where no collector can be started.

    `tracer_provider=`: a `TracerProvider` of opentelemetry-sdk, whose processors and exporters get this process's spans
    instead of those that the environment names. It lives here, so the record is read by a thread of this process.
    Raises `TypeError` for another kind of provider.
    """
    from .instrument.library_run import start_run

    return start_run(choices)
