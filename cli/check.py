"""`traceloop check [RECORD | -- PROGRAM]`: holds a run to budgets, for CI."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from traceloop.parsing import SettingsError, parse_duration
from traceloop.record.text import printable

from . import programs
from .errors import unwritable
from .junit import as_junit
from .output import STDOUT, opened
from .runs import choose_run, open_record, read, settings_of, tell_goes_on, tell_problems

if TYPE_CHECKING:
    from traceloop.reading.budgets import Budgets, Judgement
    from traceloop.reading.statistics.run import Statistics

#: Offenders of one budget that are printed; the files have all.
_SHOWN = 20


class _Duration(click.ParamType[float]):
    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return parse_duration(str(value))
        except SettingsError as error:
            self.fail(str(error), param, ctx)


class _Check(click.Command):
    """Adds to the error where the program has to stand, if the unknown option may be the program's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            valued = {name for each in self.params if not getattr(each, "is_flag", True) for name in each.opts}
            at = 0
            while at < len(given) and given[at].startswith("-"):
                at += 2 if given[at] in valued else 1
            behind = any(word.startswith(error.option_name) for word in given[at + 1 :])
            if "--" in given or not behind or os.path.isdir(given[at]):
                raise
            words = " ".join([*given[:at], "--", given[at], "ARGUMENTS"])
            raise click.UsageError(f"a program stands behind --: traceloop check {words}", ctx) from None


@click.command("check", cls=_Check, context_settings={"ignore_unknown_options": False})
@click.argument("words", metavar="[RECORD | PID | -- PROGRAM [ARGUMENTS]...]", nargs=-1, type=click.UNPROCESSED)
@click.option("--max-callback", type=_Duration(), help="No callback may run for longer: 50ms, 0.2s.")
@click.option("--max-delay-p99", type=_Duration(), help="No loop may have a higher p99 of its schedule delay.")
@click.option("--no-slow", is_flag=True, help="No slow callback, by the run's own --slow-threshold.")
@click.option("--no-leak", is_flag=True, help="No leak of tasks, timers or memory; no task left that was not done.")
@click.option("--no-findings", is_flag=True, help="No finding of the report. The default where no budget is named.")
@click.option("--no-blocking", is_flag=True, help="No call that may block (of a RECORD: made with --find-blocking).")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write the result as JSON to this file; - is stdout, and what is printed goes to stderr then.",
)
@click.option(
    "--junit",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write the result as JUnit's XML, a test for each budget, to this file; - is stdout, as with --json.",
)
def command(
    words: tuple[str, ...],
    max_callback: float | None,
    max_delay_p99: float | None,
    no_slow: bool,
    no_leak: bool,
    no_findings: bool,
    no_blocking: bool,
    json_file: str | None,
    junit: str | None,
) -> None:
    """Hold a run to budgets: a kept RECORD, a traced process PID (what its rings hold by now), or a PROGRAM, which is
    run under the traced loop.

    It prints each budget, and what broke it. The exit status is 1 if one was broken, 0 if all were kept, and 2 if there
    is nothing to check. If the PROGRAM fails, its status is the command's.

    A busy machine breaks neither --max-callback nor --no-findings. Measured time in which a callback waited for a
    processor is subtracted, and the finding that the machine is busy does not count.

    \b
    traceloop check --max-callback 50ms --no-leak -- pytest tests/
    traceloop check --max-delay-p99 20ms --junit loops.xml RECORD
    """
    from traceloop.reading.budgets import Budgets

    budgets = Budgets(max_callback, max_delay_p99, no_slow, no_leak, no_findings, no_blocking)
    if budgets == Budgets():
        budgets = budgets._replace(findings=True)
    record = _record_in(words)
    if STDOUT in (json_file, junit):
        if json_file == junit:
            raise click.UsageError("--json and --junit cannot both write to stdout")
        if record is None:
            raise click.UsageError("stdout is the program's: name a file for the result")
    status = _check_record(record, budgets, json_file, junit) if record is not None else None
    if status is None:
        status = _check_program(words, budgets, json_file, junit)
    raise SystemExit(status)


def _record_in(words: Sequence[str]) -> str | None:
    """The record that was named (for a PID, that of its run); None for a program, which comes after ``--``."""
    if not words:
        raise click.UsageError("what is to be checked? A RECORD, a PID, or -- PROGRAM")
    import sys

    own = sys.argv[1:]
    behind = "--" in own and own[len(own) - len(words) - 1 : len(own) - len(words)] == ["--"]
    if behind:
        return None
    if len(words) > 1:
        raise click.UsageError(f"a program stands behind --: traceloop check -- {' '.join(words)}")
    if words[0].isdecimal() and not os.path.exists(words[0]):
        with _nothing_to_check():
            return choose_run(words[0])
    if not os.path.isdir(words[0]):
        hint = f"; to run a program: traceloop check -- {words[0]}" if os.path.exists(words[0]) else ""
        raise click.UsageError(f"no folder with a record: {words[0]}{hint}")
    return words[0]


class _NotChecked(click.ClickException):
    """There is no record, or no room for the result. The status is not 1, which means that a budget was broken."""

    exit_code = 2


