"""Runs that tests left in shared memory: a record there is memory that nobody gives back."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


def runs_of(folder: Path) -> dict[Path, str]:
    """The run directories in shared memory whose program, or its working directory, is in ``folder``, with its command.

    Others use the machine too: only what was started from the folder of these tests counts.
    """
    found = {}
    for path in SHARED_MEMORY.glob("traceloop-*") if SHARED_MEMORY.is_dir() else ():
        try:
            description = json.loads((path / "run.json").read_text())
        except (OSError, ValueError):
            continue
        words = [*description.get("command", ()), description.get("directory", "")]
        if any(f"{word}{os.sep}".startswith(f"{folder}{os.sep}") for word in words):
            found[path] = " ".join(map(str, description.get("command", ()))) + f" in {words[-1]}"
    return found


def remove_runs_of(folder: Path, patience: float) -> list[str]:
    """Waits for collectors that are about to remove theirs, removes what is left, and says what that was."""
    deadline = time.monotonic() + patience
    while (left := runs_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return [f"{path}: {command}" for path, command in left.items()]
