"""*traceloop itself*: is what the other dashboards show complete, and what does watching cost?"""

from .common import BY_PROCESS, PROCESS_LEGEND, annotations
from .grafana import (
    JSON,
    LOOP,
    ORANGE,
    PROCESS,
    RED,
    TARGET,
    YELLOW,
    dashboard,
    row,
    stat,
    table,
    target,
    thresholds,
    timeseries,
)

RATE = "[$__rate_interval]"


def build() -> JSON:
    """The dashboard as JSON."""
    return dashboard(
        "traceloop-itself",
        "traceloop itself",
        "Is what the other dashboards show complete, and what does it cost: records, drops, the collector.",
        annotations(),
        [*_sums(), *_flow(), *_cost(), *_who()],
    )


def _sums() -> list[JSON]:
    return [
        row("Complete?"),
        stat(
            "Records lost",
            "Records that were overwritten before they were read, as a part of all. Over 0 the counts on the other "
            "dashboards are too low: give the collector more processor, or use a larger ring (`--ring-size`).",
            f"sum(rate(traceloop_records_dropped_total{{{PROCESS}}}{RATE}))"
            f" / (sum(rate(traceloop_records_total{{{PROCESS}}}{RATE})) > 0)",
            "percentunit",
            thresholds((0.000001, YELLOW), (0.01, RED)),
            w=6,
        ),
        stat(
            "Spans lost a second",
            "Spans that could not be exported. Metrics do not suffer. See 'Spans dropped by reason'; `--spans "
            "slow` or a ratio makes fewer.",
            f"sum(rate(traceloop_spans_dropped_total{{{TARGET}}}{RATE}))"
            f" or 0 * sum(traceloop_process_info{{{PROCESS}}})",
            "cps",
            thresholds((0.001, YELLOW), (100, RED)),
            w=6,
        ),
        stat(
            "Collector's processor",
            "Processors that the collectors use, outside of the traced processes. Near 1: the collector can't "
            "keep up much longer, and records will be lost.",
            f"max(rate(traceloop_collector_cpu_seconds_total{{{TARGET}}}{RATE}))",
            "percentunit",
            thresholds((0.5, YELLOW), (0.9, RED)),
            w=6,
        ),
        stat(
            "Traced processes",
            "Processes that are traced now. Fewer than you run: a child has its own interpreter without traceloop, or "
            "runs another kind of loop; the log says so.",
            f"sum(traceloop_process_info{{{PROCESS}}})",
            "none",
            thresholds((1, "blue"), base=RED),
            w=6,
            decimals=0,
        ),
    ]


def _flow() -> list[JSON]:
    return [
        row("Flow"),
        timeseries(
            "Records",
            "Records written a second, by process: about one for each handle run.",
            [target(f"rate(traceloop_records_total{{{PROCESS}}}{RATE})", PROCESS_LEGEND)],
            "cps",
        ),
        timeseries(
            "Records dropped",
            "Records overwritten before they were read. Above 0: a larger ring rides out bursts, more processor "
            "for the collector helps against a lasting excess.",
            [target(f"rate(traceloop_records_dropped_total{{{PROCESS}}}{RATE})", PROCESS_LEGEND)],
            "cps",
            steps=thresholds((1, RED)),
        ),
        timeseries(
            "Spans exported",
            "Spans handed to the exporter a second. None though traces are wanted: no endpoint is set "
            "(OTEL_EXPORTER_OTLP_ENDPOINT).",
            [
                target(
                    f"sum by (job, instance) (rate(traceloop_spans_exported_total{{{TARGET}}}{RATE}))"
                    f" or 0 * sum by (job, instance) (traceloop_process_info{{{TARGET}}})",
                    "{{instance}}",
                )
            ],
            "cps",
        ),
        timeseries(
            "Spans dropped by reason",
            "Why spans did not get out. A full queue: sample fewer. A failing export: the receiver refuses or is away.",
            [
                target(
                    f"sum by (reason) (rate(traceloop_spans_dropped_total{{{TARGET}}}{RATE}))"
                    f" or 0 * (sum(traceloop_process_info{{{PROCESS}}})"
                    f" unless on () group(traceloop_spans_dropped_total{{{TARGET}}}))",
                    "{{reason}}",
                )
            ],
            "cps",
            stack=True,
            steps=thresholds((1, ORANGE)),
        ),
    ]


def _cost() -> list[JSON]:
    return [
        row("Cost"),
        timeseries(
            "Collector's processor beside the application's",
            "Processors used by the collectors and by the processes they watch. The collector's part grows with "
            "the number of handles and of spans, not with the time they take.",
            [
                target(f"sum(rate(traceloop_collector_cpu_seconds_total{{{TARGET}}}{RATE}))", "collector"),
                target(f"sum(rate(process_cpu_seconds_total{{{PROCESS}}}{RATE}))", "application"),
            ],
            "percentunit",
            w=8,
        ),
        timeseries(
            "Collector's memory",
            "Resident memory of the collectors. It is bounded by the number of callbacks and processes; rising "
            "for days is a fault of ours that we want to hear of.",
            [target(f"traceloop_collector_resident_memory_bytes{{{TARGET}}}", "{{instance}}")],
            "bytes",
            w=8,
        ),
        timeseries(
            "Duration of a scrape",
            "How long Prometheus waited for the endpoint. Near the scrape's time limit: too many series, lower "
            "the number of callbacks that have names of their own.",
            [
                target(
                    f"scrape_duration_seconds{{{TARGET}}} and on (job, instance) traceloop_process_info{{{TARGET}}}",
                    "{{instance}}",
                )
            ],
            "s",
            w=8,
            steps=thresholds((1, YELLOW), (5, RED)),
        ),
    ]


def _who() -> list[JSON]:
    return [
        row("Processes"),
        table(
            "Who is traced",
            "Which process stands behind a slot number now. A number is given again when its process has ended.",
            [
                (
                    "Running for",
                    "s",
                    f"time() - process_start_time_seconds{{{PROCESS}}}"
                    f" + on (job, instance, process) group_right () 0 * traceloop_process_info{{{PROCESS}}}",
                ),
            ],
            {
                "job": "Job",
                "instance": "Instance",
                "process": "Process",
                "pid": "PID",
                "python": "Python",
                "version": "traceloop",
                "command": "Command",
            },
            h=7,
        ),
        timeseries(
            "Loops",
            "Loops that have a record of each process. More with every request: a loop is made for each, which is "
            "slow; make one and keep it.",
            [target(f"count by ({BY_PROCESS}) (asyncio_eventloop_iterations_total{{{LOOP}}})", PROCESS_LEGEND)],
            "short",
            w=24,
            h=6,
        ),
    ]
