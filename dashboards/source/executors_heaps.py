"""*Executors and heaps*: what is handed to threads, and what only ever grows."""

from .common import BY_EXECUTOR, BY_PROCESS, EXECUTOR_LEGEND, LOOP_LEGEND, PROCESS_LEGEND, annotations
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
    table,
    target,
    thresholds,
    timeseries,
)

RATE = "[$__rate_interval]"


def build() -> JSON:
    """The dashboard as JSON."""
    return dashboard(
        "traceloop-executors-heaps",
        "Executors and heaps",
        "What the loops hand to executors and how long it waits there, and the heaps that can leak: timers and memory.",
        annotations(),
        [*_executors(), *_timers(), *_memory()],
    )


def _delays(name: str) -> list[JSON]:
    return [
        target(quantile(q, name, PROCESS, "executor"), "{{executor}} " + text, exemplar=q == 0.99)
        for q, text in ((0.5, "p50"), (0.99, "p99"))
    ]


def _executors() -> list[JSON]:
    return [
        row("Executors"),
        timeseries(
            "Active of limit",
            "Calls running (filled) and workers at most (line) of each executor. Where they touch, calls wait: "
            "give the slow function an executor of its own, or this one more workers.",
            [
                target(f"sum by ({BY_EXECUTOR}) (asyncio_executor_active{{{PROCESS}}})", EXECUTOR_LEGEND + " active"),
                target(f"sum by ({BY_EXECUTOR}) (asyncio_executor_workers{{{PROCESS}}})", EXECUTOR_LEGEND + " started"),
                target(
                    f"sum by ({BY_EXECUTOR}) (asyncio_executor_max_workers{{{PROCESS}}})", EXECUTOR_LEGEND + " limit"
                ),
            ],
            "short",
            overrides=[
                {
                    "matcher": {"id": "byRegexp", "options": "/(limit|started)$/"},
                    "properties": [
                        {"id": "custom.fillOpacity", "value": 0},
                        {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 10]}},
                    ],
                }
            ],
        ),
        timeseries(
            "Queue length",
            "Calls that wait for a worker. Now and then is what a queue is for; lasting means that work comes in "
            "faster than it is done, and every caller waits longer.",
            [target(f"sum by ({BY_EXECUTOR}) (asyncio_executor_queue_length{{{PROCESS}}})", EXECUTOR_LEGEND)],
            "short",
            steps=thresholds((1, YELLOW), (100, RED)),
        ),
        timeseries(
            "Time in the queue",
            "From handing in to start in a worker. It adds to the caller's time: when it is as long as the run, "
            "double the workers or halve the calls.",
            _delays("asyncio_executor_queue_duration_seconds"),
            "s",
            w=8,
            log=True,
            steps=thresholds((0.1, YELLOW), (1, RED)),
        ),
        timeseries(
            "Time of the run",
            "From start to end in the worker. Calls that take seconds beside calls that take milliseconds belong into "
            "different executors. Points lead to traces.",
            _delays("asyncio_executor_run_duration_seconds"),
            "s",
            w=8,
            log=True,
        ),
        timeseries(
            "Time to return",
            "From the end in the worker until the loop delivers the result. Long: the loop is blocked or "
            "saturated, or the GIL is contended; more workers make that worse.",
            _delays("asyncio_executor_return_delay_seconds"),
            "s",
            w=8,
            log=True,
            steps=thresholds((0.1, RED)),
        ),
        table(
            "What the executors run",
            "Offloaded functions of the time range, by time in workers. The first of them is what fills the pool.",
            [
                (
                    "Time",
                    "s",
                    "sum by (executor, callback) "
                    f"({new_or_increased('asyncio_executor_time_seconds_total', PROCESS, '$__range')})",
                ),
                (
                    "Count",
                    "short",
                    "sum by (executor, callback) "
                    f"({new_or_increased('asyncio_executor_runs_total', PROCESS, '$__range')})",
                ),
                (
                    "Made others wait",
                    "s",
                    "sum by (executor, callback) "
                    f"({new_or_increased('asyncio_executor_blocked_seconds_total', PROCESS, '$__range')})",
                ),
            ],
            {"executor": "Executor", "callback": "Function"},
            sort="Time",
            h=7,
        ),
    ]


