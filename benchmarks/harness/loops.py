"""The loops that are compared: what each arm of the benchmark runs its workload on."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable


def standard() -> asyncio.AbstractEventLoop:
    """asyncio's own, as it is."""
    return asyncio.SelectorEventLoop()


def standard_64k() -> asyncio.AbstractEventLoop:
    """The same with reads of 64 KiB, the fair base of network work: with 256 KiB the allocator maps and unmaps memory
    at each read.
    """
    from asyncio import selector_events

    selector_events._SelectorSocketTransport.max_size = 64 * 1024
    return asyncio.SelectorEventLoop()


def debug() -> asyncio.AbstractEventLoop:
    """asyncio's debug mode."""
    logging.disable()
    loop = asyncio.SelectorEventLoop()
    loop.set_debug(True)
    return loop


def traced() -> asyncio.AbstractEventLoop:
    """What a program gets under ``traceloop run``."""
    loop = asyncio.new_event_loop()
    assert type(loop).__module__.startswith("traceloop."), type(loop)
    return loop


def off() -> asyncio.AbstractEventLoop:
    """traceloop's loop, recording nothing."""
    from traceloop import EventLoop

    return EventLoop(recorder=False)


def uvloop() -> asyncio.AbstractEventLoop:
    """uvloop, where it is installed."""
    import uvloop

    return uvloop.new_event_loop()


def rloop() -> asyncio.AbstractEventLoop:
    """rloop, where it is installed."""
    import rloop

    return rloop.new_event_loop()


def naive() -> asyncio.AbstractEventLoop:
    """What one would write first: an SDK span, a counter and a histogram around each handle's run."""
    import prometheus_client
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(os.environ["BENCHMARK_RECEIVER"] + "/v1/traces")))
    tracer = provider.get_tracer("naive")
    count = prometheus_client.Counter("handles", "Handle runs", ["callback"])
    seconds = prometheus_client.Histogram("handle_seconds", "Duration of handle runs", ["callback"])
    run: Callable[[asyncio.Handle], None] = asyncio.Handle._run

    def traced_run(handle: asyncio.Handle) -> None:
        callback = handle._callback
        name = getattr(callback, "__qualname__", None) or type(callback).__name__
        count.labels(name).inc()
        with tracer.start_as_current_span(name), seconds.labels(name).time():
            run(handle)

    asyncio.Handle._run = traced_run  # type: ignore[method-assign]
    return asyncio.SelectorEventLoop()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    loop.__name__: loop for loop in (standard, standard_64k, debug, traced, off, uvloop, rloop, naive)
}
