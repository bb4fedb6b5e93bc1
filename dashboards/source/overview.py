"""*Event loop overview*: is it healthy? The first row answers from across the room, the others say where to look."""

from .common import (
    BY_LOOP,
    BY_PROCESS,
    EXECUTOR_LEGEND,
    LOOP_LEGEND,
    PROCESS_LEGEND,
    SATURATION,
    SLOW_A_MINUTE,
    UTILIZATION,
    annotations,
)
from .grafana import (
    JSON,
    LOOP,
    ORANGE,
    PROCESS,
    RED,
    YELLOW,
    dashboard,
    new_or_increased,
    quantile,
    row,
    stat,
    table,
    target,
    thresholds,
    timeseries,
)

DELAY = "asyncio_callback_schedule_delay_seconds"


def build() -> JSON:
    """The dashboard as JSON."""
    return dashboard(
        "traceloop-overview",
        "Event loop overview",
        "Are the asyncio event loops healthy, and if not, where to look. Measured by traceloop on every callback.",
        annotations(),
        [*_now(), *_health(), *_work(), *_waiting(), *_tasks(), *_resources(), *_network()],
    )


def _now() -> list[JSON]:
    return [
        row("Now: the worst loop of the selection"),
        stat(
            "Utilization",
            "Part of the time in which the busiest loop was not in its poll. Over 0.9 delays grow steeply: find "
            "what uses the time under 'Time by callback', move work off the loop, or add a process.",
            f"max({UTILIZATION})",
            "percentunit",
            thresholds((0.7, YELLOW), (0.9, RED)),
            decimals=0,
        ),
        stat(
            "Schedule delay p99",
            "How long one callback in a hundred waits between being ready and being run, on the worst loop. It adds to "
            "every request. Over 0.1 s look at 'Slow callbacks' for who made the others wait.",
            f"max({quantile(0.99, DELAY, LOOP, BY_LOOP)} >= 0)",
            "s",
            thresholds((0.05, YELLOW), (0.1, RED)),
        ),
        stat(
            "Slow callbacks a minute",
            "Callbacks that ran over the slow threshold (0.1 s unless you set another), all loops together. Any but 0 "
            "deserves a look at the dashboard 'Slow callbacks', which names them.",
            f"60 * sum({SLOW_A_MINUTE})",
            "cpm",
            thresholds((0.001, YELLOW), (6, RED)),
        ),
        stat(
            "Longest run now",
            "Seconds since the loop that is longest without a poll last polled for I/O, at the last scrape. It is "
            "right while the loop is blocked. Over a second: it is stuck right now. `traceloop top` shows the stack.",
            f"max(asyncio_eventloop_running_seconds{{{LOOP}}})",
            "s",
            thresholds((0.1, YELLOW), (1, RED)),
        ),
        stat(
            "Executor saturation",
            "Running calls as a part of the workers of the fullest executor. At 1 every further call waits: see "
            "'Executors and heaps' for what fills it, and give that its own executor or more workers.",
            f"max({SATURATION})",
            "percentunit",
            thresholds((0.8, YELLOW), (1, RED)),
            decimals=0,
        ),
        stat(
            "Restarts in the range",
            "How many times a process was started again within the dashboard's time range, deployments included. "
            "Without a deployment: `traceloop report` shows what the last process did before it ended.",
            f"sum(changes(process_start_time_seconds{{{PROCESS}}}[$__range]))",
            "none",
            thresholds((1, YELLOW), (5, ORANGE)),
            decimals=0,
        ),
    ]


