"""`traceloop report RECORD`: the text that is printed at a run's end, of a record that was kept, or that grows."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import click

from .errors import unwritable
from .output import STDOUT, opened
from .runs import RECORD_OR_PID, command_of, open_record, read, tell_goes_on, tell_problems

if TYPE_CHECKING:
    from traceloop.reading.statistics.run import Statistics


@click.command("report")
@click.argument("record", required=False, metavar="[RECORD|PID]", type=RECORD_OR_PID)
@click.option("--full", is_flag=True, help="Print every table, with all its rows.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON (traceloop explain report-json).")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write a page to this file, to open in a browser; - is stdout.",
)
@click.option("--width", type=click.IntRange(60, 400), default=None, help="Characters of a line.")
def command(record: str | None, full: bool, as_json: bool, html: str | None, width: int | None) -> None:
    """Print the report of RECORD: what is wrong, how bad it is, who does it and what to do; then tables.

    RECORD is the folder of one run, which a crash leaves behind and `traceloop run --record DIR` keeps, or the DIR
    itself: then its newest run is taken. PID is a process that runs under `traceloop run` (`traceloop ps` lists them):
    the report is of what the rings of its run hold by now.
    """
    if record is None:
        raise click.UsageError(
            "expected the folder of a record: `traceloop run --record DIR` keeps one, and a crash leaves one behind"
        )
    if html == STDOUT and as_json:
        raise click.UsageError("--html and --json cannot both write to stdout")
    folder = open_record(record)
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    columns = width or (os.get_terminal_size().columns if sys.stdout.isatty() else 100)
    tell_goes_on(folder)
    statistics, crashes, problems = read(folder)
    tell_problems(problems, folder, statistics)
    if html is not None or as_json:
        for crash in crashes:
            click.echo(f"traceloop: {crash}", err=True)
        _write(statistics, command_of(folder), html, as_json)
        return
    from traceloop.exporters.text.report import report
    from traceloop.reading.process_folders import RunDirectory

    for process in RunDirectory(folder).processes():
        if process.is_snapshot:
            at = time.strftime(" at %H:%M:%S", time.localtime(process.noted_ns / 1e9)) if process.noted_ns else ""
            click.echo(f"traceloop: a snapshot of process {process.pid}, taken{at} while it ran")
    for crash in crashes:
        click.echo(f"traceloop: {crash}")
    click.echo(report(statistics, color=color, width=max(60, columns), full=full), nl=False)


def _write(statistics: Statistics, program: str, html: str | None, as_json: bool) -> None:
    """Writes the other forms of a report."""
    if html is not None:
        from traceloop.exporters.html.page import page_of

        page = page_of(statistics, command=program)
        try:
            with opened(html) as file:
                file.write(page)
        except OSError as error:
            if html == STDOUT:
                raise
            raise unwritable(html, error) from None
        if html != STDOUT:
            click.echo(f"traceloop: wrote {html}", err=True)
    if as_json:
        from traceloop.exporters.json.report import dump

        click.echo(dump(statistics, indent=2, command=program))
