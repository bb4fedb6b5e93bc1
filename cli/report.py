"""`traceloop report RECORD`: the text that is printed at a run's end, of a record that was kept."""

from __future__ import annotations

import os
import sys

import click

from .runs import find_run, read


@click.command("report")
@click.argument("record", type=click.Path(exists=True, file_okay=False, readable=True))
@click.option("--full", is_flag=True, help="Print every table, with all its rows.")
@click.option("--width", type=click.IntRange(60, 400), default=None, help="Characters of a line.")
def command(record: str, full: bool, width: int | None) -> None:
    """Print the report of RECORD: what is wrong, how bad it is, who does it and what to do; then tables.

    RECORD is the folder of one run, which a crash leaves behind and `traceloop run --record DIR` keeps, or the DIR
    itself: then its newest run is taken.
    """
    folder = find_run(record)
    if folder is None:
        raise click.ClickException(f"no record of a run in {record}")
    from traceloop.exporters.text.report import report
    from traceloop.reading.process_folders import RunDirectory

    if not RunDirectory(folder).processes():
        raise click.ClickException(f"no process has recorded anything in {folder}")
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    columns = width or (os.get_terminal_size().columns if sys.stdout.isatty() else 100)
    statistics, crashes, problems = read(folder)
    for problem in problems:
        click.echo(f"traceloop: {problem}", err=True)
    for crash in crashes:
        click.echo(f"traceloop: {crash}; `traceloop report {folder}` shows its record")
    click.echo(report(statistics, color=color, width=max(60, columns), full=full), nl=False)
