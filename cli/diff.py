"""`traceloop diff A B`: what became slower between two records."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from .progress import Progress
from .runs import RECORD_OR_PID, command_of, open_record, settings_of, tell_goes_on, tell_problems

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from traceloop.reading.comparison import Change, Comparison, Durations
    from traceloop.reading.shared import Interval

_ROWS = 15
# A smaller difference of the shares is not mentioned.
_LEAST_WAITS = 0.1


@click.command("diff")
@click.argument("a", type=RECORD_OR_PID)
@click.argument("b", type=RECORD_OR_PID)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--full", is_flag=True, help="Print what did not change, too, and what had too few runs.")
@click.option("--width", type=click.IntRange(60, 400), default=None, help="Characters of a line.")
def command(a: str, b: str, as_json: bool, full: bool, width: int | None) -> None:
    """Say what became slower from record A to record B, by callback and by request, and how sure that is.

    A and B are folders of kept runs (`traceloop run --record DIR`), or PIDs of processes that run under `traceloop
    run`: then it compares what their rings hold by now.

    For each name it compares what a run usually takes (the mean without the longest tenth of the runs), and the mean of
    all runs. An interval holds 99 of 100 ratios drawn by a bootstrap over consecutive runs.

    The verdict is slower or faster if the whole interval of the usual ratio is beyond 5 %, and beyond the change of the
    other callbacks; same if it is within 5 %; else unclear. If only the mean of all runs grew, some runs became slower.
    Fewer than 30 runs on a side give no verdict.

    Make both records on the same machine, equally busy: a change that all callbacks share is more likely the machine's.
    """
    from traceloop.reading.comparison import compare_records

    folders = open_record(a), open_record(b)
    goes_on = [tell_goes_on(folder, f"run {name}") for name, folder in zip("AB", folders, strict=True)]
    before, after = (_durations(folder) for folder in folders)
    compared = compare_records(before, after)
    found = {key: getattr(compared, key) for key in ("schedule_delay", "callbacks", "requests")}
    if as_json:
        document: dict[str, Any] = {"schema": "traceloop-diff/1"}
        document |= {
            name: {"record": folder, "command": command_of(folder), "goes_on": living}
            for name, folder, living in zip("ab", folders, goes_on, strict=True)
        }
        document["shared_ratio"] = compared.shift.ratio if compared.shift.others else None
        document["processor_wait_shares"] = [*compared.waits]
        document |= {name: [_row(each) for each in rows] for name, rows in found.items()}
        click.echo(json.dumps(document, indent=2))
        return
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    columns = width or (os.get_terminal_size().columns if sys.stdout.isatty() else 120)
    alike = compared.shift.is_everything and compared.shift.ratio > 1.0
    for line in _text(found, _machine(compared), full, color, columns, alike):
        click.echo(line)


def _durations(folder: str) -> Durations:
    from traceloop.reading.comparison import Durations
    from traceloop.reading.findings.scope import waiting_share
    from traceloop.reading.follower import RunFollower
    from traceloop.reading.new_statistics import make_statistics

    out = Durations()
    follower = RunFollower(folder, make_statistics(settings_of(folder), out.take_request))
    progress = Progress()
    with follower.statistics.lock:
        for chunks in follower.chunks():
            for chunk in chunks:
                out.take(chunk)
            progress.show(follower)
        out.waits = waiting_share(follower.statistics)
    progress.close()
    tell_problems(follower.problems, folder, follower.statistics)
    if not out.callbacks:
        raise click.ClickException(f"no callback ran in the record in {folder}: there is nothing to compare")
    return out


def _row(change: Change) -> dict[str, Any]:
    return {
        "name": change.name,
        "verdict": change.verdict,
        "runs": [change.runs_a, change.runs_b],
        "usual_seconds": [change.usual_a, change.usual_b],
        "mean_seconds": [change.mean_a, change.mean_b],
        "usual_ratio": change.usual._asdict() if change.usual is not None else None,
        "mean_ratio": change.mean._asdict() if change.mean is not None else None,
        "added_seconds": change.added_s if change.mean is not None else None,
    }


def _machine(compared: Comparison) -> str:
    """A sentence on the change that all callbacks share; "" where there is none."""
    from traceloop.reading.comparison import FASTER, SLOWER

    shift, (before, after) = compared.shift, compared.waits
    waits = ""
    if abs(after - before) >= _LEAST_WAITS:
        waits = f"The loops waited for a processor for {before:.0%} of the time they had work in A, {after:.0%} in B"
    if not shift.is_everything:
        return waits
    how = "slower" if shift.ratio > 1.0 else "faster"
    judged = {each.verdict for each in (*compared.requests, *compared.callbacks)}
    what = "Everything else" if judged & {SLOWER, FASTER} else "Everything"
    said = f"{what} became {how} alike ({shift.ratio:.2f}x as long)"
    if shift.is_the_loop_too:
        said += ", the loop's own functions too: rather the machine than the code"
    else:
        said += ": the machine, or what all of them use"
    return f"{said}. {waits}" if waits else said


def _text(
    found: dict[str, list[Change]], machine: str, full: bool, color: bool, width: int, slower_alike: bool = False
) -> list[str]:
    """The lines to print. machine: the sentence on the shared change. slower_alike: whether all became slower."""
    from traceloop.exporters.text.tables import Style, clean, counted
    from traceloop.reading.comparison import FASTER, ONLY_A, ONLY_B, SLOWER, SOME_SLOWER
    from traceloop.record.plumbing import readable

    style = Style(color, width)
    plumbing: set[str] = set()
    for key, rows in found.items():
        named = _named(rows)
        plumbing |= {new.name for new, old in zip(named, rows, strict=True) if readable(old.name) != old.name}
        found = found | {key: named}
    kind, headline = _headline(found, plumbing, slower_alike)
    lines = [{SLOWER: style.bad, SOME_SLOWER: style.warn, FASTER: style.good}.get(kind, str)(clean(headline))]
    lines += [machine] if machine else []
    unchanged = []
    worth = (SLOWER, SOME_SLOWER, FASTER, ONLY_A, ONLY_B)
    for title, key in (("Requests", "requests"), ("Callbacks", "callbacks"), ("Schedule delay", "schedule_delay")):
        rows = [each for each in found[key] if full or key == "schedule_delay" or each.verdict in worth]
        left = len(found[key]) - len(rows)
        if not rows:
            unchanged += [counted(left, title.lower().removesuffix("s"))] if left else []
            continue
        lines += ["", style.bold(title), *_table(rows if full else rows[:_ROWS], style)]
        left += 0 if full else max(0, len(rows) - _ROWS)
        if left:
            lines.append(style.dim(f"    and {left} more (--full)"))
    if unchanged:
        lines += ["", style.dim(f"Not shown: {' and '.join(unchanged)} without a verdict of slower or faster (--full)")]
    return lines


def _named(rows: list[Change]) -> list[Change]:
    """The changes with readable names: plumbing is named by what it does, with its function where several do that."""
    from traceloop.record.plumbing import readable

    words = {each.name: readable(each.name) for each in rows}
    doing = Counter(words.values())

    def named(label: str) -> str:
        if doing[words[label]] == 1:
            return words[label]
        return f"{words[label]} ({label.rpartition('.')[2]})" if words[label] != label else label

    return [each._replace(name=named(each.name)) for each in rows]


def _headline(
    found: dict[str, list[Change]], plumbing: Container[str] = (), slower_alike: bool = False
) -> tuple[str, str]:
    """The first line, and what it says as a verdict: slower, some runs slower, too few runs where nothing could be
    judged, faster for all that is well.

    plumbing: names of asyncio's and our own code, which is named only where nothing of the program became slower.
    slower_alike: whether everything did, so that nothing stands out.
    """
    from traceloop.reading.comparison import FASTER, ONLY_A, ONLY_B, SLOWER, SOME_SLOWER, TOO_FEW

    names = [*found["requests"], *found["callbacks"]]
    counts = Counter(each.verdict for each in names)
    notes = [f"{counts[FASTER]} became faster"]
    if counts[TOO_FEW]:
        notes.append(f"{counts[TOO_FEW]} not judged: too few runs")
    if counts[ONLY_A] + counts[ONLY_B]:
        notes.append(f"{counts[ONLY_A] + counts[ONLY_B]} in one record only")
    rest = ", ".join(notes)
    for verdict, of_plumbing in ((SLOWER, False), (SOME_SLOWER, False), (SLOWER, True), (SOME_SLOWER, True)):
        those = [each for each in names if each.verdict == verdict and (each.name in plumbing) == of_plumbing]
        if those:
            worst = max(those, key=_added)
            if verdict == SLOWER:
                return verdict, f"{worst.name} takes {_times(worst.usual)} as long ({_sure(worst)})"
            return verdict, f"Some runs of {worst.name} became slower: {_times(worst.mean)} as long on average ({rest})"
        for each in found["schedule_delay"]:
            if each.verdict == verdict:
                if verdict == SLOWER:
                    return verdict, f"Callbacks wait {_times(each.usual)} as long before they run ({rest})"
                return verdict, f"Some callbacks wait longer before they run: {_times(each.mean)} on average ({rest})"
    if all(each.verdict in (TOO_FEW, ONLY_A, ONLY_B) for each in names):
        return TOO_FEW, f"Nothing could be judged ({', '.join(notes[1:])})"
    if slower_alike:
        return SOME_SLOWER, f"Nothing became slower than the rest ({rest})"
    return FASTER, f"Nothing became measurably slower ({rest})"


def _added(change: Change) -> float:
    """By how much all runs of B took longer than as many of A, s."""
    return (change.mean_b - change.mean_a) * change.runs_b


def _table(rows: Sequence[Change], style: Any) -> list[str]:
    from traceloop.exporters.text.tables import count, seconds, table
    from traceloop.reading.comparison import FASTER, SLOWER, SOME_SLOWER

    paint = {SLOWER: style.bad, SOME_SLOWER: style.warn, FASTER: style.good}
    cells = [
        [
            each.name,
            count(each.runs_a),
            count(each.runs_b),
            seconds(each.usual_a) if each.runs_a else "-",
            seconds(each.usual_b) if each.runs_b else "-",
            _times(each.usual),
            f"{each.usual.low:.2f} to {each.usual.high:.2f}" if each.usual is not None else "-",
            _times(each.mean),
            paint.get(each.verdict, str)(each.verdict),
        ]
        for each in rows
    ]
    header = ["name", "runs A", "runs B", "usual A", "usual B", "B / A", "99% interval", "mean B / A", ""]
    return table(style, header, cells)


def _times(interval: Interval | None) -> str:
    return f"{interval.ratio:.2f}x" if interval is not None else "-"


def _sure(change: Change) -> str:
    from traceloop.reading.units import seconds

    interval = change.usual
    between = f"; 99% interval {interval.low:.2f} to {interval.high:.2f}" if interval is not None else ""
    return f"usually {seconds(change.usual_a)} before, {seconds(change.usual_b)} now{between}"
