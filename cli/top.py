"""`traceloop top`: the loops of a running program, as they are now."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

_CLEAR, _HIDE, _SHOW = "\x1b[H\x1b[2J", "\x1b[?25l", "\x1b[?25h"


@click.command("top")
@click.argument("which", metavar="[PID|RECORD]", required=False)
@click.option("--interval", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds a look.")
@click.option("--once", is_flag=True, help="Print one look, over one interval, and end.")
@click.option("--width", type=click.IntRange(60, 400), default=None, help="Characters of a line.")
def command(which: str | None, interval: float, once: bool, width: int | None) -> None:
    """Watch the loops of a program that runs under `traceloop run`, until it ends or you press Ctrl-C.

    For each loop: the share of time in which it was active, callbacks a second, how long one callback in a hundred
    waited, slow callbacks; then the callbacks that took most time, and the stack of a loop that is blocked now.

    Without an argument the run of yours that was started last; else that of the process PID, or the one that keeps
    its record in the folder RECORD. It reads the record beside the collector: the program does not notice.
    """
    folder = _choose(which)
    from traceloop.collector.collector import make_statistics
    from traceloop.exporters.text.live_view import LiveView
    from traceloop.exporters.text.tables import Style
    from traceloop.reading.follower import RunFollower

    from .report import settings_of

    statistics = make_statistics(settings_of(folder))
    follower = RunFollower(folder, statistics)
    follower.turn()
    view = LiveView(statistics)
    title = _title(folder)
    terminal = sys.stdout.isatty() and not once
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    try:
        if terminal:
            click.echo(_HIDE, nl=False)
        while True:
            _follow(follower, interval)
            size = shutil.get_terminal_size((100, 40))
            lines = view.lines(Style(color, width or max(60, size.columns)), title)
            if terminal:
                lines = lines[: max(5, size.lines - 1)]
            click.echo((_CLEAR if terminal else "") + "\n".join(lines))
            if once:
                return
            if not _lives(folder):
                click.echo("traceloop: the run has ended", err=True)
                return
            if not terminal:
                click.echo()
    except KeyboardInterrupt:
        return
    finally:
        if terminal:
            click.echo(_SHOW, nl=False)


def _follow(follower: Any, seconds: float) -> None:
    """Reads on for that long: often, since a ring holds only the last seconds of a busy loop."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
        follower.turn()


def _choose(which: str | None) -> str:
    """The run directory that is meant."""
    if which is not None and not which.isdecimal():
        from .report import find_run

        folder = find_run(which) if os.path.isdir(which) else None
        if folder is None:
            raise click.ClickException(f"no record of a run in {which}")
        if not _lives(folder):
            raise click.ClickException(f"the run in {which} has ended; `traceloop report {which}` tells what it did")
        return folder
    runs = [folder for folder in _run_directories() if _lives(folder)]
    if which is not None:
        runs = [folder for folder in runs if int(which) in _pids(folder)]
    if not runs:
        missing = "no program runs under `traceloop run`" if which is None else f"process {which} is not traced"
        raise click.ClickException(f"{missing}, or its record is not readable by this user")
    runs.sort(key=lambda folder: os.stat(folder).st_mtime)
    if which is None and len(runs) > 1:
        others = ", ".join(str(pid) for folder in runs[:-1] for pid in sorted(_pids(folder))[:1])
        click.echo(f"traceloop: {len(runs)} programs are traced; name one of the others by its PID: {others}", err=True)
    return runs[-1]


def _run_directories() -> Iterator[str]:
    for place in ("/dev/shm", os.environ.get("TMPDIR") or "/tmp"):
        try:
            names = os.listdir(place)
        except OSError:
            continue
        for name in names:
            path = os.path.join(place, name)
            if name.startswith("traceloop-") and os.access(os.path.join(path, "run.json"), os.R_OK):
                yield path


def _pids(folder: str) -> set[int]:
    from traceloop.reading.process_folders import RunDirectory

    directory = RunDirectory(folder)
    return {process.pid for process in directory.processes() if directory.writing(process)}


def _lives(folder: str) -> bool:
    return bool(_pids(folder))


def _title(folder: str) -> str:
    try:
        with open(os.path.join(folder, "run.json"), "rb") as file:
            words = json.loads(file.read(1 << 20))["command"]
        return shlex.join(map(str, words))
    except (OSError, ValueError, KeyError, TypeError):
        return folder
