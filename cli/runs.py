"""Runs as the commands find and read them: those that go on now, and records that were kept."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from traceloop.record import files
from traceloop.record.text import printable, printable_data
from traceloop.settings import Settings

if TYPE_CHECKING:
    from traceloop.reading.statistics.run import Statistics

#: Characters of a command in a line that says which run was chosen.
_SHOWN = 60
#: PIDs of other runs in that line.
_OTHERS = 8
#: A run that has lasted so long is rather a service than a script.
_SETTLED_NS = 5_000_000_000


class _Folder(click.Path):
    """A folder that is there. click lets pipes and devices through."""

    def __init__(self) -> None:
        super().__init__(exists=True, file_okay=False, readable=True)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        path = super().convert(value, parameter, context)
        if not os.path.isdir(path):
            self.fail(f"{printable(os.fsdecode(path))} is a file, and a folder is expected", parameter, context)
        return path


#: The type of an argument that names a kept record.
RECORD = _Folder()


class _FolderOrPid(_Folder):
    """A folder that is there, or the PID of a traced process, for which its run's folder stands."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if isinstance(value, str) and value.isdecimal() and not os.path.exists(value):
            return choose_run(value)
        return super().convert(value, parameter, context)


#: The type of an argument that names a kept record, or a run that goes on by one of its processes.
RECORD_OR_PID = _FolderOrPid()


def find_run(path: str) -> str | None:
    """The folder of the run: the path itself, or the newest run in it or that is to be kept there."""
    runs = _runs_of(path)
    return runs[-1] if runs else None


def _runs_of(path: str) -> list[str]:
    """The path itself, if it is a run; else the runs that are kept in it, or will be, the newest at the end."""
    _check_access(path)
    if files.is_file(os.path.join(path, files.RUN)) or has_processes(path):
        return [path]
    kept = {
        entry.name: entry.path
        for entry in os.scandir(path)
        if entry.is_dir(follow_symlinks=False) and has_processes(entry.path)
    }
    for folder in _run_directories():
        # A record comes to its folder when the run has ended. Of a crash the original stays as well.
        name = os.path.basename(folder)
        if _is_kept_in(folder, path) and (lives(folder) or (name not in kept and has_processes(folder))):
            kept[name] = folder
    found: list[tuple[float, str]] = []
    for folder in kept.values():
        try:
            found.append((os.stat(folder).st_mtime, folder))
        except OSError:
            continue  # it has just been removed
    return [folder for _, folder in sorted(found)]


def _is_kept_in(folder: str, path: str) -> bool:
    """Whether a run was started with `--record` for this path."""
    settings = described(folder).get("settings")
    record = settings.get("record") if isinstance(settings, dict) else None
    return isinstance(record, str) and os.path.realpath(record) == os.path.realpath(path)


def _check_access(*folders: str) -> None:
    """A command's error where none of the folders can be read: not that there is nothing in them."""
    if folders and not any(os.access(folder, os.R_OK | os.X_OK) for folder in folders):
        raise click.ClickException(f"cannot read {os.path.abspath(folders[0])}: Permission denied")


def has_processes(path: str) -> bool:
    """Whether a process of this run has recorded anything."""
    try:
        return any(files.parse_process_name(name) for name in os.listdir(path))
    except OSError:
        return False


def described(folder: str) -> dict[str, Any]:
    """What run.json says of the run; empty where it cannot be read."""
    return _object(os.path.join(folder, files.RUN))


def collector_of(folder: str) -> dict[str, Any]:
    """What the collector says of itself: pid, start, address; empty where there is none, or not yet."""
    return _object(os.path.join(folder, files.COLLECTOR))


def _object(path: str) -> dict[str, Any]:
    try:
        data = json.loads(files.read_file(path, 1 << 20))
    except (OSError, ValueError, RecursionError):
        return {}
    return printable_data(data) if isinstance(data, dict) else {}


