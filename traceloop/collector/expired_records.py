"""Records of crashed runs are kept, so that they can be read; but not for ever, and not without bounds.

They are in shared memory, which is the machine's memory. When there are too many, the oldest go first.

* Containers may share that memory without seeing each other's processes. So a collector also holds a lock in the run
  directory as long as it lives.
* If a run's collector was killed too, its record is still here, although `--record` named another folder. The collector
  of the next run moves it there.
* If a collector could not copy a record to that folder, the record stays here: a line has said so.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import Any

from traceloop.record import files
from traceloop.record.proc import is_alive, pid_namespace

MAX_AGE_SECONDS = 7 * 24 * 3600.0
MAX_BYTES = 256 << 20


def hold(run_dir: str) -> int:
    """Marks the run as living, until the returned descriptor is closed. Returns -1 if that is not possible."""
    try:
        descriptor = os.open(os.path.join(run_dir, files.LOCK), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor


def _is_held(path: str) -> bool | None:
    """Whether a collector holds the run; None if none ever did."""
    try:
        descriptor = os.open(os.path.join(path, files.LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def share_of(place: str) -> int:
    """Bytes that old records may take in the file system of ``place``: a quarter of it, and no more than 256 MiB."""
    try:
        status = os.statvfs(place)
    except OSError:
        return MAX_BYTES
    size = status.f_blocks * status.f_frsize
    return min(MAX_BYTES, size // 4) if size else MAX_BYTES  # the size of a tmpfs without a limit is 0


def expire(run_dir: str, *, max_age: float = MAX_AGE_SECONDS, max_bytes: int | None = None) -> list[str]:
    """Removes old records beside ``run_dir``: those with names of this user's that have no living process.

    Records that belong in a folder of `--record` are moved there first.

    ``max_bytes``: the size that they may have together, None for their share of the file system; the oldest go first.
    Returns the paths that were removed. Never raises, whatever is there.
    """
    removed: list[str] = []
    found = [each for each in _old_records(run_dir) if not _bring_home(each[2])]
    limit = share_of(os.path.dirname(os.path.abspath(run_dir))) if max_bytes is None else max_bytes
    total = sum(size for _, size, _ in found)
    now = time.time()
    for changed, size, path in found:
        if now - changed > max_age or total > limit:
            _remove(path)
            total -= size
            removed.append(path)
    return removed


def _bring_home(path: str) -> bool:
    """Moves an old record to the folder that `--record` named, if that exists. Returns whether it was moved."""
    if os.path.lexists(os.path.join(path, files.STAYS)):
        return False  # a line has told the user that it is here
    description = _described(path, files.RUN)
    settings = description.get("settings")
    record = settings.get("record") if isinstance(settings, dict) else None
    # In another container the same path may be another folder.
    here = description.get("pid_namespace") == pid_namespace()
    if not here or not isinstance(record, str) or not os.path.isabs(record) or not os.path.isdir(record):
        return False
    lock = hold(path)  # another collector may start at the same moment
    if lock < 0:
        return False
    try:
        from .record_copy import copy_record

        if copy_record(path, record):
            return False  # no permission, a full disk: the record stays here until it expires
        _remove(path)
        return True
    finally:
        os.close(lock)


def make_room(run_dir: str, wanted: int) -> list[str]:
    """Removes old records beside ``run_dir``, the oldest first, until so many bytes are free for a new run.

    Returns the paths that were removed.
    """
    removed: list[str] = []
    for _, _, path in _old_records(run_dir):
        status = os.statvfs(run_dir)
        if status.f_bavail * status.f_frsize >= wanted:
            break
        if not _bring_home(path):
            _remove(path)
        removed.append(path)
    return removed


def _old_records(run_dir: str) -> list[tuple[float, int, str]]:
    """Each record beside ``run_dir`` that is no longer in use: when it was changed last, its size, its path."""
    parent, name = os.path.split(os.path.abspath(run_dir))
    prefix = f"traceloop-{os.getuid()}-"
    found: list[tuple[float, int, str]] = []
    if not name.startswith(prefix):
        return found
    try:
        entries = list(os.scandir(parent))
    except OSError:
        return found
    for entry in entries:
        try:
            if entry.name == name or not entry.name.startswith(prefix) or not entry.is_dir(follow_symlinks=False):
                continue
            status = entry.stat(follow_symlinks=False)
            if status.st_uid == os.getuid() and not _in_use(entry.path):
                found.append((status.st_mtime, size_of(entry.path), entry.path))
        except OSError:
            continue
    return sorted(found)


def _in_use(path: str) -> bool:
    """Whether a process of the run or its collector lives, or may live: a run of the last minute without a collector.
    """
    age = time.time() - os.stat(path).st_mtime
    held = _is_held(path)
    if held or (held is None and age < 60):
        return True
    if _described(path, files.RUN).get("pid_namespace", 0) not in (0, pid_namespace()):
        # Its processes cannot be seen from here. A collector outlives them; without one nothing is known about them.
        return held is None and age < MAX_AGE_SECONDS
    collector = _described(path, files.COLLECTOR)
    try:
        if is_alive(int(collector["pid"]), int(collector["start_ticks"])):
            return True
    except (ValueError, KeyError, TypeError):
        pass
    for name in os.listdir(path):
        process = files.parse_process_name(name)
        if process is None or os.path.lexists(os.path.join(path, name, files.ENDED)):
            continue
        if is_alive(process.pid, process.start_ticks):
            return True
    return False


def _described(path: str, name: str) -> dict[str, Any]:
    import json

    try:
        description = json.loads(files.read_file(os.path.join(path, name), 1 << 20))
    except (OSError, ValueError, RecursionError):
        return {}
    return description if isinstance(description, dict) else {}


def size_of(path: str) -> int:
    """The bytes of the files below ``path``."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except OSError:
                pass
    return total


def _remove(path: str) -> None:
    from shutil import rmtree  # imported here: it takes a twentieth of the collector's start

    rmtree(path, ignore_errors=True)
