"""`traceloop ps`: the runs of this user on this machine, and their traced processes."""

from __future__ import annotations

import time
from typing import Any

import click

from .runs import collector_of, command_of, described, living_processes, living_runs

_HEAD = ("PID", "STARTED", "PROGRAM", "METRICS")


@click.command("ps")
def command() -> None:
    """List the programs that run under `traceloop run`, each with its traced processes.

    Those of other users are not shown. `traceloop top PID` watches one of them.
    """
    rows: list[tuple[str, str, str, str]] = []
    for folder in living_runs():
        run = described(folder)
        root = int(run.get("pid", 0)) if isinstance(run.get("pid"), int) else 0
        url = collector_of(folder).get("url")
        rows.append((str(root), _clock(run.get("started_ns")), command_of(folder), str(url) if url else "-"))
        for process in living_processes(folder):
            if process.pid != root:
                rows.append((f"  {process.pid}", "", f"  {process.description.get('command', '')}", ""))
    if not rows:
        click.echo("traceloop: no program of this user runs under `traceloop run`", err=True)
        return
    widths = [max(len(row[at]) for row in (_HEAD, *rows)) for at in range(len(_HEAD))]
    for row in (_HEAD, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _clock(nanoseconds: Any) -> str:
    """The local time of a wall clock reading, with the date where that is not today's."""
    try:
        moment = time.localtime(float(nanoseconds) / 1e9)
    except (TypeError, ValueError, OverflowError, OSError):
        return "-"
    today = time.strftime("%Y-%m-%d") == time.strftime("%Y-%m-%d", moment)
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", moment)
