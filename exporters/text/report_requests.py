"""The requests of a process in the report: by name, then the slowest one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from traceloop.reading.requests.parts import requests_of
from traceloop.reading.requests.stretches import Part
from traceloop.reading.requests.totals import NameTotals, Request, grouped
from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.record.plumbing import readable

from .tables import Style, clean, count, counted, seconds, table

_FEW = 5
_GROUPS = ("running", "ready", "executor", "waiting", "unknown")
_PERCENTILES = (("p50", 0.5), ("p99", 0.99))
# What the details of a part are called in a sentence.
_WORDS = {
    "running": "running",
    "ready": "ready",
    "executor_queue": "queued in executor",
    "executor_run": "in executor",
    "executor_return": "result on its way from executor",
    "wait_timer": "timer,",
    "wait_network": "network,",
    "wait_task": "another task,",
    "wait_thread": "thread,",
    "wait_other": "waiting,",
    "unknown": "not known",
}


def requests(process: ProcessStatistics, style: Style, full: bool) -> list[str]:
    """A row for each name, most time first, with the mean and its parts; nothing where no request was answered. In full
    also where the requests around the percentiles spent their time, and the slowest ones.
    """
    known = requests_of(process)
    if known is None or not known.by_name:
        return []
    ranked = known.most()
    shown = ranked if full else ranked[:_FEW]
    rows = [_row(name, totals) for name, totals in shown]
    header = ["requests", "count", "p50", "p99", *_GROUPS, "at p99 most"]
    lines = table(style, header, rows)
    lines.append(style.dim("    running to waiting: means, which add up to the mean duration, not to p50 or p99"))
    if len(ranked) > len(shown):
        lines.append(style.dim(f"    and {counted(len(ranked) - len(shown), 'more name')}"))
    if known.incomplete:
        lines.append(style.dim(f"    {counted(known.incomplete, 'request')} could not be followed to the end"))
    if not full:
        return lines
    rows = [row for name, totals in shown for row in _around(name, totals)]
    lines += ["", *table(style, ["requests around", "", "took", *_GROUPS], rows, names=2)]
    lines.append(style.dim("    means of the requests that took about as long: the parts add up to what they took"))
    rows = [_slow(request) for request in known.slowest()]
    return [*lines, "", *table(style, ["slowest requests", "most of all", "took", *_GROUPS], rows, names=2)]


def _row(name: str, totals: NameTotals) -> list[str]:
    means = {part: spent / totals.count for part, spent in grouped(totals.parts).items()}
    at_p99 = totals.typical(0.99)
    most = max(at_p99, key=lambda part: at_p99[part], default="")
    return [
        clean(name),
        count(totals.count),
        seconds(totals.durations.quantile(0.5)),
        seconds(totals.durations.quantile(0.99)),
        *(seconds(means[group]) if means.get(group) else "" for group in _GROUPS),
        f"{_WORDS.get(most, most).rstrip(',')} {seconds(at_p99[most])}" if most else "",
    ]


def _around(name: str, totals: NameTotals) -> Iterator[list[str]]:
    means = [("the mean", {part: spent / totals.count for part, spent in totals.parts.items()})]
    for which, parts in means + [(percentile, totals.typical(share)) for percentile, share in _PERCENTILES]:
        spent = grouped(parts)
        shown = (seconds(spent[group]) if spent.get(group) else "" for group in _GROUPS)
        yield [clean(name), which, seconds(sum(spent.values())), *shown]


def _slow(request: Request) -> list[str]:
    spent = grouped(request.parts)
    return [
        clean(request.name),
        _most(request.parts),
        seconds(request.seconds),
        *(seconds(spent[group]) if spent.get(group) else "" for group in _GROUPS),
    ]


def _most(parts: Mapping[Part, float]) -> str:
    """The largest part in words: ``ready behind app.parse 519 ms``."""
    if not parts:
        return ""
    kind, detail = max(parts, key=lambda part: parts[part])
    where = detail
    if detail.startswith("behind "):
        where = f"behind {readable(detail.removeprefix('behind '))}"
    return f"{_WORDS.get(kind, kind)} {clean(where)}".rstrip(" ,") + f" {seconds(parts[kind, detail])}"
