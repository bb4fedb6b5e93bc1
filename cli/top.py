"""`traceloop top`: the loops of a running program, as they are now."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Any

import click

from .runs import choose_run, command_of, lives, settings_of

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
    folder = choose_run(which)
    from traceloop.exporters.text.live_view import LiveView
    from traceloop.exporters.text.tables import Style, clip
    from traceloop.reading.follower import RunFollower
    from traceloop.reading.new_statistics import make_statistics

    statistics = make_statistics(settings_of(folder))
    follower = RunFollower(folder, statistics)
    follower.turn()
    view = LiveView(statistics)
    title = command_of(folder)
    terminal = sys.stdout.isatty() and not once
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    try:
        if terminal:
            click.echo(_HIDE, nl=False)
        while True:
            _follow(follower, interval)
            size = shutil.get_terminal_size((100, 40))
            rows = max(5, size.lines - 1) if terminal else 0
            lines = view.lines(Style(color, width or max(60, size.columns)), title, rows)
            if terminal:
                lines = [clip(line, size.columns) for line in lines]
            click.echo((_CLEAR if terminal else "") + "\n".join(lines))
            if once:
                return
            if not lives(folder):
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
