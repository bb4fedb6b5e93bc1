"""Records of crashed runs are kept to be read, but neither for ever nor without bounds.

They lie in shared memory, which is the machine's memory: the oldest go first. Containers may share that memory and not
see each other's processes, so a collector also holds a lock in the run directory for as long as it lives.

A run whose collector was killed too leaves its record here although `--record` was to keep it elsewhere: the collector
of the next run brings it there. One whose collector could not copy it stays, as that has said.
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
    """Marks the run as living; until the descriptor that is returned is closed. -1 where that is not possible."""
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
    """Whether a collector holds the run; None where none ever did."""
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
    return min(MAX_BYTES, size // 4) if size else MAX_BYTES  # a tmpfs without a limit says 0


def expire(run_dir: str, *, max_age: float = MAX_AGE_SECONDS, max_bytes: int | None = None) -> list[str]:
    """Removes old records beside ``run_dir``: those of this user, by name, that no living process belongs to.

    Those that `--record` was to keep go to its folder first.

    ``max_bytes``: what they may take together, None for their share of the file system; the oldest go first. Returns
    the paths that were removed. Never raises for what lies there.
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
    """Moves an old record to the folder that `--record` named, where that is still there; whether that was done."""
    if os.path.lexists(os.path.join(path, files.STAYS)):
        return False  # whoever was told where it is looks for it there
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
            return False  # no permission, a full disk: it stays until it expires
        _remove(path)
        return True
    finally:
        os.close(lock)


def make_room(run_dir: str, wanted: int) -> list[str]:
    """Removes old records beside ``run_dir``, the oldest first, until so many bytes are free: a new run comes first.

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
    """When it was changed, its size and its path for each record beside ``run_dir`` that is in use no more."""
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
    """Whether a process of the run, or its collector, lives; or may: it is a minute old and had no collector yet."""
    age = time.time() - os.stat(path).st_mtime
    held = _is_held(path)
    if held or (held is None and age < 60):
        return True
    if _described(path, files.RUN).get("pid_namespace", 0) not in (0, pid_namespace()):
        # Its processes cannot be asked for. A collector outlives them all; of a run without one nothing is known.
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
    """Bytes that the files below ``path`` take."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except OSError:
                pass
    return total


def _remove(path: str) -> None:
    from shutil import rmtree  # with what it imports, a twentieth of the collector's start

    rmtree(path, ignore_errors=True)
