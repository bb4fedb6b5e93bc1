"""Parts of the report: tasks by coroutine, heaps that grew, executors that were full."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator

from traceloop.reading.statistics.alive_tasks import MAX_ALIVE
from traceloop.reading.statistics.executors import ExecutorTotals
from traceloop.reading.statistics.growth import HeapGrowth
from traceloop.reading.statistics.loop import LoopStatistics
from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.record import layout
from traceloop.record.plumbing import readable

from .tables import Style, clean, count, counted, seconds, shorten, table

_COROUTINES = 6
_OLDEST = 3
_GROWTHS = 3
_FILLERS = 3
_INTERRUPTED = 5
#: Tasks younger than this are none that live for long, s.
_CROWD = 100
_OLD_SECONDS = 10.0


def tasks(loop: LoopStatistics, style: Style, full: bool) -> list[str]:
    """In full the coroutines by time in steps; those whose tasks pile up or are lost; and the oldest tasks alive."""
    rows = [
        [
            label,
            count(totals.count),
            count(totals.steps),
            seconds(totals.running),
            seconds(totals.ready),
            seconds(totals.suspended),
            seconds(totals.longest_step),
        ]
        for label, totals in loop.tasks.most_time(_COROUTINES)
    ]
    if not rows:
        return []
    header = ["coroutines by time", "tasks", "steps", "running", "ready", "suspended", "longest"]
    lines = table(style, header, rows) if full else []
    crowds = _crowds(loop, style, full)
    lines += ["", *crowds] if lines and crowds else crowds
    now = time.monotonic()
    for task in loop.tasks.oldest(_OLDEST):
        age = now - task.since
        if age >= _OLD_SECONDS:
            text = f"alive for {seconds(age)}: {clean(task.coroutine)}"
            text += f" and {counted(task.alive - 1, 'more task')} of it" if task.alive > 1 else ""
            lines.append(style.dim("    " + shorten(text, style.width - 4)))
    return lines


def _crowds(loop: LoopStatistics, style: Style, full: bool) -> list[str]:
    """Coroutines of which many tasks were alive at once, or some were abandoned, and who made them.

    `asyncio.run` cancels what is left when its coroutine ends: the number alive at once tells of tasks that pile up.
    """
    least = 2 if full else _CROWD
    found = [
        (site, totals)
        for site, totals in loop.tasks.coroutines.items()
        if totals.most_alive >= least or totals.abandoned
    ]
    found.sort(key=lambda each: -max(each[1].most_alive, each[1].abandoned))
    rows = []
    for site, totals in found[:_COROUTINES]:
        makers = loop.tasks.creators_of(totals, 1)
        others = len(totals.creators) - 1
        maker = readable(makers[0][0]) + (f" and {counted(others, 'other')}" if others > 0 else "") if makers else "-"
        rows.append(
            [
                readable(loop.tasks.label(site)),
                maker,
                count(totals.most_alive),
                count(totals.count),
                count(totals.results + totals.exceptions),
                count(totals.cancelled),
                count(totals.abandoned),
            ]
        )
    header = ["tasks alive at once", "made by", "most", "made", "ended", "cancelled", "abandoned"]
    lines = table(style, header, rows, names=2)
    if lines and loop.tasks.forgotten:
        known = f"of those alive at once the latest {count(MAX_ALIVE)} are counted"
        lines.append(style.dim(f"    there were too many tasks to follow each: {known}"))
    return lines


def transports(loop: LoopStatistics) -> Iterator[str]:
    """What the transports did besides moving bytes."""
    accepted, refused = loop.counter(layout.W_ACCEPTED), loop.counter(layout.W_REFUSED)
    if accepted or refused:
        yield f"connections: {count(accepted)} accepted" + (f", {count(refused)} refused" if refused else "")
    paused = loop.paused_seconds()
    if paused >= 0.001:
        yield f"writing paused for {seconds(paused)} by slow readers"
    handshakes = loop.counter(layout.W_TLS_HANDSHAKES)
    if handshakes:
        mean = loop.counter(layout.W_TLS_SECONDS) / handshakes
        yield f"{counted(handshakes, 'TLS handshake')}, {seconds(mean)} on average"


def growth(process: ProcessStatistics, style: Style) -> list[str]:
    """The latest detections of growth, and the one whose allocations were traced, with what grew."""
    lines: list[str] = []
    detections = list(process.growth.detections)
    latest = detections[-_GROWTHS:]
    for found in detections:
        if found in latest or found.cost:
            lines += _wrapped(found.text, style.bad, 4, style)
            for line in _details(found):
                lines += _wrapped(line, style.dim, 6, style)
    return ["  " + style.bold("Heaps that grew"), *lines] if lines else []


def _wrapped(text: str, paint: Callable[[str], str], indent: int, style: Style) -> list[str]:
    """The whole text, never cut: it names what grew."""
    width = style.width - indent
    wrapped = textwrap.wrap(clean(text), width, subsequent_indent="  ", break_on_hyphens=False)
    return [" " * indent + paint(line) for line in wrapped]


def _details(found: HeapGrowth) -> Iterator[str]:
    timer = found.heap == "timer"
    if found.top:
        yield ("waiting: " if timer else "lines: ") + _list(found, found.top)
    if found.more:
        yield ("set by: " if timer else "under callbacks: ") + _list(found, found.more)
    if found.cancelled:
        yield f"besides, {counted(found.cancelled, 'cancelled timer')} held their place"
    if found.cost:
        yield (
            f"traced for {seconds(found.cost.get('seconds', 0.0))}, which took "
            f"{count(int(found.cost.get('memory_bytes', 0.0)) >> 20)} MiB and a snapshot of "
            f"{seconds(found.cost.get('snapshot_seconds', 0.0))}"
        )


def _list(found: HeapGrowth, top: tuple[tuple[str, int], ...]) -> str:
    if found.heap == "timer":
        return ", ".join(f"{clean(name)} ({count(number)})" for name, number in top)
    return ", ".join(f"{clean(name)} ({count(number // 1024)} KiB)" for name, number in top)


def collections(process: ProcessStatistics, style: Style) -> list[str]:
    """The callbacks that the garbage collector interrupted for longest."""
    ranked = sorted(process.collections.interrupted.items(), key=lambda item: -item[1].seconds)
    rows = [
        [readable(label), count(totals.count), seconds(totals.seconds), seconds(totals.longest)]
        for label, totals in ranked[:_INTERRUPTED]
    ]
    header = ["interrupted by garbage collection", "times", "time", "longest"]
    return table(style, header, rows)


def workers(executor: ExecutorTotals, style: Style) -> list[str]:
    """Where the workers of an executor stood when it had been full for long."""
    seen = executor.workers_at
    if seen is None:
        return []
    text = f"{executor.label} had been full for {seconds(seen.full_s)}, and {counted(seen.waiting, 'call')} waited"
    lines = _wrapped(text, style.warn, 4, style)
    for number, own, stands in seen.places[:_FILLERS]:
        where = f"{own[0].rpartition('/')[2]}:{own[1]} in {own[3]}"
        below = f", in {stands[2]}.{stands[3]}" if stands != own else ""
        lines += _wrapped(f"{number} of {seen.workers} workers stood at {where}{below}", style.dim, 6, style)
    return lines


def saturation(executors: list[ExecutorTotals], style: Style) -> list[str]:
    """Executors in which calls waited for a worker: what had the workers meanwhile, and who waited for it."""
    lines: list[str] = []
    for each in executors:
        full = each.saturation
        if full.seconds < 0.01 or not full.fillers:
            continue
        total = sum(filler.seconds for filler in full.fillers.values())
        text = (
            f"{each.label} was full for {seconds(full.seconds)}: {counted(full.waits, 'call')} waited {seconds(total)} "
            f"in all, {seconds(full.longest)} at most"
        )
        lines += _wrapped(text, style.warn, 4, style)
        ranked = sorted(full.fillers.items(), key=lambda item: -item[1].seconds)
        for function, filler in ranked[:_FILLERS]:
            if filler.seconds >= 0.01 * total:
                waiters = sorted(filler.waiters.items(), key=lambda item: -item[1])[:_FILLERS]
                who = ", ".join(f"{waiter} {seconds(waited)}" for waiter, waited in waiters)
                share = 100 * filler.seconds / total
                text = f"{function} had {share:.0f}% of its workers then; calls that waited for it: {who}"
                lines += _wrapped(text, style.dim, 6, style)
    return lines
