"""A loop in the JSON report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from traceloop.reading.findings.scope import Scope
from traceloop.reading.findings.slow_runs import causes_of
from traceloop.reading.statistics.histograms import Histogram
from traceloop.reading.statistics.loop import LoopStatistics
from traceloop.reading.statistics.timeline import timeline_of
from traceloop.record import layout
from traceloop.record.plumbing import readable
from traceloop.record.sites import UNKNOWN_LABEL

from .stalls import stall_in_progress
from .values import ROWS, finite, percentiles, ratio

_NO_RUNS: Final = Histogram()


def loop_values(
    loop: LoopStatistics, scope: Scope, wall: Callable[[float], float | None], now: float
) -> dict[str, Any]:
    loop.refresh()
    active, idle = loop.times(now)
    cancelled = loop.gauge(layout.W_TIMERS_CANCELLED)
    callbacks = sorted(loop.callbacks.callbacks.values(), key=lambda each: -each.seconds)
    lengths = loop.callbacks.lengths()
    slow = sorted(loop.callbacks.slow.items(), key=lambda each: -each[1].seconds)
    causes = causes_of(scope)
    timeline = timeline_of(loop)
    return {
        "loop": loop.label,
        "open": loop.is_open,
        "active_seconds": active,
        "idle_seconds": idle,
        "utilization": ratio(active, active + idle),
        "iterations": loop.iterations,
        "callbacks": loop.callbacks.runs,
        "slow_callbacks": loop.callbacks.slow_runs,
        "slow_threshold_seconds": finite(loop.callbacks.threshold),
        "running_seconds": loop.running_seconds(now),
        "stall": stall_in_progress(loop, now),
        "tasks": {"created": loop.tasks_created, "alive": loop.tasks_alive, "finished": loop.tasks_finished()},
        "timers": {
            "live": max(0.0, loop.gauge(layout.W_TIMERS) - cancelled),
            "cancelled": cancelled,
            "sweeps": loop.counter(layout.W_COMPACTIONS),
        },
        "transports": {
            "open": loop.gauge(layout.W_TRANSPORTS),
            "bytes_in": loop.counter(layout.W_BYTES_IN),
            "bytes_out": loop.counter(layout.W_BYTES_OUT),
            "accepted": loop.counter(layout.W_ACCEPTED),
            "refused": loop.counter(layout.W_REFUSED),
            "paused_seconds": loop.paused_seconds(now),
            "paused": int(loop.gauge(layout.W_PAUSED)),
            "tls_handshakes": loop.counter(layout.W_TLS_HANDSHAKES),
        },
        "poll_delay": percentiles(loop.poll_delays) if loop.poll_delays.count else None,
        "schedule_delay": _family(loop.callbacks.delays),
        "duration": _family(loop.callbacks.durations),
        "by_callback": [
            {
                "callback": each.label,
                "name": readable(each.label),
                "runs": each.runs,
                "seconds": each.seconds,
                "longest_seconds": each.longest_s,
                **_lengths(lengths.get(each.label, _NO_RUNS)),
            }
            for each in callbacks[:ROWS]
        ],
        "slow": [
            {
                "callback": callback,
                "culprit": culprit,
                "cause": causes.get(callback if culprit == UNKNOWN_LABEL else culprit, ""),
                "runs": totals.runs,
                "seconds": totals.seconds,
                "longest_seconds": totals.longest_s,
                "blocked_seconds": totals.blocked_s,
            }
            for (callback, culprit), totals in slow[:ROWS]
        ],
        "coroutines": [
            {
                "coroutine": label,
                "tasks": totals.count,
                "steps": totals.steps,
                "running_seconds": totals.running,
                "ready_seconds": totals.ready,
                "suspended_seconds": totals.suspended,
                "longest_step_seconds": totals.longest_step,
            }
            for label, totals in loop.tasks.most_time(ROWS)
        ],
        "timeline": [
            {
                "time": wall(float(each.second)),
                "active_seconds": min(1.0, each.active_s),
                "longest_seconds": each.longest_s,
                "callbacks": each.callbacks,
                "iterations": each.iterations,
            }
            for each in (timeline.seconds if timeline is not None else ())
        ],
    }


def _family(family: dict[str, Histogram]) -> list[dict[str, Any]]:
    """Percentiles of all kinds together, then by kind."""
    every = Histogram().merge(family.values())
    kinds = [("all", every), *sorted(family.items(), key=lambda item: -item[1].count)]
    return [{"kind": kind, **percentiles(each)} for kind, each in kinds if each.count]


def _lengths(histogram: Histogram) -> dict[str, Any]:
    """How long all runs of a callback were."""
    up_to = histogram.cumulative()
    return {
        "p50_seconds": histogram.quantile(0.5),
        "p99_seconds": histogram.quantile(0.99),
        "runs_by_duration": [count - before for before, count in zip([0, *up_to], up_to, strict=False)],
    }
