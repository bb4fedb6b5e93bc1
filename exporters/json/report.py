"""All that a report says, as JSON: for programs, for CI, and for the page. docs/report-json.md describes it.

Every list is bounded. Times are Unix seconds, durations seconds, sizes bytes. What is not known is null.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from traceloop.reading.findings.model import Finding, Verdict
from traceloop.reading.findings.scope import Scope
from traceloop.reading.findings.verdict import verdict
from traceloop.reading.statistics.histograms import DURATION_BOUNDS
from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.reading.statistics.run import Statistics
from traceloop.version import __version__

from .executors import executor
from .loops import loop_values
from .profile import profile
from .requests import requests
from .stalls import blocked, stalls
from .values import ROWS, finite, ratio

SCHEMA: Final = "traceloop-report/1"

_TEXT: Final = 500


def dump(statistics: Statistics, *, indent: int | None = None, **about: Any) -> str:
    """The report as JSON text; ``about`` as ``report`` takes it. Never has a number that JSON has not."""
    return json.dumps(_sound(report(statistics, **about)), indent=indent, allow_nan=False)


def _sound(value: Any) -> Any:
    """The value without infinities and NaN, which a damaged record may have led to."""
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, dict):
        return {key: _sound(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_sound(each) for each in value]
    return value


def report(statistics: Statistics, *, command: str = "", live: bool = False) -> dict[str, Any]:
    """The report as plain values. ``command``: of the run, where the record does not say it. ``live``: it goes on."""
    with statistics.lock:
        now = time.monotonic()
        judged = verdict(statistics, now)
        processes = [_process(process, now) for _, process in sorted(statistics.processes.items())]
        loops = [loop for process in processes for loop in process["loops"]]
        active, idle = _total(loops, "active_seconds"), _total(loops, "idle_seconds")
        return {
            "schema": SCHEMA,
            "version": __version__,
            "generated": time.time(),
            "live": live,
            "duration_bounds_seconds": list(DURATION_BOUNDS),
            "command": (command or statistics.command() or (processes[0]["command"] if processes else ""))[:_TEXT],
            "overview": {
                "processes": sum(process.processes for process in statistics.processes.values()),
                "loops": sum(loop.loops for loop in statistics.loops()),
                "callbacks": _total(loops, "callbacks"),
                "utilization": ratio(active, active + idle),
                "slow_callbacks": _total(loops, "slow_callbacks"),
                "records": _total(processes, "records"),
                "records_dropped": _total(processes, "records_dropped"),
                "records_overwritten": _total(processes, "records_overwritten"),
            },
            "verdict": _verdict(judged),
            "processes": processes,
        }


def _total(those: Iterable[dict[str, Any]], name: str) -> Any:
    return sum(each[name] for each in those)


def _verdict(judged: Verdict) -> dict[str, Any]:
    return {
        "healthy": not judged.troubles and not judged.is_blank,
        "line": judged.line,
        "basis": judged.basis,
        "busy": list(judged.busy),
        "findings": [_finding(each) for each in judged.findings[:ROWS]],
    }


def _finding(found: Finding) -> dict[str, Any]:
    who = found.who
    return {
        "kind": found.kind,
        "detail": found.detail,
        "severity": found.severity,
        "title": found.title,
        "harm": found.harm,
        "cost_seconds": found.cost_s,
        "process": found.process,
        "loop": found.loop or None,
        "who": {
            "function": who.function,
            "file": who.file,
            "line": who.line,
            "callback": who.callback,
            "place": who.place,
        }
        if who is not None
        else None,
        "evidence": list(found.evidence),
        "stack": list(found.stack),
        "remedy": found.remedy,
        "page": found.page,
    }


def _process(process: ProcessStatistics, now: float) -> dict[str, Any]:
    process.look()
    scope = Scope(process, now)
    usage = process.usage
    wall = _wall_clock(process)
    return {
        "process": process.slot,
        "pid": process.pid,
        "python": str(process.description.get("python", "")),
        "command": str(process.description.get("command", ""))[:_TEXT],
        "alive": process.attached,
        "records": process.records,
        "records_dropped": process.dropped,
        "records_overwritten": process.overwritten,
        "resident_bytes": usage.resident_bytes if usage is not None else None,
        "most_resident_bytes": process.most_resident_bytes or None,
        "cpu_seconds": usage.cpu_s if usage is not None else None,
        "allocated_blocks": process.memory.blocks if process.memory.blocks >= 0 else None,
        "loops": [loop_values(loop, scope, wall, now) for loop in process.loops.values()],
        "stalls": stalls(process, wall),
        "blocked": blocked(process),
        "executors": [executor(label, each) for label, each in process.executors.executors.items()],
        "garbage": _garbage(process),
        "growth": [
            {
                "heap": each.heap,
                "start": wall(each.start),
                "end": wall(each.end),
                "before": each.before,
                "after": each.after,
                "unit": each.unit,
                "text": each.text,
            }
            for each in process.growth.detections
        ],
        "waits": _waits(process, now),
        "requests": requests(process, wall),
        "profile": profile(process),
    }


def _wall_clock(process: ProcessStatistics) -> Callable[[float], float | None]:
    """From monotonic seconds of the process's record to Unix seconds."""
    described = process.description
    try:
        offset = (int(described["realtime_ns"]) - int(described["monotonic_ns"])) / 1e9
    except (KeyError, TypeError, ValueError, OverflowError):
        offset = time.time() - time.monotonic()
    return lambda moment: finite(moment + offset)


def _garbage(process: ProcessStatistics) -> list[dict[str, Any]]:
    collections = process.collections
    return [
        {
            "generation": generation,
            "count": each.count,
            "seconds": each.sum,
            "longest_seconds": each.maximum,
            "collected": collections.collected.get(generation, 0),
        }
        for generation, each in sorted(collections.pauses.items())
    ]


def _waits(process: ProcessStatistics, now: float) -> list[dict[str, Any]]:
    """Where tasks waited, most time first."""
    return [
        {
            "coroutine": each.coroutine,
            "function": each.place.function,
            "file": each.place.file,
            "line": each.place.line,
            "inside": each.place.inside,
            "waits": each.waits,
            "seconds": each.shown_s,
            "estimated_seconds": 0.0 if each.seen_once else each.estimated_s,
            "longest_seconds": each.longest_s,
            "now": each.now,
        }
        for each in process.wait_series.most(now, running=process.attached)[:ROWS]
    ]