def _health() -> list[JSON]:
    return [
        row("Is it healthy?"),
        timeseries(
            "Utilization by loop",
            "Part of the time in which a loop was not in its poll; a blocked loop counts as active while it is "
            "blocked. Lasting over 0.9: spread the work, there is no time left for bursts.",
            [target(UTILIZATION, LOOP_LEGEND)],
            "percentunit",
            steps=thresholds((0.7, YELLOW), (0.9, RED)),
            maximum=1,
        ),
        timeseries(
            "Schedule delay",
            "Time from ready to run of all selected callbacks: the loop lag, measured on every one. Points lead "
            "to a trace of one of them. When p99.9 is high and p50 low, single callbacks block; when all are "
            "high, it is saturated.",
            [
                target(quantile(q, DELAY, LOOP, ""), name, exemplar=q == 0.99)
                for q, name in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"))
            ],
            "s",
            steps=thresholds((0.1, RED)),
            log=True,
        ),
        timeseries(
            "Slow callbacks a minute by loop",
            "Callbacks over the slow threshold. The dashboard 'Slow callbacks' has their names, culprits and what they "
            "cost the others.",
            [target(f"60 * sum by ({BY_LOOP}) ({SLOW_A_MINUTE})", LOOP_LEGEND)],
            "cpm",
            bars=True,
            stack=True,
        ),
        timeseries(
            "Running age at the scrape",
            "Seconds since each loop last polled for I/O when it was scraped, 0 while it polls. A rising line is a "
            "callback that does not end. The line with a culprit's name says what runs, and `traceloop top` shows "
            "the stack. The process does not answer meanwhile.",
            [
                target(f"asyncio_eventloop_running_seconds{{{LOOP}}}", LOOP_LEGEND),
                target(f"asyncio_eventloop_stalled_seconds{{{LOOP}}}", "{{culprit}}: " + LOOP_LEGEND),
            ],
            "s",
            steps=thresholds((1, YELLOW), (5, RED)),
        ),
    ]


def _in_range(metric: str) -> str:
    return new_or_increased(metric, LOOP, "$__range")


def _work() -> list[JSON]:
    rate = "[$__rate_interval]"
    return [
        row("What it does"),
        timeseries(
            "Time by callback",
            "Seconds of loop time a second that go to the ten costliest callbacks, of all loops together: the place to "
            "begin when a loop is saturated.",
            [
                target(
                    f"topk(10, sum by (callback) (rate(asyncio_callback_time_seconds_total{{{LOOP}}}{rate})))",
                    "{{callback}}",
                )
            ],
            "percentunit",
            stack=True,
        ),
        timeseries(
            "Callbacks by kind",
            "Handles run a second. More timers or calls from other threads than you know of are worth a look: a busy "
            "loop may only be polling something.",
            [target(f"sum by (kind) (rate(asyncio_callback_duration_seconds_count{{{LOOP}}}{rate}))", "{{kind}}")],
            "cps",
            stack=True,
        ),
        table(
            "Callbacks",
            "What the loops ran in the time range, by time. A large total with a small mean runs too often; a "
            "large mean is close to being slow: split it, or move it off the loop.",
            [
                ("Time", "s", f"sum by (callback) ({_in_range('asyncio_callback_time_seconds_total')})"),
                ("Runs", "short", f"sum by (callback) ({_in_range('asyncio_callback_runs_total')})"),
                (
                    "Mean",
                    "s",
                    f"sum by (callback) (asyncio_callback_time_seconds_total{{{LOOP}}}) / "
                    f"sum by (callback) (asyncio_callback_runs_total{{{LOOP}}})",
                ),
            ],
            {"callback": "Callback"},
            sort="Time",
            h=8,
            steps={"Mean": thresholds((0.01, YELLOW), (0.1, RED), base="transparent")},
        ),
    ]


def _waiting() -> list[JSON]:
    rate = "[$__rate_interval]"
    return [
        table(
            "Where tasks wait",
            "Suspended tasks by coroutine and line, with what they wait in. Many at one line for long: what is behind "
            "that line is the bottleneck, not the loop.",
            [
                ("Waiting now", "short", f"sum by (callback, site) (asyncio_task_waiting{{{PROCESS}}})"),
                (
                    "Waiting a second",
                    "s",
                    f"sum by (callback, site) (rate(asyncio_task_waiting_seconds_total{{{PROCESS}}}{rate}))",
                ),
            ],
            {"callback": "Coroutine", "site": "Waits at"},
            sort="Waiting now",
            h=8,
        ),
        table(
            "Requests",
            "Requests by the function that handles them. Where the time of one goes: see 'Where requests' time goes'.",
            [
                (
                    "Requests",
                    "reqps",
                    f"sum by (request) (rate(asyncio_request_duration_seconds_count{{{PROCESS}}}{rate}))",
                ),
                ("p99", "s", quantile(0.99, "asyncio_request_duration_seconds", PROCESS, "request")),
                (
                    "Ready behind others",
                    "s",
                    "sum by (request) (rate(asyncio_request_time_seconds_total"
                    f'{{{PROCESS},part="ready"}}{rate})) / '
                    f"sum by (request) (rate(asyncio_request_duration_seconds_count{{{PROCESS}}}{rate}))",
                ),
            ],
            {"request": "Request"},
            sort="p99",
            h=8,
        ),
        timeseries(
            "Where requests' time goes",
            "Seconds of requests in a second, by part. Ready: the loop is too busy, or blocked. Executor queue: too "
            "few workers. Waiting for a task: locks, queues, pools; see 'Where tasks wait'.",
            [target(f"sum by (part) (rate(asyncio_request_time_seconds_total{{{PROCESS}}}{rate}))", "{{part}}")],
            "s",
            w=24,
            stack=True,
        ),
    ]