def settings_of(folder: str) -> Settings:
    """The settings that the run was started with; defaults for what cannot be read."""
    try:
        chosen = described(folder)["settings"]
        return Settings().with_choices(chosen, on_error=lambda line: None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Settings()


def open_record(record: str) -> str:
    """The folder of the run that is meant by a folder, which holds something of a process; a command's error else."""
    folder = find_run(record)
    if folder is None:
        raise click.ClickException(f"no record of a run in {os.path.abspath(record)}")
    from traceloop.reading.process_folders import RunDirectory

    processes = RunDirectory(folder).processes()
    _check_access(*(process.path for process in processes))
    if not processes:
        raise click.ClickException(f"no process has recorded anything in {folder}")
    return folder


def tell_problems(problems: Sequence[str], folder: str, statistics: Statistics) -> None:
    """Says in one line on stderr which rings could not be read: the first, and how many. A command's error if nothing
    of the record could: its report would be that nothing ran, and that there was no trouble.
    """
    if not problems:
        return
    rings = f"{len(problems)} rings cannot be read; the first, " if len(problems) > 1 else ""
    if not any(True for _ in statistics.loops()):
        why = f"{rings}{problems[0]}"
        raise click.ClickException(f"nothing of the record in {os.path.abspath(folder)} could be read: {why}")
    click.echo(f"traceloop: {rings}{problems[0]}", err=True)


def tell_goes_on(folder: str, whose: str = "the run") -> bool:
    """Whether the run goes on. If so, a line on stderr says that more will follow, and where the whole of it is."""
    goes_on = lives(folder)
    if goes_on:
        url = str(collector_of(folder).get("url") or "")
        whole = f"; the whole of it: {url.removesuffix('metrics')}" if url.endswith("/metrics") else ""
        click.echo(f"traceloop: {whose} goes on, this is what its rings hold by now{whole}", err=True)
    return goes_on


def read(folder: str) -> tuple[Any, list[str], list[str]]:
    """The statistics of everything in the folder, a line for each crash, and for each ring that cannot be read."""
    from traceloop.reading.follower import RunFollower
    from traceloop.reading.new_statistics import make_statistics

    statistics = make_statistics(settings_of(folder))
    follower = RunFollower(folder, statistics)
    with follower.statistics.lock:
        for _ in follower.chunks(last=True):  # counted as they come: a long record is never held whole
            pass
    crashes = [str(process.crash) for process in follower.processes.values() if process.crash is not None]
    return statistics, crashes, follower.problems


def choose_run(which: str | None) -> str:
    """The run directory that is meant."""
    if which is not None and not which.isdecimal():
        runs = _runs_of(which) if os.path.isdir(which) else []
        if not runs:
            raise _nothing_in(which)
        living = [folder for folder in runs if lives(folder)]
        if not living:
            raise click.ClickException(f"the run in {which} has ended; `traceloop report {which}` tells what it did")
        return living[-1]
    runs = living_runs()
    if which is not None:
        runs = [folder for folder in runs if int(which) in _pids(folder)]
    if not runs:
        if which is None:
            raise click.ClickException(
                "no program runs under `traceloop run`, or its record is not readable by this user"
            )
        raise click.ClickException(
            f"process {which} is not traced, or its record is not readable by this user; `traceloop ps` lists what is"
        )
    if len(runs) == 1:
        return runs[0]
    now_ns = time.time_ns()
    chosen = max(runs, key=lambda folder: _worth_watching(folder, now_ns))
    if which is None:
        command = command_of(chosen)
        others = [str(_root_or_first(folder)) for folder in runs if folder != chosen]
        click.echo(
            f"traceloop: {len(runs)} programs are traced; this is {_root_or_first(chosen)}, "
            f"{command if len(command) <= _SHOWN else command[: _SHOWN - 3] + '...'}; name one of the others by its "
            f"PID: {', '.join(others[-_OTHERS:])}{' and more (traceloop ps)' if len(others) > _OTHERS else ''}",
            err=True,
        )
    return chosen


def _worth_watching(folder: str, now_ns: int) -> tuple[bool, bool, int]:
    """What a run is chosen by where several go on: one that records, and is no script that may be over in a moment; of
    these the one that began last.
    """
    began = described(folder).get("started_ns")
    began_ns = began if isinstance(began, int) else 0
    return _runs_a_loop(folder), now_ns - began_ns >= _SETTLED_NS, began_ns


def _runs_a_loop(folder: str) -> bool:
    """Whether a loop of the run is open now."""
    from traceloop.reading.decoding.ring_reader import RingError, RingReader
    from traceloop.record import layout

    for process in living_processes(folder):
        for path in process.rings():
            try:
                reader = RingReader(path)
            except (OSError, RingError):
                continue
            try:
                if reader.kind == layout.KIND_LOOP and reader.word(layout.W_OPEN) == 1.0:
                    return True
            finally:
                reader.close()
    return False


def _nothing_in(which: str) -> click.ClickException:
    if os.path.isdir(which):
        return click.ClickException(f"no record of a run in {os.path.abspath(which)}")
    return click.UsageError(f"{which} is neither a PID nor a folder; `traceloop ps` lists what is traced")


def find_living_or_kept(which: str | None) -> tuple[str, bool]:
    """The run directory that is meant, which may be a kept record; whether the run goes on."""
    if which is None or which.isdecimal():
        return choose_run(which), True
    if not os.path.isdir(which):
        raise _nothing_in(which)
    folder = open_record(which)
    return folder, lives(folder)


def _run_directories() -> Iterator[str]:
    """The run directories of this user. Others can put what they like beside them."""
    own = os.getuid()
    for place in ("/dev/shm", os.environ.get("TMPDIR") or "/tmp"):
        try:
            entries = list(os.scandir(place))
        except OSError:
            continue
        for entry in entries:
            if not entry.name.startswith(f"traceloop-{own}-"):
                continue
            try:
                is_own = entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == own
            except OSError:
                continue  # it has just been removed
            if is_own and files.is_file(os.path.join(entry.path, files.RUN)):
                yield entry.path


def living_runs() -> list[str]:
    """The run directories of this user's runs that go on, the one that was changed last at the end."""
    found: list[tuple[float, str]] = []
    for folder in _run_directories():
        try:
            changed = os.stat(folder).st_mtime
        except OSError:
            continue  # it has just ended
        if lives(folder):
            found.append((changed, folder))
    return [folder for _, folder in sorted(found)]


def living_processes(folder: str) -> list[Any]:
    """The processes of a run (`ProcessFolder`) that may still write their record, in the order of their start."""
    from traceloop.reading.process_folders import RunDirectory

    directory = RunDirectory(folder)
    return [process for process in directory.processes() if directory.writing(process)]


def _pids(folder: str) -> set[int]:
    from traceloop.collector.traced_processes import living_root
    from traceloop.reading.process_folders import RunDirectory

    directory = RunDirectory(folder)
    known = directory.processes()
    pids = {process.pid for process in known if directory.writing(process)}
    # The process that began the run may have no loop: not yet, or it leaves that to its children.
    root = living_root(folder)
    if root and not any(process.pid == root and process.ended for process in known):
        pids.add(root)
    return pids


def _root_or_first(folder: str) -> int:
    """The PID by which a living run goes: of the process that began it, as `traceloop ps` has it, while that lives."""
    from traceloop.collector.traced_processes import living_root

    return living_root(folder) or min(_pids(folder), default=0)


def lives(folder: str) -> bool:
    """Whether a process of the run may still write its record, or begin to."""
    return bool(_pids(folder))


def command_of(folder: str) -> str:
    """What was run, as a shell takes it; the folder where that is not known."""
    from traceloop.reading.process_folders import RunDirectory

    return RunDirectory(folder).command() or folder
