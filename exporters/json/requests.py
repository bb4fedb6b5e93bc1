"""Requests as values of the JSON report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from traceloop.reading.requests.parts import requests_of
from traceloop.reading.requests.stretches import Part
from traceloop.reading.requests.totals import NameTotals, Request, grouped
from traceloop.reading.statistics.process import ProcessStatistics

_DETAILS: Final = 20
_GROUPS: Final = ("running", "ready", "executor", "waiting", "unknown")


def requests(process: ProcessStatistics, wall: Callable[[float], float | None]) -> dict[str, Any]:
    """By name, most time first, and the slowest one by one. ``wall``: from monotonic to Unix seconds."""
    known = requests_of(process)
    if known is None:
        return {"by_name": [], "slowest": [], "incomplete": 0}
    return {
        "by_name": [_of_name(name, totals) for name, totals in known.most()],
        "slowest": [_one(request, wall) for request in known.slowest()],
        "incomplete": known.incomplete,
    }


def _of_name(name: str, totals: NameTotals) -> dict[str, Any]:
    durations = totals.durations
    return {
        "request": name,
        "count": totals.count,
        "sum_seconds": durations.sum,
        "mean_seconds": durations.sum / totals.count,
        "p50_seconds": durations.quantile(0.5),
        "p99_seconds": durations.quantile(0.99),
        "longest_seconds": durations.maximum,
        "parts": totals.parts,
        "at_p50": totals.typical(0.5),
        "at_p99": totals.typical(0.99),
        "mean": _groups({part: spent / totals.count for part, spent in totals.parts.items()}),
        "details": _details(totals.details),
    }


def _one(request: Request, wall: Callable[[float], float | None]) -> dict[str, Any]:
    parts: dict[str, float] = {}
    for (kind, _), spent in request.parts.items():
        parts[kind] = parts.get(kind, 0.0) + spent
    return {
        "request": request.name,
        "start": wall(request.begin),
        "seconds": request.seconds,
        "parts": parts,
        "groups": _groups(parts),
        "details": _details(request.parts),
    }


def _groups(parts: Mapping[str, float]) -> dict[str, float]:
    found = grouped(parts)
    return {group: found.get(group, 0.0) for group in _GROUPS}


def _details(parts: Mapping[Part, float]) -> list[dict[str, Any]]:
    ranked = sorted(parts.items(), key=lambda item: -item[1])
    return [{"part": kind, "detail": detail, "seconds": spent} for (kind, detail), spent in ranked[:_DETAILS]]
