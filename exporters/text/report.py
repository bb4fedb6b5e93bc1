"""The text report of a run, and the line that sums it up."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Container, Iterable, Iterator

from traceloop.reading.findings.model import Finding
from traceloop.reading.findings.scope import Scope
from traceloop.reading.findings.slow_runs import causes_of
from traceloop.reading.findings.verdict import verdict
from traceloop.reading.statistics.callbacks import CallbackTotals
from traceloop.reading.statistics.executors import ExecutorTotals
from traceloop.reading.statistics.histograms import Histogram
from traceloop.reading.statistics.loop import LoopStatistics
from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.reading.statistics.run import Statistics
from traceloop.record import layout
from traceloop.record.plumbing import readable
from traceloop.record.sites import UNKNOWN_LABEL

from . import (
    report_blocking,
    report_findings,
    report_loops,
    report_profile,
    report_requests,
    report_resources,
    report_stalls,
    report_waits,
)
from .tables import Style, bar, clean, count, counted, percent, seconds, shorten, size, table, visible

#: Rows of a table of callbacks.
TOP = 10
#: Loops of one process that are shown: the busiest.
TOP_LOOPS = 8
#: In the short report, more loops than these are a row each.
FEW_LOOPS = 2
#: Processes that it shows; each other one is a row.
FEW_PROCESSES = 2
_QUANTILES = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"))

#: Rows of a table of the short report.
FEW = 4

_MORE = "All tables: traceloop report --full. The words: traceloop explain reading-a-report"


def report(statistics: Statistics, color: bool = False, width: int = 100, full: bool = False) -> str:
    """The report of everything that was read, ended in a line break: first what is wrong, then tables.

    ``width``: characters of a line, 60 at least. ``full``: every table with all its columns and rows.
    """
    style = Style(color, width)
    with statistics.lock:
        judged = verdict(statistics)
        lines = [style.bold(line) for line in textwrap.wrap(f"traceloop: {_overview(statistics)}", style.width)]
        lines += ["", *report_findings.findings(judged, style, len(statistics.processes), full)]
        those = [found.who for found in judged.troubles if found.who is not None]
        named = {who.function for who in those} | {who.callback for who in those}
        processes = [process for _, process in sorted(statistics.processes.items())]
        shown = processes if full else _worth_showing(processes, judged.troubles)
        for process in processes:
            if process in shown:
                lines += ["", *_process(process, style, full, named)]
        if len(processes) > len(shown):
            lines += ["", *report_loops.processes([each for each in processes if each not in shown], style)]
        if processes and not full:
            lines += ["", *(style.dim(line) for line in textwrap.wrap(_MORE, style.width))]
    return "\n".join(lines) + "\n"


def summary(statistics: Statistics) -> str:
    """One line: loops, callbacks, utilization, slow callbacks, and the worst finding, whatever its kind."""
    with statistics.lock:
        judged = verdict(statistics)
        return f"{_overview(statistics)}; {'worst: ' if judged.troubles else ''}{clean(judged.line)}"


def _overview(statistics: Statistics) -> str:
    loops = list(statistics.loops())
    how_many = sum(loop.loops for loop in loops)
    parts = [counted(how_many, "loop")]
    processes = sum(process.processes for process in statistics.processes.values())
    if processes > 1:
        parts[0] += f" in {counted(processes, 'process', 'processes')}"
    parts.append(counted(sum(loop.callbacks.runs for loop in loops), "callback"))
    times = [loop.times() for loop in loops]
    active, total = sum(each[0] for each in times), sum(sum(each) for each in times)
    parts.append(f"{percent(active / total if total else 0.0)} utilization")
    slow_runs = sum(loop.callbacks.slow_runs for loop in loops)
    parts.append(counted(slow_runs, "slow callback") if slow_runs else "no slow callbacks")
    overwritten = sum(process.overwritten for process in statistics.processes.values())
    lost = sum(process.lost for process in statistics.processes.values())
    if overwritten:
        parts.append(f"{counted(overwritten, 'older record')} overwritten")
    if lost:
        parts.append(f"{counted(lost, 'record')} dropped")
    parts += _spans_sent(statistics)
    return ", ".join(parts)


def _spans_sent(statistics: Statistics) -> list[str]:
    """How many spans were sent and dropped, where any exporter was asked for."""
    sent = dropped = -1
    for samples in statistics.extra:
        for name, _, value in samples():
            if name == "traceloop_spans_exported_total":
                sent = max(0, sent) + int(value)  # type: ignore[arg-type]
            elif name == "traceloop_spans_dropped_total":
                dropped = max(0, dropped) + int(value)  # type: ignore[arg-type]
    out = [f"{counted(sent, 'span')} sent"] if sent >= 0 else []
    return [*out, f"{counted(dropped, 'span')} dropped"] if dropped > 0 else out


# -- a process


def _worth_showing(processes: list[ProcessStatistics], troubles: Iterable[Finding]) -> list[ProcessStatistics]:
    """Those with the worst findings, one for each finding that several have alike; without any the busiest."""
    ranked = [found.process for found in report_findings.worst_of_each(troubles) if not found.is_the_machines]
    slots = [*dict.fromkeys(ranked)][:FEW_PROCESSES]
    found = [each for each in processes if each.slot in slots]
    return found or sorted(processes, key=report_loops.busiest_first)[:1]


def _process(process: ProcessStatistics, style: Style, full: bool, named: Container[str]) -> Iterator[str]:
    """One process. ``named``: the functions that the findings name."""
    scope = Scope(process, time.monotonic())
    facts = [f"pid {process.pid}"] if process.pid else []
    if process.processes > 1:
        facts.append(f"the last of {process.processes} in this slot")
    if process.description.get("python"):
        facts.append(f"Python {process.description['python']}")
    title = f"Process {process.slot}"
    rest = ", ".join(facts)
    command = clean(str(process.description.get("command", "")))
    line = f"{title}  {rest}  "
    yield style.bold(title) + style.dim(f"  {rest}  {shorten(command, max(10, style.width - len(line)))}".rstrip())
    yield from _wrapped(_usage(process, style, full), ", ", style)
    loops = list(process.loops.values())
    if len(loops) > FEW_LOOPS and not full:
        yield from report_loops.loops(loops, style, TOP_LOOPS)
        yield ""
        yield from _most_time(loops, style, FEW)
    else:
        yield from _loops(loops, scope, style, full, named)
    lines = report_profile.profile(process, style, full)
    if lines:
        yield ""
        yield from lines
    stalls = report_stalls.stalls(process, style) if full else []
    if stalls:
        yield ""
        yield from stalls
    answered = report_requests.requests(process, style, full)
    if answered:
        yield ""
        yield from answered
    waited = report_waits.waits(process, style, full)
    if waited:
        yield ""
        yield from waited
    executors = [each for each in process.executors.executors.values() if each.queue_durations.count or each.waiting]
    if executors:
        yield ""
        yield from _executors(executors, style, full)
        if full:
            yield from report_resources.saturation(executors, style)
    blocking = report_blocking.blocking_calls(process, style)
    if blocking:
        yield ""
        yield from blocking
    interrupted = report_resources.collections(process, style)
    if interrupted and full:
        yield ""
        yield from interrupted
    grown = report_resources.growth(process, style)
    if grown and full:
        yield ""
        yield from grown


def _wrapped(parts: Iterable[str], between: str, style: Style) -> Iterator[str]:
    """The parts in a row, on as many lines as they take. They may be painted."""
    line = ""
    for part in parts:
        if line and visible(line) + len(between) + visible(part) > style.width - 2:
            yield f"  {line}{between.rstrip()}"
            line = f"  {part}"
        else:
            line += between + part if line else part
    if line:
        yield f"  {line}"


def _usage(process: ProcessStatistics, style: Style, full: bool) -> Iterator[str]:
    usage = process.usage
    if usage is not None:
        yield f"memory {size(usage.resident_bytes)} (at most {size(process.most_resident_bytes)})"
    elif process.most_resident_bytes:
        yield f"memory at most {size(process.most_resident_bytes)}"
    if process.memory.most_blocks and full:
        yield f"{count(process.memory.most_blocks)} allocated blocks at most"
    pauses = process.collections.pauses
    if pauses:
        every = Histogram().merge(pauses.values())
        yield (
            f"{counted(every.count, 'collection')} of garbage "
            f"({seconds(every.sum)} in all, {seconds(every.maximum)} at most)"
        )
    for heap, events in process.growth.events.items():
        if events:
            yield style.bad(f"the {heap} heap was seen to grow {counted(events, 'time')}")
    yield counted(process.records, "record")
    if process.overwritten:
        yield f"the {count(process.overwritten)} oldest of them overwritten"
    if process.lost:
        yield style.bad(f"{count(process.lost)} of them dropped")


# -- a loop


def _loops(loops: list[LoopStatistics], scope: Scope, style: Style, full: bool, named: Container[str]) -> Iterator[str]:
    busiest = report_loops.ranked(loops)
    shown = busiest[:TOP_LOOPS]
    for loop in loops:
        if loop in shown:
            if full or len(loops) > 1:
                yield ""
            yield from _loop(loop, scope, style, full, named)
    if len(busiest) > len(shown):
        runs = sum(loop.callbacks.runs for loop in busiest[TOP_LOOPS:])
        yield ""
        yield style.dim(f"  and {counted(len(busiest) - TOP_LOOPS, 'more loop')} with {counted(runs, 'callback')}")


def _loop(loop: LoopStatistics, scope: Scope, style: Style, full: bool, named: Container[str]) -> Iterator[str]:
    active, idle = loop.times()
    share = active / (active + idle) if active + idle else 0.0
    title = f"Loop {clean(loop.label)}"
    if loop.loops > 1:
        title += f" ({loop.loops} loops, one after the other)"
    yield "  " + style.bold(title)
    paint = style.bad if share > 0.9 else style.warn if share > 0.7 else style.good
    yield f"    active {seconds(active)} {paint(bar(share, 20))} {percent(share)}, idle {seconds(idle)}"
    if loop.running_at_end:
        yield "    " + style.bad("its process ended while the loop was running handles")
    elif loop.is_open and (running := loop.running_seconds()) > 1.0:
        yield "    " + style.bad(f"has been running for {seconds(running)} without a poll")
    facts = ["; ".join(_counts(loop)), *([] if full else _percentiles(loop))]
    for each in facts:
        yield from textwrap.wrap(each, style.width, initial_indent="    ", subsequent_indent="      ")
    sections = (
        _delays_and_durations(loop, style) if full else [],
        _most_time([loop], style, TOP if full else FEW),
        report_resources.tasks(loop, style, full),
        _slow(loop, scope, style, TOP) if full else _slow(loop, scope, style, FEW, named),
    )
    for lines in sections:
        if lines:
            yield ""
            yield from lines


def _counts(loop: LoopStatistics) -> Iterator[str]:
    yield f"{counted(loop.iterations, 'iteration')} with {counted(loop.callbacks.runs, 'callback')}"
    finished = loop.tasks_finished()
    ends = [f"{count(number)} {outcome}" for outcome, number in finished.items() if number and outcome != "result"]
    text = f"tasks: {count(loop.tasks_created)} made, {count(sum(finished.values()))} ended"
    yield text + (f" ({', '.join(ends)})" if ends else "")
    timer_delays = loop.callbacks.delays.get("timer")
    if timer_delays is not None:
        text = f"timers: {count(timer_delays.count)} ran, late by {seconds(timer_delays.quantile(0.99))} (p99)"
        if loop.is_open:
            cancelled = loop.gauge(layout.W_TIMERS_CANCELLED)
            text += f", {count(loop.gauge(layout.W_TIMERS) - cancelled)} waiting"
            text += f", {count(cancelled)} cancelled" if cancelled else ""
        yield text
    moved_in, moved_out = loop.counter(layout.W_BYTES_IN), loop.counter(layout.W_BYTES_OUT)
    if moved_in or moved_out:
        yield f"transports: {size(moved_in)} in, {size(moved_out)} out"
    yield from report_resources.transports(loop)


def _percentiles(loop: LoopStatistics) -> Iterator[str]:
    """How late callbacks ran, and how long."""
    for title, family in (("schedule delay", loop.callbacks.delays), ("duration", loop.callbacks.durations)):
        every = Histogram().merge(family.values())
        if every.count:
            parts = [f"{seconds(every.quantile(share))} {name}" for share, name in _QUANTILES[:-1]]
            yield f"{title} of callbacks: {', '.join(parts)}, {seconds(every.maximum)} longest"


def _delays_and_durations(loop: LoopStatistics, style: Style) -> list[str]:
    """Percentiles of what ran, by kind of callback."""
    rows: list[list[str]] = []
    empty = Histogram()
    for title, family in (("schedule delay", loop.callbacks.delays), ("duration", loop.callbacks.durations)):
        kinds = sorted(family.items(), key=lambda each: -each[1].count)
        if len(kinds) > 1:
            kinds.insert(0, ("all", Histogram().merge(family.values())))
        for position, (kind, histogram) in enumerate(kinds or [("all", empty)]):
            rows.append(
                [title if position == 0 else "", kind, count(histogram.count)]
                + [seconds(histogram.quantile(share)) for share, _ in _QUANTILES]
                + [seconds(histogram.maximum)]
            )
    if loop.poll_delays.count:
        rows.append(
            ["poll delay", "", count(loop.poll_delays.count)]
            + [seconds(loop.poll_delays.quantile(share)) for share, _ in _QUANTILES]
            + [seconds(loop.poll_delays.maximum)]
        )
    header = ["", "kind", "runs", *(name for _, name in _QUANTILES), "longest"]
    return table(style, header, rows, names=2) if loop.callbacks.runs else []


def _by_name(callbacks: Iterable[CallbackTotals]) -> list[CallbackTotals]:
    """One for each readable name: what several functions of the loop do together is one thing to the reader."""
    out: dict[str, CallbackTotals] = {}
    for each in callbacks:
        name = readable(each.label)
        totals = out.setdefault(name, CallbackTotals(name))
        totals.runs += each.runs
        totals.seconds += each.seconds
        totals.longest_s = max(totals.longest_s, each.longest_s)
    return list(out.values())


def _most_time(loops: list[LoopStatistics], style: Style, limit: int) -> list[str]:
    """The callbacks that took most time, up to ``limit``."""
    every = (each for loop in loops for each in loop.callbacks.callbacks.values())
    callbacks = sorted(_by_name(every), key=lambda each: -each.seconds)
    total = sum(each.seconds for each in callbacks)
    rows = [
        [
            each.label,
            count(each.runs),
            seconds(each.seconds),
            percent(each.seconds / total if total else 0.0),
            seconds(each.seconds / each.runs if each.runs else 0.0),
            seconds(each.longest_s),
        ]
        for each in callbacks[:limit]
        if each.seconds > 0.0
    ]
    left_out = len(callbacks) - len(rows)
    lines = table(style, ["callbacks by time", "runs", "time", "share", "mean", "longest"], rows)
    if left_out > 0:
        lines.append(style.dim(f"    and {counted(left_out, 'more callback')}"))
    return lines


def _slow(loop: LoopStatistics, scope: Scope, style: Style, limit: int, named: Container[str] = ()) -> list[str]:
    """The slow callbacks: whose fault, why, and what they did to others; without those that the findings name."""
    threshold = seconds(loop.callbacks.threshold)
    if not loop.callbacks.slow:
        if threshold == "∞":
            return ["    " + style.dim("no callback counts as slow: loop.slow_callback_duration is infinite")]
        return ["    " + style.good(f"no callback ran for {threshold} or longer")]
    slow = sorted(loop.callbacks.slow.items(), key=lambda each: -each[1].seconds)
    slow = [each for each in slow if each[0][0 if each[0][1] == UNKNOWN_LABEL else 1] not in named]
    causes = causes_of(scope)
    rows = [
        [
            readable(callback),
            "itself" if culprit == callback else "not known" if culprit == UNKNOWN_LABEL else culprit,
            causes.get(callback if culprit == UNKNOWN_LABEL else culprit, ""),
            count(totals.runs),
            seconds(totals.seconds),
            style.bad(seconds(totals.longest_s)),
            seconds(totals.blocked_s) if totals.blocked_s > 0.0 else "-",
        ]
        for (callback, culprit), totals in slow[:limit]
    ]
    header = [f"slow (≥ {threshold})", "culprit", "cause", "runs", "time", "longest", "others waited"]
    lines = table(style, header, rows, names=3)
    if len(slow) > limit:
        lines.append(style.dim(f"    and {count(len(slow) - limit)} more"))
    return lines


# -- executors


def _executors(executors: list[ExecutorTotals], style: Style, full: bool) -> list[str]:
    rows = []
    for each in sorted(executors, key=lambda each: -each.run_durations.sum):
        rows.append(
            [
                each.label,
                count(each.run_durations.count),
                count(each.gave_up) if each.gave_up else "",
                seconds(each.run_durations.sum),
                seconds(each.queue_durations.quantile(0.5)),
                seconds(each.queue_durations.quantile(0.99)),
                seconds(each.run_durations.quantile(0.5)),
                seconds(each.run_durations.quantile(0.99)),
                seconds(each.return_delays.quantile(0.99)),
            ]
        )
    lines = ["  " + style.bold("Executors")] if full else []
    header = ["executor", "runs", "gave up", "time", "queued p50", "p99", "ran p50", "p99", "returned p99"]
    if not any(each.gave_up for each in executors):
        header, rows = [*header[:2], *header[3:]], [[*row[:2], *row[3:]] for row in rows]
    lines += table(style, header, rows)
    if not full:
        return lines
    for each in executors:
        lines += report_resources.workers(each, style)
    functions = [
        (executor.label, name, totals) for executor in executors for name, totals in executor.functions.items()
    ]
    functions.sort(key=lambda each: -each[2].seconds)
    rows = [
        [name, label, count(totals.runs), seconds(totals.seconds), seconds(totals.seconds / max(1, totals.runs))]
        for label, name, totals in functions[:TOP]
        if totals.runs
    ]
    if rows:
        lines += ["", *table(style, ["offloaded functions by time", "executor", "runs", "time", "mean"], rows, names=2)]
    return lines
