"""Where tasks waited, as a section of a process in the report."""

from __future__ import annotations

import time

from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.reading.statistics.wait_series import Waited
from traceloop.reading.statistics.waits import LOOK_SECONDS, AwaitPlace
from traceloop.record.plumbing import readable

from .tables import Style, clean, count, counted, percent, seconds, table

_ROWS = 3
#: Waiting that is a server's or a worker's rest rather than a problem is left to `--full` and the metrics.
_LEAST_SECONDS = 1.0
#: A look at all tasks that takes so long (s) is one of many tasks: a part of them is looked at.
_MANY_SECONDS = 2.0


def waits(process: ProcessStatistics, style: Style, full: bool) -> list[str]:
    """A row for each coroutine and place, most time first; nothing where no wait of a second was seen.

    ``full``: every place, those too where less than a second was waited.
    """
    now = time.monotonic()
    least = 0.0 if full else _LEAST_SECONDS
    every = process.wait_series.most(now, running=process.attached)
    found = sorted((each for each in every if each.shown_s >= least), key=lambda each: -each.shown_s)
    if not found:
        return []
    header = ["where tasks waited", "for", "task", "waits", "in all", "longest", "now"]
    shown = found if full else found[:_ROWS]
    rows = [_row(each) for each in shown]
    lines = table(style, header, rows, names=3)
    notes = []
    if any(each.rough or each.seen_once for each in shown):
        shorter = f"waits shorter than {seconds(process.waits.period)} are seen by chance"
        notes.append(f"{'~ estimated: ' if any(each.rough for each in shown) else ''}{shorter}")
    if len(found) > len(shown):
        notes.append(f"and {counted(len(found) - len(shown), 'more place')} (--full)")
    if notes:
        lines.append(style.dim(f"    {'; '.join(reversed(notes))}"))
    period = process.waits.period
    if period >= _MANY_SECONDS:
        part = f"{percent(LOOK_SECONDS / period)} of them a second, each once in {seconds(period)}"
        lines.append(style.dim(f"    there were too many tasks to look at each: {part}"))
    return lines


def _row(each: Waited) -> list[str]:
    mark = "~" if each.rough else ""
    return [
        where(each.place),
        each.place.inside,
        readable(each.coroutine),
        count(each.waits),
        mark + seconds(each.shown_s),
        seconds(each.longest_s),
        count(each.now) if each.now else "",
    ]


def where(place: AwaitPlace) -> str:
    """``views.py:12``, or the function where its file is not known."""
    return f"{clean(place.file).rpartition('/')[2]}:{place.line}" if place.file else clean(place.function)
