"""Records of crashed runs are kept for whoever wants to read them, but neither for ever nor without bounds.

They lie in shared memory, which is the machine's memory: the oldest go first.
"""

from __future__ import annotations

import os
import shutil
import time

from .traced_processes import is_alive

MAX_AGE_SECONDS = 7 * 24 * 3600.0
MAX_BYTES = 256 << 20


def expire(run_dir: str, *, max_age: float = MAX_AGE_SECONDS, max_bytes: int = MAX_BYTES) -> list[str]:
    """Removes old records beside ``run_dir``: those of this user, by name, that no living process belongs to.

    Returns the paths that were removed. Never raises for what lies there.
    """
    parent, name = os.path.split(os.path.abspath(run_dir))
    prefix = f"traceloop-{os.getuid()}-"
    if not name.startswith(prefix):
        return []
    found: list[tuple[float, int, str]] = []
    try:
        entries = list(os.scandir(parent))
    except OSError:
        return []
    for entry in entries:
        try:
            if entry.name == name or not entry.name.startswith(prefix) or not entry.is_dir(follow_symlinks=False):
                continue
            status = entry.stat(follow_symlinks=False)
            if status.st_uid == os.getuid() and not _in_use(entry.path):
                found.append((status.st_mtime, _size(entry.path), entry.path))
        except OSError:
            continue
    removed: list[str] = []
    total = sum(size for _, size, _ in found)
    now = time.time()
    for changed, size, path in sorted(found):
        if now - changed > max_age or total > max_bytes:
            shutil.rmtree(path, ignore_errors=True)
            total -= size
            removed.append(path)
    return removed


def _in_use(path: str) -> bool:
    """Whether a process of the run, or its collector, lives; or may, because the run is a minute old."""
    if time.time() - os.stat(path).st_mtime < 60:
        return True
    try:
        import json

        with open(os.path.join(path, "collector.json"), encoding="utf-8") as file:
            description = json.load(file)
        if is_alive(int(description["pid"]), int(description["start_ticks"])):
            return True
    except (OSError, ValueError, KeyError, TypeError):
        pass
    for name in os.listdir(path):
        parts = name.split("-")
        if parts[0] == "p" and len(parts) >= 3 and parts[1].isdigit() and parts[2].isdigit():
            if os.path.exists(os.path.join(path, name, "ended")):
                continue
            if is_alive(int(parts[1]), int(parts[2])):
                return True
    return False


def _size(path: str) -> int:
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                pass
    return total
