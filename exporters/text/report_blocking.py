"""The report's part on calls that may block (`--find-blocking`)."""

from __future__ import annotations

from traceloop.reading.statistics.blocking_calls import Calls, Place
from traceloop.reading.statistics.process import ProcessStatistics

from .tables import Style, clean, count, counted, seconds, table

_ROWS = 20


def blocking_calls(process: ProcessStatistics, style: Style) -> list[str]:
    """What was called on the loop's thread, by place; nothing where it was not looked for, or none was found."""
    totals = process.blocking_calls.totals()
    if not totals:
        return []
    ordered = sorted(_by_line(totals).items(), key=lambda each: (-each[1].seconds, -each[1].times, each[0]))
    rows = [_row(place, calls) for place, calls in ordered[:_ROWS]]
    lines = ["  " + style.bold("Calls that may block, made on the loop's thread")]
    lines += table(style, ["where", "call", "times", "time", "longest"], rows, names=2)
    left = len(ordered) - len(rows)
    if left > 0:
        lines.append(style.dim(f"    and {counted(left, 'more place')}"))
    if process.blocking_calls.left_out:
        lines.append(style.dim(f"    and {counted(process.blocking_calls.left_out, 'call')} at further places"))
    return lines


def _by_line(totals: dict[Place, Calls]) -> dict[Place, Calls]:
    """One entry for each line: everything that one call of the application's does."""
    lines: dict[Place, list[tuple[str, Calls]]] = {}
    for place, calls in totals.items():
        lines.setdefault(place._replace(call=""), []).append((place.call, calls))
    out: dict[Place, Calls] = {}
    for place, entries in lines.items():
        # The one that took the time is the first of each call.
        entries.sort(key=lambda each: (-each[1].seconds, -each[1].times, each[0]))
        out[place._replace(call=", ".join(name for name, _ in entries))] = Calls(
            max(calls.times for _, calls in entries),
            sum(calls.seconds for _, calls in entries),
            max(calls.longest_s for _, calls in entries),
        )
    return out


def _row(place: Place, calls: Calls) -> list[str]:
    known = calls.longest_s >= 0.0
    name = clean(f"{place.module}.{place.qualname}".lstrip("."))
    return [
        f"{name} ({clean(place.file).rpartition('/')[2]}:{place.line})",
        place.call,
        count(calls.times),
        seconds(calls.seconds) if known else "-",
        seconds(calls.longest_s) if known else "-",
    ]
