"""An executor in the JSON report."""

from __future__ import annotations

from typing import Any

from traceloop.reading.statistics.executors import ExecutorTotals

from .values import ROWS, percentiles


def executor(label: str, totals: ExecutorTotals) -> dict[str, Any]:
    full = totals.saturation
    return {
        "executor": label,
        "max_workers": totals.max_workers or None,
        "workers": totals.workers,
        "waiting": max(0, totals.waiting),
        "active": max(0, totals.active),
        "queued": percentiles(totals.queue_durations),
        "ran": percentiles(totals.run_durations),
        "returned": percentiles(totals.return_delays),
        "functions": [
            {
                "function": name,
                "runs": each.runs,
                "seconds": each.seconds,
                "waited_seconds": each.waited,
                "longest_wait_seconds": each.longest_wait,
            }
            for name, each in sorted(totals.functions.items(), key=lambda item: -item[1].seconds)[:ROWS]
        ],
        "workers_at": _workers_at(totals),
        "full_seconds": full.seconds,
        "fillers": [
            {"function": name, "seconds": each.seconds}
            for name, each in sorted(full.fillers.items(), key=lambda item: -item[1].seconds)[:ROWS]
        ],
    }


def _workers_at(totals: ExecutorTotals) -> list[dict[str, Any]]:
    """Where the workers stood when the executor had been full for long."""
    seen = totals.workers_at
    return [
        {"workers": number, "file": own[0], "line": own[1], "function": f"{own[2]}.{own[3]}",
         "inside": f"{stands[2]}.{stands[3]}" if stands != own else None}
        for number, own, stands in (seen.places if seen is not None else ())
    ]  # fmt: skip
