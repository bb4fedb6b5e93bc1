"""*Slow callbacks*: who blocks the loop, how long, and what did it cost everybody else?"""

from .common import annotations
from .grafana import (
    JSON,
    LOOP,
    ORANGE,
    RED,
    YELLOW,
    dashboard,
    heatmap,
    new_or_increased,
    quantile,
    row,
    stat,
    table,
    target,
    thresholds,
    timeseries,
)

WHO = "callback, culprit"
# Where nothing was slow yet there is no series by culprit: 0, not "no data", for as long as there is a loop.
NONE = f"0 * sum(asyncio_eventloop_iterations_total{{{LOOP}}})"


def build() -> JSON:
    """The dashboard as JSON."""
    return dashboard(
        "traceloop-slow-callbacks",
        "Slow callbacks",
        "Who blocks the event loops: the callback that ran too long, the culprit in the application's own code, and "
        "what it cost the callbacks that waited behind it.",
        annotations(),
        [*_sums(), *_who(), *_when()],
    )


def _in_range(metric: str) -> str:
    return new_or_increased(metric, LOOP, "$__range")


def _sums() -> list[JSON]:
    return [
        row("In the dashboard's time range"),
        stat(
            "Slow callbacks",
            "Callbacks that ran over the threshold in the dashboard's time range. The table below names them.",
            f"sum({_in_range('asyncio_slow_callbacks_total')}) or {NONE}",
            "none",
            thresholds((1, YELLOW), (100, RED)),
            w=5,
            decimals=0,
        ),
        stat(
            "Loop time lost to them",
            "Seconds that slow callbacks held their loops. While one runs, nothing else of its loop does.",
            f"sum({_in_range('asyncio_slow_callback_time_seconds_total')}) or {NONE}",
            "s",
            thresholds((1, YELLOW), (60, RED)),
            w=5,
        ),
        stat(
            "Waiting they caused",
            "Delay of all other callbacks, added up: ten that wait behind one second of blocking wait ten "
            "seconds. Little here means that the slow ones hit a quiet loop; much here is what users felt.",
            f"sum({_in_range('asyncio_callback_blocked_seconds_total')}) or {NONE}",
            "s",
            thresholds((1, YELLOW), (60, RED)),
            w=5,
        ),
        stat(
            "Blocked right now",
            "Seconds since the longest blocked loop last polled for I/O, at the last scrape. If it is over a second, "
            "`traceloop top` shows where it is.",
            f"max(asyncio_eventloop_running_seconds{{{LOOP}}})",
            "s",
            thresholds((0.1, YELLOW), (1, RED)),
            w=5,
        ),
        stat(
            "Slow threshold",
            "From which duration a callback counts as slow: `--slow-threshold`, or `loop.slow_callback_duration`. "
            "Lower it until the table shows what you did not know.",
            f"min(asyncio_slow_callback_threshold_seconds{{{LOOP}}})",
            "s",
            thresholds(base="blue"),
            w=4,
        ),
    ]


def _who() -> list[JSON]:
    by = f"sum by ({WHO}) "
    return [
        row("Who"),
        table(
            "Who blocks",
            "Slow callbacks of the time range. The callback is what the loop ran, often the server's; the culprit "
            "is the application's own frame in which it was found. Begin with the one that made the others wait "
            "most: await in it, move it to an executor, or split it.",
            [
                ("Made others wait", "s", by + f"({_in_range('asyncio_callback_blocked_seconds_total')})"),
                ("Time", "s", by + f"({_in_range('asyncio_slow_callback_time_seconds_total')})"),
                ("Count", "short", by + f"({_in_range('asyncio_slow_callbacks_total')})"),
                (
                    "Mean",
                    "s",
                    by
                    + f"(asyncio_slow_callback_time_seconds_total{{{LOOP}}}) / "
                    + by
                    + f"(asyncio_slow_callbacks_total{{{LOOP}}})",
                ),
                ("At start-up", "short", by + f"({_in_range('asyncio_slow_callbacks_startup_total')})"),
            ],
            {"culprit": "Culprit", "callback": "Callback"},
            sort="Made others wait",
            steps={
                "Made others wait": thresholds((1, YELLOW), (60, RED), base="transparent"),
                "Mean": thresholds((0.5, YELLOW), (5, RED), base="transparent"),
            },
        ),
        table(
            "Where",
            "File and line where each culprit held the loop when it was first slow. Begin to read there: what "
            "the line calls is what held the loop.",
            [
                (
                    "Loops",
                    "short",
                    f"count by (callback, culprit, location) (asyncio_slow_callback_info{{{LOOP}}})",
                )
            ],
            {"culprit": "Culprit", "callback": "Callback", "location": "Line"},
            sort="Loops",
        ),
        timeseries(
            "Longest slow callback, by culprit",
            "The longest that ended in the last two minutes, start-up left out: also those that were over before a "
            "scrape could see them last.",
            [target(f"max by (culprit) (asyncio_slow_callback_longest_seconds{{{LOOP}}})", "{{culprit}}")],
            "s",
            log=True,
            steps=thresholds((0.5, YELLOW), (5, RED)),
        ),
        timeseries(
            "Slow callbacks by culprit",
            "When each of them was slow. All at the same moment: something else stopped the process (garbage "
            "collector, another process, the GIL). One at all times: it is that one.",
            [
                target(
                    "sum by (culprit) "
                    f"({new_or_increased('asyncio_slow_callbacks_total', LOOP, '$__rate_interval')}) > 0",
                    "{{culprit}}",
                )
            ],
            "short",
            bars=True,
            stack=True,
        ),
        timeseries(
            "Waiting caused, by culprit",
            "Seconds of waiting a second that each culprit caused to the other callbacks: the blocker's bill. One "
            "means that at every moment one callback was waiting because of it.",
            [
                target(
                    f"sum by (culprit) (rate(asyncio_callback_blocked_seconds_total{{{LOOP}}}[$__rate_interval]))",
                    "{{culprit}}",
                )
            ],
            "short",
            stack=True,
            steps=thresholds((1, ORANGE)),
        ),
    ]


def _when() -> list[JSON]:
    duration, delay = "asyncio_callback_duration_seconds", "asyncio_callback_schedule_delay_seconds"
    return [
        row("How long, and how late"),
        heatmap(
            "Callback duration",
            "All callbacks by duration: the darker, the more. What lies above the slow threshold blocks. Points "
            "lead to the trace of one of them.",
            f"sum by (le) (rate({duration}_bucket{{{LOOP}}}[$__rate_interval]))",
            "s",
        ),
        heatmap(
            "Schedule delay",
            "All callbacks by how long they waited for the loop. A cloud that jumps up for a moment is what a "
            "stall does to everybody else. Points lead to the trace of one of them.",
            f"sum by (le) (rate({delay}_bucket{{{LOOP}}}[$__rate_interval]))",
            "s",
        ),
        timeseries(
            "Duration p99 by kind",
            "Which kind of callback is long. Tasks: look at the table. Readers and writers: a protocol computes in "
            "data_received. Points lead to traces.",
            [target(quantile(0.99, duration, LOOP, "kind"), "{{kind}}", exemplar=True)],
            "s",
            log=True,
            steps=thresholds((0.1, RED)),
        ),
        timeseries(
            "Schedule delay p99 by kind",
            "Which kind of callback waits. Timers alone: the poll comes back late, see 'Iterations' in the "
            "overview. All alike: something blocks.",
            [target(quantile(0.99, delay, LOOP, "kind"), "{{kind}}", exemplar=True)],
            "s",
            log=True,
            steps=thresholds((0.1, RED)),
        ),
    ]
