"""The run directory: owner-only, in shared memory, one for each run; its path is what marks the processes of
the run.

Made by `traceloop run` and by `traceloop.start`, removed by the collector when the run has ended well.
"""

from __future__ import annotations

import os
import time

from ..parsing import MIN_RING_SIZE
from ..record import files
from ..record.proc import pid_namespace
from ..record.secrets import command_line, without_secrets
from ..settings import Settings
from ..version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


#: The room that a run wants, in rings: for four loops or workers. Later ones step down by themselves.
_ROOM = 4


def make(settings: Settings, say: Callable[[str], None]) -> Settings:
    """Makes the run directory in shared memory, or, with one notice, where else it can be; and sees to its
    room.

    Returns the settings with the directory and what it can hold; without a directory the record is private
    memory.
    """
    temporary = os.environ.get("TMPDIR") or "/tmp"
    if settings.collector == "thread":
        return settings.replace(run_dir=None)  # which reads this process's own memory
    failure = ""
    # Without a collector no process copies the record to where it is to be kept: it is written there.
    kept = settings.record if settings.collector == "none" else None
    for place in (kept,) if kept else ("/dev/shm", temporary):
        path = os.path.join(place, f"traceloop-{os.getuid()}-{os.urandom(6).hex()}")
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            failure = failure or f"{place}: {error.strerror}"
            continue
        if failure:
            say(f"no shared memory ({failure}); the record is in {place}")
        if not kept:
            _make_room(path, settings.ring_size * _ROOM)
        return _fitting(settings, place, say).replace(run_dir=path)
    say(f"no folder for the record ({failure}); recording into the program's own memory, read by a thread")
    collector = "thread" if settings.collector == "process" else settings.collector
    return settings.replace(run_dir=None, collector=collector)


def _make_room(run_dir: str, wanted: int) -> None:
    """Old records of crashes go where there is not enough room for this run."""
    try:
        status = os.statvfs(run_dir)
        if status.f_bavail * status.f_frsize >= wanted:
            return
        from ..collector.expired_records import make_room  # seldom needed, and it takes some milliseconds

        make_room(run_dir, wanted)
    except OSError:
        pass  # what does not fit steps down


def _fitting(settings: Settings, place: str, say: Callable[[str], None]) -> Settings:
    try:
        status = os.statvfs(place)
    except OSError:
        return settings
    free = status.f_bavail * status.f_frsize
    if free and settings.ring_size > free // _ROOM:
        size = max(MIN_RING_SIZE, 1 << (free // _ROOM).bit_length() - 1)
        if size <= free:  # else a line says that there is no room for a record
            say(f"{place} has {free >> 10} KiB free; the record of a loop gets at most {size >> 10} KiB of it")
        return settings.replace(ring_size=size)
    return settings


def describe(settings: Settings, run_dir: str, command: Sequence[str], say: Callable[[str], None]) -> None:
    """Writes `run.json`: what is run, by whom, and with which settings."""
    from _json import encode_basestring_ascii as quote  # the json package takes longer than all the rest

    def encode(value: Any) -> str:
        if value is None:
            return "null"
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, (int, float)):
            return repr(value)
        if isinstance(value, dict):
            return "{" + ", ".join(f"{quote(key)}: {encode(item)}" for key, item in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(map(encode, value)) + "]"
        text: str = quote(str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
        return text

    description = {
        "version": __version__,
        "pid": os.getpid(),
        "pid_namespace": pid_namespace(),
        "started_ns": time.time_ns(),
        "command": command_line(command, settings.command_arguments),
        "directory": _working_directory(),
        "settings": {name: _shown(value) for name, value in settings.as_dict().items()},
    }
    try:
        with open(os.path.join(run_dir, files.RUN), "w", encoding="ascii") as file:
            file.write(encode(description) + "\n")
    except OSError as error:
        say(f"cannot write {run_dir}/run.json: {error.strerror}")


def _shown(value: Any) -> Any:
    return without_secrets(value) if isinstance(value, str) else value


def make_record_directory(path: str) -> str:
    """Makes the folder in which records are kept, if it is not there; its absolute path. Raises OSError."""
    path = os.path.abspath(path)
    os.makedirs(path, mode=0o700, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", path)
    return path


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def remove(run_dir: str | None) -> None:
    """Removes a run directory that no process has used yet, with what is in it."""
    if run_dir is None:
        return
    for folder, folders, names in os.walk(run_dir, topdown=False):
        for name in names:
            os.unlink(os.path.join(folder, name))
        for name in folders:
            os.rmdir(os.path.join(folder, name))
    os.rmdir(run_dir)
