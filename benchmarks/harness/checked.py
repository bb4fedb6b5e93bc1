"""Whether everything can be had from the very record that a benchmark made.

The measured process keeps its record (``traceloop run --record``), and this reads it afterwards, with the readers that
the collector uses. Checked are the presence of every series that docs/telemetry.md promises for what the workload
does, the sums that must agree with each other, and of the handles' spans every attribute that each of them has to
carry. A workload longer than the ring leaves its last part only (8 MiB, some 300,000 records): then the sums are
those of that part. Not checked: values that nothing in the workload causes (slow callbacks, growth, garbage found).
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator
from typing import Any

# In a checkout nothing need be installed.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from traceloop.exporters.spans.builder import SpanBuilder
from traceloop.exporters.spans.sampling import Sampling
from traceloop.reading import read_run
from traceloop.reading.decoding.ring_reader import RingReader
from traceloop.reading.decoding.stream import LoopStream
from traceloop.reading.site_names import SiteLogReader
from traceloop.record import layout

_LOOP_SERIES = (
    "asyncio_eventloop_time_seconds_total",
    "asyncio_eventloop_iterations_total",
    "asyncio_eventloop_iteration_duration_seconds",
    "asyncio_eventloop_iteration_callbacks",
    "asyncio_eventloop_poll_delay_seconds",
    "asyncio_eventloop_running_seconds",
    "asyncio_callback_duration_seconds",
    "asyncio_callback_schedule_delay_seconds",
    "asyncio_callback_runs_total",
    "asyncio_callback_time_seconds_total",
    "asyncio_eventloop_slow_callbacks_total",
    "asyncio_slow_callback_threshold_seconds",
    "asyncio_tasks",
    "asyncio_tasks_created_total",
    "asyncio_tasks_finished_total",
    "asyncio_timers",
    "asyncio_timer_heap_compactions_total",
    "asyncio_heap_growth_events_total",
    "asyncio_transport_bytes_total",
    "asyncio_transports",
    "traceloop_records_total",
    "traceloop_records_dropped_total",
)
_EXECUTOR_SERIES = (
    "asyncio_executor_queue_length",
    "asyncio_executor_active",
    "asyncio_executor_workers",
    "asyncio_executor_max_workers",
    "asyncio_executor_queue_duration_seconds",
    "asyncio_executor_run_duration_seconds",
    "asyncio_executor_return_delay_seconds",
    "asyncio_executor_runs_total",
    "asyncio_executor_time_seconds_total",
)
_ATTRIBUTES = ("asyncio.handle.kind", "code.function.name", "thread.id", "thread.name")
_KINDS = frozenset(("task", "soon", "timer", "reader", "writer", "signal", "threadsafe"))


def problems_of(folder: str, workload: str, handles: int) -> list[str]:
    """What is missing or wrong in the record under ``folder``; ``handles``: runs that the collector counted."""
    (run,) = glob.glob(os.path.join(folder, "traceloop-*"))
    out = list(_problems_of_series(run, workload, handles))
    for path in glob.glob(os.path.join(run, "p-*", "loop-*.ring")):
        out += _problems_of_ring(path)
    return out


def _problems_of_series(run: str, workload: str, handles: int) -> Iterator[str]:
    sums: dict[str, float] = {}
    for name, _, value in read_run(run).samples():
        sums[name] = sums.get(name, 0) + (value if isinstance(value, int | float) else value.count)
    for name in _LOOP_SERIES + (_EXECUTOR_SERIES if workload == "executor" else ()):
        if name not in sums:
            yield f"no {name}"
            sums[name] = 0
    if sums["asyncio_callback_runs_total"] != sums["asyncio_callback_duration_seconds"]:
        yield "runs by callback and runs by kind differ"
    if not sums["asyncio_eventloop_time_seconds_total"] > 0:
        yield "no time"
    if sums["traceloop_records_dropped_total"]:  # older than what the ring still holds
        return
    if sums["asyncio_callback_runs_total"] != handles:
        yield f"{sums['asyncio_callback_runs_total']} runs in the record, {handles} in the collector"
    if sums["asyncio_callback_schedule_delay_seconds"] != handles:
        yield "handle runs without a schedule delay"
    if sums["asyncio_tasks_created_total"] != sums["asyncio_tasks_finished_total"]:
        yield "tasks made and tasks ended differ"
    if sums["asyncio_eventloop_iterations_total"] != sums["asyncio_eventloop_iteration_callbacks"]:
        yield "iterations without the number of their handles"
    if workload == "executor" and sums["asyncio_executor_return_delay_seconds"] != sums["asyncio_executor_runs_total"]:
        yield "offloads without their delivery"


def _problems_of_ring(path: str) -> list[str]:
    sites = SiteLogReader(os.path.join(os.path.dirname(path), "sites"))
    sites.read()
    builder = SpanBuilder(sites.site, Sampling("all"), 0)
    reader = RingReader(path)
    thread_id = int(reader.word(layout.W_THREAD))
    stream = LoopStream(reader.owner)
    faults: dict[str, int] = {}
    batches = reader.read(final=True)
    overwritten = bool(batches) and batches[0].gap
    for decoded in [*stream.feed(batches), stream.finish()]:
        runs = {run[0]: run for run in decoded.runs}
        for span in builder.build(decoded, thread_id=thread_id):
            for fault in _faults_of(span, overwritten):
                faults[fault] = faults.get(fault, 0) + 1
        if not overwritten:
            for number, _, _, _, kind, delay, scheduler, _, _, _ in runs.values():
                if kind in ("soon", "task") and number > 1 and (delay < 0.0 or scheduler >= number):
                    faults["a delay or a scheduling handle is unknown"] = 1
    reader.close()
    return [f"{count} spans: {fault}" for fault, count in faults.items()]


def _faults_of(span: Any, overwritten: bool) -> Iterator[str]:
    kind, trace_id, span_id, _, start, end, delay, _, _, _ = span
    attributes = kind.attributes
    if kind.name == "asyncio.iteration":
        return
    if not (kind.name and len(trace_id) == 16 and len(span_id) == 8 and 0 < start <= end):
        yield "no name, ids or times"
    for name in _ATTRIBUTES:
        if not attributes.get(name):
            yield f"no {name}"
    if attributes.get("asyncio.handle.kind") not in _KINDS:
        yield "a kind of its own"
    if "code.file.path" in attributes and not attributes.get("code.line.number"):
        yield "a file without a line"
    if not overwritten:  # what was in the queue, and which tasks there were, was told in the part that is gone
        if delay < 0.0:
            yield "no asyncio.schedule.delay"
        if attributes.get("asyncio.handle.kind") == "task" and not attributes.get("asyncio.task.name"):
            yield "no asyncio.task.name"
