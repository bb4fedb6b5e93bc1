"""What more than one dashboard says: annotations, and the expressions that have to be the same everywhere."""

from .grafana import JSON, LOOP, ORANGE, PROCESS, RED, annotation

# Process and instance stand in a legend only as far as they tell lines apart; Grafana has no such rule, so all do.
BY_LOOP = "job, instance, process, loop"
LOOP_LEGEND = "{{instance}} {{process}} {{loop}}"
BY_PROCESS = "job, instance, process"
PROCESS_LEGEND = "{{instance}} {{process}}"
BY_EXECUTOR = "job, instance, process, executor"
EXECUTOR_LEGEND = "{{instance}} {{process}} {{executor}}"

UTILIZATION = (
    f'sum by ({BY_LOOP}) (rate(asyncio_eventloop_time_seconds_total{{{LOOP}, state="active"}}[$__rate_interval]))'
    f" / (sum by ({BY_LOOP}) (rate(asyncio_eventloop_time_seconds_total{{{LOOP}}}[$__rate_interval])) > 0)"
)
SATURATION = f"asyncio_executor_active{{{PROCESS}}} / (asyncio_executor_max_workers{{{PROCESS}}} > 0)"
SLOW_A_MINUTE = f"rate(asyncio_eventloop_slow_callbacks_total{{{LOOP}}}[$__rate_interval])"


def annotations() -> list[JSON]:
    """Stalls and restarts, marked on every panel, since they explain most of what the panels show."""
    return [
        annotation(
            "Slow callbacks",
            f"increase(asyncio_eventloop_slow_callbacks_total{{{LOOP}}}[$__rate_interval]) > 0",
            ORANGE,
            "Slow callback",
            "Loop {{loop}} of process {{process}} on {{instance}}",
        ),
        annotation(
            "Loop blocked",
            f"asyncio_eventloop_running_seconds{{{LOOP}}} > 1",
            RED,
            "Loop blocked at the scrape",
            "Loop {{loop}} of process {{process}} on {{instance}} had not polled for I/O for more than a second",
        ),
        annotation(
            "Restarts",
            f"changes(process_start_time_seconds{{{PROCESS}}}[$__rate_interval]) > 0",
            "blue",
            "Restart",
            "Slot {{process}} on {{instance}} was given to a new process",
        ),
    ]
