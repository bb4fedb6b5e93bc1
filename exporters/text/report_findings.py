"""The report's beginning: what is wrong, the worst first, with what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from traceloop.reading.findings.model import CRITICAL, NOTE, Finding, Verdict, together

from .tables import Style, clean, counted

#: Findings that are shown with all they have; of the rest only the title.
SHOWN = 8
#: Lines of evidence of one finding in the short report.
_EVIDENCE = 2
#: Processes in which a finding is the same, that are named.
_OTHERS = 4


def findings(verdict: Verdict, style: Style, processes: int = 1, full: bool = False) -> list[str]:
    """The findings, or one line that there are none and on what that rests. ``processes``: of the run."""
    troubles = verdict.troubles
    notes = together(found for found in verdict.findings if found.severity == NOTE)
    if not troubles:
        paint = style.warn if verdict.is_blank else style.good
        lines = [paint(line) for line in _wrap(f"{verdict.all_clear.capitalize()}: {verdict.basis}.", 0, style)]
    groups = together(troubles)
    if troubles:
        where = ""
        if len(groups) < len(troubles):
            those = counted(len({found.process for found in troubles}), "process", "processes")
            where = f"{' in' if len(groups) == 1 else ', over'} {those}"
        lines = [style.bold(f"{counted(len(groups), 'finding')}{where}, the worst first")]
    limit = len(groups) if full else SHOWN
    for number, (found, *others) in enumerate(groups[:limit], 1):
        lines += ["", *_finding(number, found, others, style, processes, full)]
    for number, (found, *others) in enumerate(groups[limit:], limit + 1):
        also = f"; {_likewise(others)}" if others else ""
        lines += _wrap(f"{number}  {found.title}: {found.harm}{also}", 0, style, hang=3)
    if verdict.busy:
        lines += [""] if troubles else []
        for sentence in verdict.busy:
            lines += _wrap(f"{sentence}.", 0, style)
    if notes:
        lines.append("")
        for found, *others in notes[: None if full else SHOWN]:
            also = f"; {_likewise(others)}" if others else ""
            text = f"note: {found.title}: {found.harm}{also}. {found.remedy}"
            lines += [style.dim(line) for line in _wrap(text, 0, style, hang=6)]
        if len(notes) > SHOWN and not full:
            lines.append(style.dim(f"note: and {len(notes) - SHOWN} more"))
    return lines


def worst_of_each(troubles: Iterable[Finding]) -> list[Finding]:
    """Of findings that several processes have alike the worst one, the worst of all first."""
    return [found for found, *_ in together(troubles)]


def _likewise(others: list[Finding]) -> str:
    some = "; ".join(f"in process {each.process}: {each.harm}" for each in others[:_OTHERS])
    more = f"; and in {counted(len(others) - _OTHERS, 'more process', 'more processes')}"
    return f"likewise {some}" + (more if len(others) > _OTHERS else "")


def _finding(
    number: int, found: Finding, others: list[Finding], style: Style, processes: int, full: bool
) -> Iterator[str]:
    paint = style.bad if found.severity == CRITICAL else style.warn
    where = f" (process {found.process})" if processes > 1 else ""
    for line in _wrap(f"{number:>2}  {found.title}{where}", 0, style, hang=4):
        yield paint(line)
    yield from _wrap(found.harm, 4, style)
    if others:
        yield from _wrap(_likewise(others), 4, style)
    for line in found.evidence[: None if full else _EVIDENCE]:
        yield from (style.dim(each) for each in _wrap(line, 4, style))
    # The first line of the stack is in the title already.
    if len(found.stack) > 1:
        yield from (style.dim(each) for each in _wrap("called by " + ", by ".join(found.stack[1:]), 4, style))
    *lines, last = _wrap(f"What to do: {found.remedy}", 4, style)
    yield from lines
    # On a line of its own where it does not fit: it is there to be copied.
    more = f"More: {found.explained_by}"
    if len(last) + 1 + len(more) <= style.width:
        yield f"{last} {style.dim(more)}"
    else:
        yield last
        yield "    " + style.dim(more)


def _wrap(text: str, indent: int, style: Style, hang: int = 0) -> list[str]:
    return textwrap.wrap(
        clean(text),
        style.width,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hang),
        break_on_hyphens=False,
    )