@contextlib.contextmanager
def _nothing_to_check() -> Iterator[None]:
    try:
        yield
    except click.ClickException as error:
        raise _NotChecked(error.message) from None


def _check_record(record: str, budgets: Budgets, json_file: str | None, junit: str | None) -> int:
    with _nothing_to_check():
        folder = open_record(record)
    if budgets.blocking and not settings_of(folder).find_blocking:
        raise click.UsageError(f"--no-blocking: {record} was not made with --find-blocking")
    goes_on = tell_goes_on(folder)
    statistics, crashes, problems = read(folder)
    with _nothing_to_check():
        tell_problems(problems, folder, statistics)
    for line in crashes:
        click.echo(f"traceloop: {line}", err=True)
    def say(line: str) -> None:
        click.echo(line, err=STDOUT in (json_file, junit))

    return _conclude(statistics, budgets, say, json_file, junit, goes_on=goes_on)


def _check_program(words: Sequence[str], budgets: Budgets, json_file: str | None, junit: str | None) -> int:
    """Its output is its own: what was found goes to stderr."""
    from traceloop.settings import Settings

    from .recorded_program import RecordedProgram

    try:
        settings = Settings.from_environ(os.environ)
        if budgets.max_callback is not None and budgets.max_callback < settings.slow_threshold:
            settings = settings.replace(slow_threshold=budgets.max_callback)  # from there on stacks are taken
        program = RecordedProgram(settings.replace(find_blocking=budgets.blocking or settings.find_blocking), words)
    except (SettingsError, programs.Refused) as error:
        raise click.UsageError(str(error)) from None
    try:
        program.wait()
        for process in program.follower.processes.values():
            if process.crash is not None:
                click.echo(f"traceloop: {process.crash}", err=True)

        def say(line: str) -> None:
            click.echo(f"traceloop: {line}", err=True)

        if program.status:
            say(f"the program ended with status {program.status}")
        found = _conclude(program.follower.statistics, budgets, say, json_file, junit)
    finally:
        program.remove()
    return program.status or found


def _conclude(
    statistics: Statistics,
    budgets: Budgets,
    say: Callable[[str], None],
    json_file: str | None,
    junit: str | None,
    *,
    goes_on: bool = False,
) -> int:
    """Judges, prints, writes the files; returns the exit status."""
    from traceloop.reading.budgets import callbacks_run, judge
    from traceloop.reading.findings.process import is_mostly_lost
    from traceloop.reading.units import count, counted

    with statistics.lock:
        ran = callbacks_run(statistics)
        dropped = sum(process.dropped for process in statistics.processes.values())
        records = sum(process.records for process in statistics.processes.values())
        overwritten = sum(process.overwritten for process in statistics.processes.values())
        judged = judge(statistics, budgets)
    mostly_lost = is_mostly_lost(records, dropped)
    if is_mostly_lost(records, overwritten):
        click.echo(
            f"traceloop: the record has the latest {count(records - dropped)} of {counted(records, 'record')} only, "
            "too few to pass it; a larger `--ring-size` keeps more",
            err=True,
        )
    elif mostly_lost:
        click.echo(
            f"traceloop: {count(dropped)} of {counted(records, 'record')} could not be read (overwritten, or damaged): "
            "the rest is too little to pass it",
            err=True,
        )
    elif not ran:
        click.echo("traceloop: no callback ran on a traced loop: there is nothing to check", err=True)
    if not ran:
        return 2
    for each in judged:
        say(f"{'ok  ' if each.kept else 'FAIL'}  {each.title}")
        if each.kept and each.pardoned:
            say(printable(f"      not counted: {each.pardoned}", 1000))
        for offender in each.offenders[:_SHOWN]:
            say(printable(f"      {offender.text}", 1000))
        if len(each.offenders) > _SHOWN:
            say(f"      and {counted(len(each.offenders) - _SHOWN, 'more offender')}")
    if dropped and not mostly_lost:
        say(f"{counted(dropped, 'record')} had been overwritten or were damaged: what they held was not checked")
    if json_file is not None:
        document = _document(judged, ran, dropped, mostly_lost) | {"goes_on": goes_on}
        _write(json_file, json.dumps(document, indent=2) + "\n")
    if junit is not None:
        _write(junit, as_junit(judged, ran))
    if not all(each.kept for each in judged):
        return 1
    return 2 if mostly_lost else 0


def _write(path: str, text: str) -> None:
    try:
        with opened(path) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        if path == STDOUT:
            raise
        raise _NotChecked(unwritable(path, error).message) from None


def _document(judged: Sequence[Judgement], ran: int, dropped: int, mostly_lost: bool) -> dict[str, Any]:
    """The result as docs/cli.md has it."""
    return {
        "schema": "traceloop-check/1",
        "kept": all(each.kept for each in judged) and not mostly_lost,
        "callbacks": ran,
        "records_dropped": dropped,
        "budgets": [
            {
                "budget": each.budget,
                "limit": each.limit or None,
                "kept": each.kept,
                "not_counted": (each.pardoned or None) if each.kept else None,
                "offenders": [offender._asdict() for offender in each.offenders],
            }
            for each in judged
        ],
    }
