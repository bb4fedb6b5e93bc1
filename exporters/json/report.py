"""All that a report says, as JSON: for programs, for CI, and for the page. docs/report-json.md describes it.

Every list is bounded. Times are Unix seconds, durations seconds, sizes bytes. What is not known is null.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from traceloop.reading.findings.model import Finding, Verdict
from traceloop.reading.findings.scope import Scope
from traceloop.reading.findings.slow_runs import causes_of
from traceloop.reading.findings.verdict import verdict
from traceloop.reading.stalls.model import StallInfo, sum_of
from traceloop.reading.stalls.parts import loop_stalls_of, stalls_of
from traceloop.reading.statistics.executors import ExecutorTotals
from traceloop.reading.statistics.histograms import DURATION_BOUNDS, Histogram
from traceloop.reading.statistics.loop import LoopStatistics
from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.reading.statistics.run import Statistics
from traceloop.reading.statistics.timeline import timeline_of
from traceloop.reading.units import counted
from traceloop.record import layout
from traceloop.record.frames import culprit_frame
from traceloop.record.holders import Holder
from traceloop.record.plumbing import readable
from traceloop.record.sites import UNKNOWN_LABEL
from traceloop.version import __version__

from .profile import profile
from .requests import requests

SCHEMA: Final = "traceloop-report/1"

#: Rows of each list.
ROWS: Final = 200
_STALLS: Final = 100
_FRAMES: Final = 40
_TEXT: Final = 500
_NO_RUNS: Final = Histogram()


def dump(statistics: Statistics, *, indent: int | None = None, **about: Any) -> str:
    """The report as JSON text; ``about`` as ``report`` takes it. Never has a number that JSON has not."""
    return json.dumps(_sound(report(statistics, **about)), indent=indent, allow_nan=False)


def _sound(value: Any) -> Any:
    """The value without infinities and NaN, which a damaged record may have led to."""
    if isinstance(value, float):
        return _finite(value)
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
                "utilization": _ratio(active, active + idle),
                "slow_callbacks": _total(loops, "slow_callbacks"),
                "records": _total(processes, "records"),
                "records_dropped": _total(processes, "records_dropped"),
            },
            "verdict": _verdict(judged),
            "processes": processes,
        }


def _total(those: Iterable[dict[str, Any]], name: str) -> Any:
    return sum(each[name] for each in those)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# -- the verdict


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


# -- a process


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
        "resident_bytes": usage.resident_bytes if usage is not None else None,
        "most_resident_bytes": process.most_resident_bytes or None,
        "cpu_seconds": usage.cpu_s if usage is not None else None,
        "allocated_blocks": process.memory.blocks if process.memory.blocks >= 0 else None,
        "loops": [_loop(loop, scope, wall, now) for loop in process.loops.values()],
        "stalls": _stalls(process, wall),
        "blocked": _blocked(process),
        "executors": [_executor(label, each) for label, each in process.executors.executors.items()],
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
    return lambda moment: _finite(moment + offset)


def _loop(loop: LoopStatistics, scope: Scope, wall: Callable[[float], float | None], now: float) -> dict[str, Any]:
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
        "utilization": _ratio(active, active + idle),
        "iterations": loop.iterations,
        "callbacks": loop.callbacks.runs,
        "slow_callbacks": loop.callbacks.slow_runs,
        "slow_threshold_seconds": _finite(loop.callbacks.threshold),
        "running_seconds": loop.running_seconds(now),
        "stall": _in_progress(loop, now),
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
        "poll_delay": _percentiles(loop.poll_delays) if loop.poll_delays.count else None,
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


def _in_progress(loop: LoopStatistics, now: float) -> dict[str, Any] | None:
    """The stall that the loop is in."""
    try:
        info = loop_stalls_of(loop).in_progress()
    except LookupError:
        return None
    if info is None:
        return None
    return {
        "callback": info.callback,
        "culprit": info.culprit,
        "seconds": max(0.0, now - info.start),
        "stack": _stack(info),
    }


def _stack(info: StallInfo) -> list[str]:
    stack = info.stack
    if stack is None:
        return []
    frames = stack.frames[::-1]
    lines = [f"{file}:{line} in {module}.{name}" if file else name for file, line, module, name in frames]
    own = culprit_frame(stack.frames)
    blamed = frames.index(own) if own is not None else 0
    if blamed < _FRAMES:
        return lines[:_FRAMES] + _more(len(lines) - _FRAMES)
    # An import, say: what is blamed stands far above the code of the import system.
    inner = _FRAMES - 1
    return lines[:inner] + _more(blamed - inner) + [lines[blamed]] + _more(len(lines) - blamed - 1)


def _more(frames: int) -> list[str]:
    return [f"and {counted(frames, 'more frame')}"] if frames > 0 else []


def _holder(holder: Holder | None) -> dict[str, Any] | None:
    if holder is None:
        return None
    return {
        "kind": holder.kind,
        "name": holder.name,
        "place": holder.place,
        "guess": holder.guess,
        "text": str(holder),
    }


def _threads(info: StallInfo) -> list[dict[str, Any]]:
    """The other threads at the stack that shows the culprit."""
    return [
        {
            "names": each.names,
            "count": each.number,
            "cpu_seconds": each.cpu_s,
            "stack": [f"{file}:{line} in {module}.{name}" for file, line, module, name in reversed(each.frames)],
        }
        for each in (info.stack.threads if info.stack is not None else ())
    ]


def _family(family: dict[str, Histogram]) -> list[dict[str, Any]]:
    """Percentiles of all kinds together, then by kind."""
    every = Histogram().merge(family.values())
    kinds = [("all", every), *sorted(family.items(), key=lambda item: -item[1].count)]
    return [{"kind": kind, **_percentiles(each)} for kind, each in kinds if each.count]


def _lengths(histogram: Histogram) -> dict[str, Any]:
    """How long all runs of a callback were."""
    up_to = histogram.cumulative()
    return {
        "p50_seconds": histogram.quantile(0.5),
        "p99_seconds": histogram.quantile(0.99),
        "runs_by_duration": [count - before for before, count in zip([0, *up_to], up_to, strict=False)],
    }


def _percentiles(histogram: Histogram) -> dict[str, Any]:
    return {
        "count": histogram.count,
        "sum_seconds": histogram.sum,
        "p50_seconds": histogram.quantile(0.5),
        "p90_seconds": histogram.quantile(0.9),
        "p99_seconds": histogram.quantile(0.99),
        "p999_seconds": histogram.quantile(0.999),
        "longest_seconds": histogram.maximum,
    }


# -- parts of a process


def _stalls(process: ProcessStatistics, wall: Callable[[float], float | None]) -> list[dict[str, Any]]:
    """The latest slow runs, in order."""
    try:
        known = stalls_of(process)
    except LookupError:
        return []
    out = []
    for index in [*known.earlier, known.index]:
        for key in index.slow_runs()[-_STALLS:]:
            info = index.lookup(*key)
            if info is not None:
                out.append(
                    {
                        "start": wall(info.start),
                        "seconds": index.length_of(*key),
                        "callback": info.callback,
                        "culprit": info.culprit,
                        "held_by": [{"culprit": name, "seconds": held} for name, held in info.held.items()],
                        "cause": info.parts.cause or None,
                        "throttled_seconds": info.parts.throttled,
                        "holder": _holder(info.holder),
                        "threads": _threads(info),
                        "blocked_seconds": info.bill.exact if info.bill is not None else None,
                        "stack": _stack(info),
                    }
                )
    return out[-_STALLS:]


def _blocked(process: ProcessStatistics) -> list[dict[str, Any]]:
    """Who waited for whom, most first."""
    try:
        known = stalls_of(process)
    except LookupError:
        return []
    pairs = sum_of(index.matrix for index in [*known.earlier, known.index])
    return [
        {
            "callback": callback,
            "culprit": culprit,
            "victim": victim,
            "victim_name": readable(victim),
            "times": entry.handles,
            "seconds": entry.exact,
            "own_times": entry.own_handles,
            "own_seconds_at_most": entry.at_most,
        }
        for (callback, culprit, victim), entry in sorted(pairs.items(), key=lambda item: -item[1].exact)[:ROWS]
    ]


def _executor(label: str, totals: ExecutorTotals) -> dict[str, Any]:
    full = totals.saturation
    return {
        "executor": label,
        "max_workers": totals.max_workers or None,
        "workers": totals.workers,
        "waiting": max(0, totals.waiting),
        "active": max(0, totals.active),
        "queued": _percentiles(totals.queue_durations),
        "ran": _percentiles(totals.run_durations),
        "returned": _percentiles(totals.return_delays),
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
