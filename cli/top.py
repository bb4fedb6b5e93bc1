"""`traceloop top`: the loops of a running program, as they are now."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from typing import Any

import click

from .keys import Keys
from .runs import choose_run, command_of, lives, settings_of

#: In the order of their keys. The further ones are in exporters/text/live_pages.py.
_PAGES = ("loops", "tasks", "executors", "requests", "callbacks", "heaps")
_MOST_TYPED = 60
# A key: an escape sequence (arrows and the like), or a character.
_KEYS = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)
_CLEAR, _HIDE, _SHOW = "\x1b[H\x1b[2J", "\x1b[?25l", "\x1b[?25h"


@click.command("top")
@click.argument("which", metavar="[PID|RECORD]", required=False)
@click.option("--interval", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds of a look.")
@click.option("--once", is_flag=True, help="Print one look, over one interval, and end.")
@click.option("--width", type=click.IntRange(60, 400), default=None, help="Characters of a line.")
def command(which: str | None, interval: float, once: bool, width: int | None) -> None:
    """Watch the loops of a program that runs under `traceloop run`, until it ends or you press q.

    It shows for each loop the share of time in which it was active, callbacks a second, how long one callback in a
    hundred waited, and slow callbacks; then the callbacks that took most time, and the stack of a loop that is blocked.

    On a terminal, keys 1 to 6 or Tab select the pages: loops, tasks with what they wait for, executors, requests, all
    callbacks, heaps. s sorts by the next column, and r reverses the order. / asks for a text and shows only rows that
    have it (Escape: all rows). Space pauses.

    Without an argument it watches your run that was started last, among those that have lasted for 5 s. PID selects the
    run of that process, RECORD the run that keeps its record in that folder. The program is not slowed down: top reads
    the record, as the collector does.
    """
    folder = choose_run(which)
    from traceloop.exporters.text.live_view import LiveView
    from traceloop.exporters.text.tables import Style
    from traceloop.reading.follower import RunFollower
    from traceloop.reading.new_statistics import make_statistics

    statistics = make_statistics(settings_of(folder))
    follower = RunFollower(folder, statistics)
    follower.poll()
    view = LiveView(statistics)
    title = command_of(folder)
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    if sys.stdout.isatty() and not once:
        _Screen(follower, view, title, color, width).show(interval, folder)
        return
    try:
        while True:
            _follow(follower, interval)
            columns = width or max(60, shutil.get_terminal_size((100, 40)).columns)
            click.echo("\n".join(view.lines(Style(color, columns), title)))
            if once:
                return
            if not lives(folder):
                click.echo("traceloop: the run has ended", err=True)
                return
            click.echo()
    except KeyboardInterrupt:
        return


class _Screen:
    """The pages on a terminal, until the run ends, or a key q or Ctrl-C."""

    def __init__(self, follower: Any, view: Any, title: str, color: bool, width: int | None) -> None:
        self._follower = follower
        self._view = view
        self._title = title
        self._color = color
        self._width = width
        self._page = "loops"
        self._paused = False
        self._loops: list[str] = []
        self._sort = dict.fromkeys(_PAGES, 0)
        self._upwards = dict.fromkeys(_PAGES, False)
        self._only = ""
        self._typing = False

    def show(self, interval: float, folder: str) -> None:
        """Looks again and again, ``interval`` s apart."""
        try:
            with Keys() as keys:
                click.echo(_HIDE, nl=False)
                while True:
                    size = shutil.get_terminal_size((100, 40))
                    until = time.monotonic() + interval
                    while (left := until - time.monotonic()) > 0:
                        pressed = keys.wait(min(left, 0.1))
                        self._follower.poll()
                        if pressed and not self._press(pressed):
                            return
                        if pressed or shutil.get_terminal_size((100, 40)) != size:
                            size = shutil.get_terminal_size((100, 40))
                            self._draw(keys, size.columns, size.lines, again=True)
                    if not self._paused:
                        self._draw(keys, size.columns, size.lines)
                    if not lives(folder):
                        click.echo("traceloop: the run has ended", err=True)
                        return
        except KeyboardInterrupt:
            return
        finally:
            click.echo(_SHOW, nl=False)

    def _press(self, pressed: str) -> bool:
        """Heeds what was pressed since the last look, several keys perhaps; False: it ends."""
        heeded = [self._heed(key) for key in _KEYS.findall(pressed)]
        return False not in heeded

    def _heed(self, pressed: str) -> bool:
        if self._typing:
            self._type(pressed)
        elif pressed in ("q", "Q", "\x04"):
            return False
        elif pressed == "/":
            self._typing, self._only = True, ""
        elif pressed == "\x1b":
            self._only = ""
        elif pressed == "s":
            self._sort[self._page] += 1
        elif pressed == "r":
            self._upwards[self._page] = not self._upwards[self._page]
        elif pressed in (" ", "p"):
            self._paused = not self._paused
        elif pressed == "\t":
            self._page = _PAGES[(_PAGES.index(self._page) + 1) % len(_PAGES)]
        elif pressed.isdecimal() and 0 < int(pressed) <= len(_PAGES):
            self._page = _PAGES[int(pressed) - 1]
        return True

    def _type(self, key: str) -> None:
        """A key of the text that rows must have."""
        if key in ("\r", "\n"):
            self._typing = False
        elif key in ("\x7f", "\b"):
            self._only = self._only[:-1]
        elif key == "\x1b":
            self._typing, self._only = False, ""
        elif key.isprintable() and len(self._only) < _MOST_TYPED:
            self._only += key

    def _footer(self, style: Any, columns: int) -> str:
        """The pages and their keys, in what there is of a line."""
        from traceloop.exporters.text.live_pages import SORTED

        if self._typing:
            return f"only rows with: {self._only}_  Enter keeps it, Escape shows all"
        pages = " ".join(
            style.bold(f"[{number} {name}]") if name == self._page else f"{number} {name}"
            for number, name in enumerate(_PAGES, 1)
        )
        goes_on = "goes on" if self._paused else "pauses"
        words = ["s sorts"] if self._page in SORTED else []
        words += ["/ filters"] if self._page != "loops" else []
        words += [f"space {goes_on}", "q quits"]
        long = "  ".join([pages, *words])
        return long if len(long) <= columns else f"{pages} {'paused' if self._paused else 's /'} space q"

    def _draw(self, keys: Keys, columns: int, rows: int, *, again: bool = False) -> None:
        """``again``: between two looks. The page of the loops has rates: it stays as it was."""
        from traceloop.exporters.text import live_pages
        from traceloop.exporters.text.tables import Style, clip

        style = Style(self._color, self._width or max(60, columns))
        room = max(5, rows - (2 if keys.are_read else 1))
        if not (again and self._loops):
            self._loops = self._view.lines(style, self._title, room)
        if self._page == "loops":
            lines = self._loops[:room]
        else:
            choice = live_pages.Choice(self._sort[self._page], self._upwards[self._page], self._only)
            lines = live_pages.lines(self._follower.statistics, self._page, style, room, choice)
        if keys.are_read:
            lines = [*lines, self._footer(style, columns)]
        click.echo(_CLEAR + "\n".join(clip(line, columns) for line in lines))


def _follow(follower: Any, seconds: float) -> None:
    """Reads on for that long: often, since a ring holds only the last seconds of a busy loop."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
        follower.poll()
