"""The report's part on the profile: where the loops' time went by line of the application."""

from __future__ import annotations

from traceloop.reading.requests.parts import requests_of
from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.reading.statistics.profile import Line
from traceloop.record.plumbing import readable

from .tables import Style, clean, count, counted, percent, seconds, table

_FEW = 5
_ROWS = 20


def profile(process: ProcessStatistics, style: Style, full: bool) -> list[str]:
    """The lines that took most of the loops' time; nothing where there was no profile."""
    known = process.profile
    if not known.total_samples:
        return []
    limit = _ROWS if full else _FEW
    followed = requests_of(process)
    lines = known.lines(limit + 1, followed.by_name if followed is not None else ())
    total = known.total_seconds
    # A server has one callback for all its requests.
    serves = any(line.request for line in lines)
    rows = [
        [
            _where(line),
            clean(line.request) or readable(line.callback),
            seconds(line.seconds),
            percent(line.seconds / total if total else 0.0),
            count(line.samples),
        ]
        for line in lines[:limit]
    ]
    out = ["  " + style.bold("Where the loop's time went by line")]
    under = "request or callback" if serves else "callback"
    out += table(style, ["line", under, "time", "share", "samples"], rows, names=2)
    if len(lines) > limit:
        out.append(style.dim("    and more lines" + ("" if full else ": --full")))
    about = f"{counted(known.total_samples, 'sample')} at {known.rate:g} Hz"
    if known.cut:
        about += f"; the stacks of {count(known.cut)} are cut short"
    if known.lost:
        about += f"; the stacks of {count(known.lost)} were overwritten"
    out.append(style.dim(f"    {about}; stacks: traceloop export --format collapsed|speedscope|pprof"))
    return out


def _where(line: Line) -> str:
    """``thumbnail, below.py:7``."""
    if not line.file:
        return readable(line.function)
    name = line.function.removeprefix("__main__.")
    return f"{clean(name)}, {clean(line.file).rpartition('/')[2]}:{line.line}"
