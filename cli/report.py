"""`traceloop report RECORD`: the text that is printed at a run's end, of a record that was kept."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from traceloop.settings import Settings


@click.command("report")
@click.argument("record", type=click.Path(exists=True, file_okay=False, readable=True))
@click.option("--width", type=click.IntRange(60, 400), default=None, help="Characters of a line.")
def command(record: str, width: int | None) -> None:
    """Print the report of RECORD.

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
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    columns = width or (os.get_terminal_size().columns if sys.stdout.isatty() else 100)
    statistics, crashes, problems = read(folder)
    for problem in problems:
        click.echo(f"traceloop: {problem}", err=True)
    for crash in crashes:
        click.echo(f"traceloop: {crash}; `traceloop report {folder}` shows its record")
    click.echo(report(statistics, color=color, width=max(60, columns)), nl=False)


def find_run(path: str) -> str | None:
    """The folder of the run: the path itself, or the newest run in it."""
    if os.path.isfile(os.path.join(path, "run.json")) or _has_processes(path):
        return path
    runs = [entry.path for entry in os.scandir(path) if entry.is_dir() and _has_processes(entry.path)]
    return max(runs, key=lambda run: os.stat(run).st_mtime) if runs else None


def _has_processes(path: str) -> bool:
    try:
        return any(name.startswith("p-") for name in os.listdir(path))
    except OSError:
        return False


def settings_of(folder: str) -> Settings:
    """The settings that the run was started with; defaults for what cannot be read."""
    try:
        with open(os.path.join(folder, "run.json"), "rb") as file:
            chosen = json.loads(file.read(1 << 20))["settings"]
        return Settings().with_choices(chosen, on_error=lambda line: None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Settings()


def read(folder: str) -> tuple[Any, list[str], list[str]]:
    """The statistics of everything in the folder, a line for each crash, and for each ring that cannot be read."""
    from traceloop.collector.collector import make_statistics
    from traceloop.reading.follower import RunFollower

    statistics = make_statistics(settings_of(folder))
    follower = RunFollower(folder, statistics)
    with follower.statistics.lock:
        for _ in follower.portions(last=True):  # counted as they come: a long record is never held whole
            pass
    crashes = [str(process.crash) for process in follower.processes.values() if process.crash is not None]
    return statistics, crashes, follower.problems
