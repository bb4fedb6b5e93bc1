"""Every metric that traceloop emits, as data: what docs/telemetry.md says in words.

Exporters take types, help texts and label names from here. One test compares the catalogue with the document, another
with the series that the statistics yield.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Type = Literal["counter", "gauge", "histogram"]


class Metric(NamedTuple):
    """One metric. ``name``: as Prometheus has it, a counter's with ``_total``. ``labels``: all of them, in order."""

    name: str
    type: Type
    unit: str
    help: str
    labels: tuple[str, ...] = ()

    @property
    def otel_name(self) -> str:
        """The OpenTelemetry name: dots between the words that name the thing, no unit and no ``total``."""
        name = self.name.removesuffix("_total")
        if self.unit in ("seconds", "bytes"):
            name = name.removesuffix("_" + self.unit)
        return name.replace("_", ".")


_PROCESS: Final = ("process",)
_LOOP: Final = ("process", "loop")


def _of_process(name: str, type: Type, unit: str, help: str, *labels: str) -> Metric:
    return Metric(name, type, unit, help, _PROCESS + labels)


def _of_loop(name: str, type: Type, unit: str, help: str, *labels: str) -> Metric:
    return Metric(name, type, unit, help, _LOOP + labels)


CATALOGUE: Final[tuple[Metric, ...]] = (
    # The loop
    _of_loop(
        "asyncio_eventloop_time_seconds_total",
        "counter",
        "seconds",
        "Time the loop spent running (active) and waiting in its poll (idle); utilization is active / (active + idle).",
        "state",
    ),
    _of_loop("asyncio_eventloop_iterations_total", "counter", "", "Iterations of the loop."),
    _of_loop("asyncio_eventloop_iteration_duration_seconds", "histogram", "seconds", "Active part of one iteration."),
    _of_loop("asyncio_eventloop_iteration_callbacks", "histogram", "", "Handles run in one iteration."),
    _of_loop(
        "asyncio_eventloop_poll_delay_seconds", "histogram", "seconds", "How late the poll returned after its timeout."
    ),
    _of_loop(
        "asyncio_eventloop_running_seconds",
        "gauge",
        "seconds",
        "Seconds since the loop last polled for I/O; 0 while it polls.",
    ),
    _of_loop(
        "asyncio_eventloop_stalled_seconds",
        "gauge",
        "seconds",
        "Seconds that the running callback has run, from the slow-callback threshold on.",
        "callback",
        "culprit",
    ),
    # Handle runs
    _of_loop("asyncio_callback_duration_seconds", "histogram", "seconds", "Duration of handle runs.", "kind"),
    _of_loop(
        "asyncio_callback_schedule_delay_seconds",
        "histogram",
        "seconds",
        "From the moment a handle was ready to the start of its run: the loop lag, of every callback.",
        "kind",
    ),
    _of_loop("asyncio_callback_runs_total", "counter", "", "Handle runs by callback.", "callback"),
    _of_loop(
        "asyncio_callback_time_seconds_total", "counter", "seconds", "Time in handle runs by callback.", "callback"
    ),
    # Slow ones
    _of_loop(
        "asyncio_eventloop_slow_callbacks_total", "counter", "", "Handle runs at or over the threshold, of the loop."
    ),
    _of_loop(
        "asyncio_slow_callbacks_total",
        "counter",
        "",
        "Handle runs at or over the threshold, counted when they end.",
        "callback",
        "culprit",
    ),
    _of_loop(
        "asyncio_slow_callback_time_seconds_total",
        "counter",
        "seconds",
        "Time in handle runs at or over the threshold.",
        "callback",
        "culprit",
    ),
    _of_loop(
        "asyncio_slow_callbacks_startup_total",
        "counter",
        "",
        "Of the slow callbacks, those before the loop accepted its first connection, in its first 30 s.",
        "callback",
        "culprit",
    ),
    _of_loop(
        "asyncio_slow_callback_longest_seconds",
        "gauge",
        "seconds",
        "Longest slow callback that ended in the last two minutes, start-up left out.",
        "callback",
        "culprit",
    ),
    _of_loop(
        "asyncio_slow_callback_info",
        "gauge",
        "",
        "Always 1; the file and line where the culprit held the loop when it was first slow.",
        "callback",
        "culprit",
        "location",
    ),
    _of_loop(
        "asyncio_callback_blocked_seconds_total",
        "counter",
        "seconds",
        "Delay that slow runs of this callback caused to other handles.",
        "callback",
        "culprit",
    ),
    _of_loop(
        "asyncio_slow_callback_threshold_seconds", "gauge", "seconds", "Duration from which on a handle run is slow."
    ),
    # Tasks
    _of_loop("asyncio_tasks", "gauge", "", "Tasks that are not done."),
    _of_loop("asyncio_tasks_created_total", "counter", "", "Tasks made."),
    _of_loop("asyncio_tasks_finished_total", "counter", "", "Tasks that ended, and how.", "outcome"),
    _of_process(
        "asyncio_swallowed_errors_total",
        "counter",
        "",
        "Coroutines never awaited, exceptions never retrieved, callbacks that failed.",
        "error",
        "callback",
    ),
    _of_process(
        "asyncio_task_waiting",
        "gauge",
        "",
        "Suspended tasks by coroutine and by the line of the application at which they wait, with what they wait in.",
        "callback",
        "site",
    ),
    _of_process(
        "asyncio_task_waiting_seconds_total",
        "counter",
        "seconds",
        "Time that tasks waited there: waits of a second and more exactly, shorter ones as an estimate.",
        "callback",
        "site",
    ),
    # Requests
    _of_process(
        "asyncio_request_duration_seconds",
        "histogram",
        "seconds",
        "From when the poll returned with a request's bytes to the last step that answered it, by its handler.",
        "request",
    ),
    _of_process(
        "asyncio_request_time_seconds_total",
        "counter",
        "seconds",
        "Where the time of requests went; the parts of a request add up to its duration.",
        "request",
        "part",
    ),
    # Timers and other heaps
    _of_loop("asyncio_timers", "gauge", "", "Entries in the loop's heap of timers.", "state"),
    _of_loop(
        "asyncio_timer_heap_compactions_total", "counter", "", "Times that cancelled timers were swept from the heap."
    ),
    _of_process("asyncio_heap_growth_events_total", "counter", "", "Growth detections, by heap.", "heap"),
    _of_process(
        "cpython_memory_allocated_blocks", "gauge", "", "Blocks that the interpreter has allocated, as sampled."
    ),
    _of_process(
        "cpython_gc_pause_duration_seconds",
        "histogram",
        "seconds",
        "Pauses by the garbage collector, while a loop of the process runs.",
        "generation",
    ),
    _of_process("cpython_gc_collected_objects_total", "counter", "", "Objects that the collector freed.", "generation"),
    _of_process(
        "cpython_gc_uncollectable_objects_total",
        "counter",
        "",
        "Objects that the collector could not free.",
        "generation",
    ),
    _of_process(
        "asyncio_callback_gc_pause_seconds_total",
        "counter",
        "seconds",
        "Garbage collector pauses that began within handle runs, by the callback they interrupted.",
        "callback",
    ),
    # Executors
    _of_process("asyncio_executor_queue_length", "gauge", "", "Offloads that wait for a worker.", "executor"),
    _of_process("asyncio_executor_active", "gauge", "", "Offloads that a worker runs.", "executor"),
    _of_process("asyncio_executor_workers", "gauge", "", "Workers started.", "executor"),
    _of_process("asyncio_executor_max_workers", "gauge", "", "Most workers allowed, 0 if not known.", "executor"),
    _of_process(
        "asyncio_executor_queue_duration_seconds",
        "histogram",
        "seconds",
        "From the submit to the start in a worker, or until the call was given up.",
        "executor",
    ),
    _of_process(
        "asyncio_executor_run_duration_seconds",
        "histogram",
        "seconds",
        "From the start to the end in the worker.",
        "executor",
    ),
    _of_process(
        "asyncio_executor_return_delay_seconds",
        "histogram",
        "seconds",
        "From the end in the worker to the loop delivering the result.",
        "executor",
    ),
    _of_process("asyncio_executor_runs_total", "counter", "", "Offloads run, by function.", "executor", "callback"),
    _of_process(
        "asyncio_executor_time_seconds_total",
        "counter",
        "seconds",
        "Time in offloads, by function.",
        "executor",
        "callback",
    ),
    _of_process(
        "asyncio_executor_blocked_seconds_total",
        "counter",
        "seconds",
        "Time that offloads waited for a worker while this function had the workers of a full executor.",
        "executor",
        "callback",
    ),
    # Transports
    _of_loop(
        "asyncio_transport_bytes_total",
        "counter",
        "bytes",
        "Bytes through the loop's transports and sock_* calls.",
        "direction",
    ),
    _of_loop(
        "asyncio_transports_by_kind", "gauge", "", "Open transports: stream, tls, datagram, pipe.", "transport"
    ),
    _of_loop(
        "asyncio_transport_paused_seconds_total",
        "counter",
        "seconds",
        "Time that protocols were told to pause writing because the peer reads slowly, over all transports.",
    ),
    _of_process(
        "asyncio_transports_paused",
        "gauge",
        "",
        "Transports whose writing is paused now, because the peer does not read.",
        "transport",
    ),
    _of_process(
        "asyncio_transport_paused_bytes", "gauge", "bytes", "Bytes that wait in paused transports.", "transport"
    ),
    _of_process(
        "asyncio_transport_paused_longest_seconds",
        "gauge",
        "seconds",
        "Seconds for which the longest-paused transport has been paused.",
        "transport",
    ),
    _of_loop("asyncio_server_connections_total", "counter", "", "Connections, accepted or refused.", "result"),
    _of_loop("asyncio_tls_handshakes_total", "counter", "", "TLS handshakes that are over, however they ended."),
    _of_loop("asyncio_tls_handshake_seconds_total", "counter", "seconds", "Time that TLS handshakes took."),
    _of_loop("asyncio_transports", "gauge", "", "Open transports."),
    # The processes
    _of_process("process_resident_memory_bytes", "gauge", "bytes", "Resident memory size in bytes."),
    _of_process(
        "process_cpu_throttled_seconds_total",
        "counter",
        "seconds",
        "Time for which the CPU limit of the process's control group held it.",
    ),
    _of_process("process_cpu_seconds_total", "counter", "seconds", "Total user and system CPU time spent in seconds."),
    _of_process("process_open_fds", "gauge", "", "Number of open file descriptors."),
    _of_process(
        "process_start_time_seconds", "gauge", "seconds", "Start time of the process since unix epoch in seconds."
    ),
    # traceloop itself
    _of_process("traceloop_records_total", "counter", "", "Records written by the loops of the process."),
    _of_process("traceloop_records_dropped_total", "counter", "", "Records overwritten before they were read."),
    Metric("traceloop_spans_exported_total", "counter", "", "Spans exported."),
    Metric("traceloop_spans_dropped_total", "counter", "", "Spans that were not exported, and why.", ("reason",)),
    Metric("traceloop_collector_cpu_seconds_total", "counter", "seconds", "CPU time of the collector."),
    Metric("traceloop_collector_resident_memory_bytes", "gauge", "bytes", "Resident memory of the collector."),
    _of_process(
        "traceloop_process_info",
        "gauge",
        "",
        "Always 1; joins the label process to a pid.",
        "pid",
        "python",
        "version",
        "core",
        "reader",
        "command",
    ),
)

BY_NAME: Final = {metric.name: metric for metric in CATALOGUE}
