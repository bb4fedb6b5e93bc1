"""`traceloop tasks`: the tasks of a program, as they stand now."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import sys
import time
from typing import Any

import click

from traceloop.record import files

from .runs import described, find_living_or_kept, living_processes, settings_of, tell_problems

#: How long a living program is read for at least: its tasks are looked at once a second.
_READ_SECONDS = 1.3
#: How long a look at all tasks is waited for that has begun: 30,000 tasks take a second.
_LOOK_SECONDS = 20.0
#: A look that was asked for, and is as old as this, did not come about.
_STALE_SECONDS = 3.0


def _ask_for_looks(folder: str, wanted: int | None) -> list[str]:
    """Asks the processes of a run for a look at all their tasks; their folders."""
    asked = [process.path for process in living_processes(folder) if wanted is None or process.pid == wanted]
    for path in asked:
        with contextlib.suppress(OSError):  # of another user: what its usual looks have found is shown
            # Exclusively: no link is followed and no pipe waited for. Where the file is there, somebody has asked.
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(os.path.join(path, files.LOOK), flags, 0o600))
    return asked


def _looking(asked: list[str], name: str) -> bool:
    return any(os.path.lexists(os.path.join(path, name)) for path in asked)


def _follow(follower: Any, folder: str, asked: list[str]) -> None:
    """Reads a living run until the looks that were asked for are over, and for ``_READ_SECONDS`` at least."""
    begun = time.monotonic()
    try:
        while True:
            passed = time.monotonic() - begun
            living = {process.path for process in living_processes(folder)}
            left = [path for path in asked if path in living]
            # One that has not begun by then will not: the program holds the GIL, or has no loop that runs.
            waits = _looking(left, files.LOOKING) or (passed < _READ_SECONDS and _looking(left, files.LOOK))
            if (not waits and passed >= _READ_SECONDS) or passed >= _LOOK_SECONDS:
                break
            time.sleep(0.1)
            follower.poll()
        follower.poll()
    finally:
        for path in asked:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(path, files.LOOK))


def _title(process: Any, known: int, tasks: list[Any]) -> str:
    """``known``: how many tasks the record has; ``tasks``: those that are shown."""
    from traceloop.exporters.text.tables import count, counted
    from traceloop.reading.statistics.task_tree import BRIEF, UNSEEN, WAITING

    waiting = sum(task.state in (WAITING, BRIEF) for task in tasks)
    title = f"process {process.pid}: {counted(len(tasks), 'task')}, {count(waiting)} waiting"
    unseen = sum(task.state == UNSEEN for task in tasks)
    if unseen:
        title += f", {count(unseen)} not looked at yet"
    alive = sum(loop.tasks_alive for loop in process.loops.values())
    # Those that were made or ended in this moment are not worth a word.
    if alive > 1.01 * known + 10:
        title += f"; of {counted(alive, 'task')} in all, {count(known)} are known"
    return title


def _age(process: Any, tasks: list[Any], now: float, ended: bool) -> str:
    """How old what is shown is, where that is not plain; ``now``: monotonic s, of a process that has ended its end."""
    from traceloop.exporters.text.tables import seconds
    from traceloop.reading.statistics.task_tree import RUNNING, last_look

    looked = last_look(process)
    age = max(0.0, now - looked)
    text = ""
    if ended:
        text = "the process has ended: its tasks at its end" + (f", looked at {seconds(age)} before" if looked else "")
    elif looked and age >= _STALE_SECONDS:
        text = f"looked at {seconds(age)} ago, and not since: code holds the GIL, or the process is stopped"
    if not text:
        return ""
    begun = [loop.running_at_end for loop in process.loops.values() if loop.running_at_end] if ended else []
    ran = max(
        [now - since for since in begun] or [loop.running_seconds(now) for loop in process.loops.values()], default=0.0
    )
    if ran >= 1.0 and not any(task.state == RUNNING for task in tasks):
        text += f"; for {seconds(ran)} one of them has run, it is not known which"
    return text


@click.command("tasks")
@click.argument("which", metavar="[PID|RECORD]", required=False)
@click.option("--flat", is_flag=True, help="A row for each task instead of the tree.")
@click.option("--json", "as_json", is_flag=True, help="Every task with its whole stack, as JSON.")
@click.option("--coroutine", metavar="NAME", default=None, help="Only tasks whose coroutine's name contains NAME.")
@click.option(
    "--longer-than",
    type=click.FloatRange(min=0.0),
    metavar="SECONDS",
    default=0.0,
    help="Only tasks that have waited for so long.",
)
@click.option("--width", type=click.IntRange(60, 400), default=None, help="Characters of a line.")
def command(
    which: str | None, flat: bool, as_json: bool, coroutine: str | None, longer_than: float, width: int | None
) -> None:
    """Show the tasks of a program that runs under `traceloop run`: where each waits, for what, and since when.

    On the left are the tasks that no other task waits for, and under each task those that it waits for. Tasks that
    stand at the same line share one line, with their number. Tasks that wait for each other are shown as a deadlock.

    Without an argument it shows your run that was started last, among those that have lasted for 5 s. PID selects that
    process, or all processes of the run that PID began (`traceloop ps` lists both). RECORD is the folder of a record:
    of a crashed program it shows the tasks that were left. It works while the program's loop is blocked, too.

    A task is known from its first step on. Its age, and what made it, is known as far back as the record goes. An older
    task is shown as old as the first look that found it.
    """
    folder, living = find_living_or_kept(which)
    from traceloop.exporters.text import task_view
    from traceloop.exporters.text.tables import Style, clean
    from traceloop.reading.follower import RunFollower
    from traceloop.reading.new_statistics import make_statistics
    from traceloop.reading.stalls.parts import running_tasks
    from traceloop.reading.statistics.task_tree import last_look, last_moment, tasks_now, tree_of

    gc.disable()  # hundreds of thousands of tasks, none of them in a circle: collections would take half of the time
    wanted = int(which) if which is not None and which.isdecimal() else None
    if wanted == described(folder).get("pid"):
        wanted = None  # the run as a whole is meant: with workers, the process that began it may have no loop
    statistics = make_statistics(settings_of(folder))
    follower = RunFollower(folder, statistics)
    follower.poll(last=not living)
    if living:
        _follow(follower, folder, _ask_for_looks(folder, wanted))
    tell_problems(follower.problems, folder, statistics)
    processes = [
        process
        for process in follower.processes.values()
        # Where another process has taken its slot, nothing is left of it.
        if process.folder.pid == process.statistics.pid and wanted in (None, process.folder.pid)
    ]
    if not processes and not as_json:
        whose = f"process {wanted}" if wanted is not None else f"the run in {folder}"
        raise click.ClickException(f"{whose} has recorded nothing{' yet' if living else ''}")
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    style = Style(color, width or shutil.get_terminal_size((120, 40)).columns)
    out: list[dict[str, Any]] = []
    for process in processes:
        known = process.statistics
        ended = not living or process.folder.name in follower.ended
        now = last_moment(known) if ended else time.monotonic()
        found = tasks_now(known, now, running=running_tasks(known))
        tasks = [
            task
            for task in found
            if task.waited_s >= longer_than and (coroutine is None or coroutine in task.coroutine)
        ]
        if as_json:
            look = last_look(known)
            looked = {"ended": ended, "seconds_since_look": round(max(0.0, now - look), 6) if look else None}
            out.append({"pid": known.pid, **looked, "tasks": [task.as_dict() for task in tasks]})
            continue
        click.echo(style.bold(clean(_title(known, len(found), tasks))))
        age = _age(known, found, now, ended)
        if age:
            click.echo(age)
        for line in task_view.flat(tasks, style) if flat else task_view.tree(tree_of(tasks), style):
            click.echo(line)
    if as_json:
        click.echo(json.dumps({"processes": out}, indent=2))