def _tasks() -> list[JSON]:
    rate = "[$__rate_interval]"
    return [
        timeseries(
            "Tasks",
            "Tasks that have not ended. A line that only rises is a leak: see who creates them in `traceloop report`.",
            [target(f"asyncio_tasks{{{LOOP}}}", LOOP_LEGEND)],
            "short",
            w=8,
        ),
        timeseries(
            "Tasks created and finished",
            "Tasks created and finished a second. If more are created than finished for long, tasks leak. Many "
            "exceptions are failures that may go unnoticed; those that no code handles are counted by sort "
            "(not_awaited, not_retrieved, callback).",
            [
                target(f"sum(rate(asyncio_tasks_created_total{{{LOOP}}}{rate}))", "created"),
                target(f"sum by (outcome) (rate(asyncio_tasks_finished_total{{{LOOP}}}{rate}))", "{{outcome}}"),
                target(f"sum by (error) (rate(asyncio_swallowed_errors_total{{{PROCESS}}}{rate}))", "{{error}}"),
            ],
            "ops",
            w=8,
        ),
        timeseries(
            "Iterations",
            "Length of the active part of a pass of the loop, handles run in it, and how late the poll returned. "
            "A late poll is the kernel's or the GIL's doing: look for threads that compute.",
            [
                target(quantile(0.99, "asyncio_eventloop_iteration_duration_seconds", LOOP, ""), "active part p99"),
                target(quantile(0.99, "asyncio_eventloop_poll_delay_seconds", LOOP, ""), "poll late by p99"),
                target(quantile(0.99, "asyncio_eventloop_iteration_callbacks", LOOP, ""), "handles p99"),
            ],
            "s",
            w=8,
            log=True,
            overrides=[
                {
                    "matcher": {"id": "byName", "options": "handles p99"},
                    "properties": [{"id": "unit", "value": "short"}, {"id": "custom.axisPlacement", "value": "right"}],
                }
            ],
        ),
    ]


def _resources() -> list[JSON]:
    rate = "[$__rate_interval]"
    return [
        row("What it uses"),
        timeseries(
            "Saturation by executor",
            "Running calls as a part of each executor's workers. At 1, calls wait: give the slow function its own "
            "executor.",
            [target(SATURATION, EXECUTOR_LEGEND)],
            "percentunit",
            w=6,
            steps=thresholds((0.8, YELLOW), (1, RED)),
            maximum=1,
        ),
        timeseries(
            "Resident memory",
            "Memory of each traced process. If it only rises, 'Executors and heaps' tells growth from load.",
            [target(f"process_resident_memory_bytes{{{PROCESS}}}", PROCESS_LEGEND)],
            "bytes",
            w=6,
        ),
        timeseries(
            "Processor",
            "Processors used by each traced process. Near 1 with a busy loop: Python computes on the loop, and only "
            "another process helps. Low with a busy loop: something blocks without computing.",
            [
                target(f"rate(process_cpu_seconds_total{{{PROCESS}}}{rate})", PROCESS_LEGEND),
                target(f"rate(process_cpu_throttled_seconds_total{{{PROCESS}}}{rate})", PROCESS_LEGEND + " held"),
            ],
            "short",
            w=6,
            steps=thresholds((0.9, YELLOW)),
        ),
        timeseries(
            "Garbage collector",
            "Time in garbage collection as a part of all time. Over a few percent: fewer objects in cycles, or "
            "`gc.freeze()` after start.",
            [
                target(
                    f"sum by ({BY_PROCESS}) (rate(cpython_gc_pause_duration_seconds_sum{{{PROCESS}}}{rate}))",
                    PROCESS_LEGEND,
                )
            ],
            "percentunit",
            w=6,
            steps=thresholds((0.05, YELLOW)),
        ),
    ]