def _timers() -> list[JSON]:
    return [
        row("Timer heap"),
        timeseries(
            "Timers",
            "Entries of the timer heap, live and cancelled. Live ones that only rise: a timer is set for each "
            "request and never cancelled. Many cancelled ones: long timeouts that are nearly always cancelled; "
            "they go at a sweep.",
            [target(f"asyncio_timers{{{LOOP}}}", LOOP_LEGEND + " {{state}}")],
            "short",
        ),
        timeseries(
            "Sweeps and growth detected",
            "Sweeps of cancelled timers, and detections of a heap that grew and stayed. At a detection look at the "
            "asyncio.heap_growth span: it names the callbacks that grew it.",
            [
                target(
                    f"sum by ({BY_PROCESS}) (increase(asyncio_timer_heap_compactions_total{{{LOOP}}}{RATE}))",
                    PROCESS_LEGEND + " sweeps",
                ),
                target(
                    f"sum by ({BY_PROCESS}, heap) (increase(asyncio_heap_growth_events_total{{{PROCESS}}}{RATE}))",
                    PROCESS_LEGEND + " {{heap}} growth",
                ),
            ],
            "short",
            bars=True,
        ),
    ]


def _memory() -> list[JSON]:
    return [
        row("Memory heap"),
        timeseries(
            "Resident memory",
            "Memory of each traced process as the kernel counts it. Rising while 'Allocated blocks' does not: "
            "fragmentation, or memory outside of Python (C libraries, buffers).",
            [target(f"process_resident_memory_bytes{{{PROCESS}}}", PROCESS_LEGEND)],
            "bytes",
        ),
        timeseries(
            "Allocated blocks",
            "Blocks that the interpreter has allocated. Rising through hours of even load: objects are kept. "
            "`--memory-trace` names the lines.",
            [target(f"cpython_memory_allocated_blocks{{{PROCESS}}}", PROCESS_LEGEND)],
            "short",
        ),
        timeseries(
            "Garbage collector pauses by generation",
            "Longest pauses, nearly: the 99th percentile of each generation. Nothing runs during one. Long ones of the "
            "oldest generation: many long-lived objects; `gc.freeze()` after start takes them out.",
            [
                target(
                    quantile(0.99, "cpython_gc_pause_duration_seconds", PROCESS, "generation"),
                    "generation {{generation}}",
                )
            ],
            "s",
            w=8,
            log=True,
            steps=thresholds((0.05, YELLOW), (0.5, RED)),
        ),
        timeseries(
            "Collections by generation",
            "Collections a second. Hundreds of the youngest: many short-lived containers; a higher `gc.set_threshold` "
            "trades memory for time.",
            [
                target(
                    f"sum by (generation) (rate(cpython_gc_pause_duration_seconds_count{{{PROCESS}}}{RATE}))",
                    "generation {{generation}}",
                )
            ],
            "ops",
            w=8,
        ),
        timeseries(
            "Objects collected",
            "Objects in cycles that the collector freed, and those that it could not. Uncollectable ones are a leak: "
            "`gc.garbage` holds them.",
            [
                target(
                    f"sum by (generation) (rate(cpython_gc_collected_objects_total{{{PROCESS}}}{RATE}))",
                    "generation {{generation}}",
                ),
                target(f"sum(rate(cpython_gc_uncollectable_objects_total{{{PROCESS}}}{RATE}))", "uncollectable"),
            ],
            "cps",
            w=8,
            overrides=[
                {
                    "matcher": {"id": "byName", "options": "uncollectable"},
                    "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": ORANGE}}],
                }
            ],
        ),
        timeseries(
            "Collecting, by callback",
            "Part of the time that collections took within a callback, which pays for garbage of any code. "
            "One far above the others: it allocates most, or calls `gc.collect()` itself.",
            [
                target(
                    f"topk(10, sum by (callback) (rate(asyncio_callback_gc_pause_seconds_total{{{PROCESS}}}{RATE})))",
                    "{{callback}}",
                )
            ],
            "percentunit",
            w=24,
            h=7,
        ),
    ]