def _network() -> list[JSON]:
    rate = "[$__rate_interval]"
    return [
        row("Network"),
        timeseries(
            "Traffic",
            "Bytes a second through the loops' transports and socket calls. A busy loop without traffic does no work "
            "for clients.",
            [target(f"sum by (direction) (rate(asyncio_transport_bytes_total{{{LOOP}}}{rate}))", "{{direction}}")],
            "Bps",
            w=8,
        ),
        timeseries(
            "Open transports by kind",
            "Open transports of the loops. Rising without more traffic: connections are not closed, by us or by "
            "the peers.",
            [target(f"sum by (transport) (asyncio_transports_by_kind{{{LOOP}}})", "{{transport}}")],
            "short",
            w=8,
            stack=True,
        ),
        timeseries(
            "Open transports and files",
            "Open transports of the loops and file descriptors of the processes. Descriptors rising alone: files "
            "are not closed; mind the limit (ulimit -n).",
            [
                target(f"sum by ({BY_PROCESS}) (asyncio_transports{{{LOOP}}})", PROCESS_LEGEND + " transports"),
                target(f"process_open_fds{{{PROCESS}}}", PROCESS_LEGEND + " descriptors"),
            ],
            "short",
            w=8,
        ),
        timeseries(
            "Connections",
            "Connections accepted a second, and those that could not be. Refused ones: no descriptors left "
            "(ulimit -n), or clients give up while the loop is blocked.",
            [target(f"sum by (result) (rate(asyncio_server_connections_total{{{LOOP}}}{rate}))", "{{result}}")],
            "cps",
            w=8,
        ),
        timeseries(
            "Backpressure",
            "Connections whose peer does not read as fast as we write, on average over time. Much of it: await "
            "`writer.drain()`, and limit what is buffered for slow clients.",
            [
                target(
                    f"sum by ({BY_LOOP}) (rate(asyncio_transport_paused_seconds_total{{{LOOP}}}{rate}))",
                    LOOP_LEGEND,
                ),
                target(f"sum by (transport) (asyncio_transports_paused{{{PROCESS}}})", "{{transport}} now"),
            ],
            "short",
            w=8,
        ),
        timeseries(
            "Bytes for slow peers",
            "What waits in connections whose peer does not read, by kind. Rising: put a limit on how long "
            "`await writer.drain()` may take, and drop peers that are too slow.",
            [target(f"sum by (transport) (asyncio_transport_paused_bytes{{{PROCESS}}})", "{{transport}}")],
            "bytes",
            w=8,
        ),
        timeseries(
            "Longest pause for a slow peer",
            "The longest time for which a connection has been paused, by kind. No other code waits for it; what it "
            "holds stays in memory.",
            [
                target(
                    f"max by (transport) (asyncio_transport_paused_longest_seconds{{{PROCESS}}})",
                    "{{transport}}",
                )
            ],
            "s",
            w=8,
        ),
        timeseries(
            "TLS handshakes",
            "How long a handshake takes on average, and how many there are a second. Many: clients do not keep "
            "connections open. Long: the loop is blocked, or the peer is far away.",
            [
                target(
                    f"sum(rate(asyncio_tls_handshake_seconds_total{{{LOOP}}}{rate}))"
                    f" / (sum(rate(asyncio_tls_handshakes_total{{{LOOP}}}{rate})) > 0)",
                    "mean duration",
                ),
                target(f"sum(rate(asyncio_tls_handshakes_total{{{LOOP}}}{rate}))", "a second"),
            ],
            "s",
            w=8,
            overrides=[
                {
                    "matcher": {"id": "byName", "options": "a second"},
                    "properties": [{"id": "unit", "value": "ops"}, {"id": "custom.axisPlacement", "value": "right"}],
                }
            ],
        ),
    ]
