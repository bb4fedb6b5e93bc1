"""Runs that tests left in shared memory: a record there is memory that nobody gives back."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

from tests.helpers.waiting import until
from traceloop.record.proc import is_alive, process_start_ticks

SHARED_MEMORY = Path("/dev/shm")


def runs_of(folder: Path) -> dict[Path, str]:
    """The run directories in shared memory whose program, working directory or one of whose interpreters is in
    ``folder``, with its command.

    Others use the machine too: only what was started from the folder of these tests counts. Of the program a record
    mostly has the bare name.
    """
    found = {}
    for path in SHARED_MEMORY.glob("traceloop-*") if SHARED_MEMORY.is_dir() else ():
        try:
            description = json.loads((path / "run.json").read_text())
        except (OSError, ValueError):
            continue
        words = [*interpreters_of(path), *description.get("command", ()), description.get("directory", "")]
        if any(f"{word}{os.sep}".startswith(f"{folder}{os.sep}") for word in words):
            found[path] = " ".join(map(str, description.get("command", ()))) + f" in {words[-1]}"
    return found


def interpreters_of(run: Path) -> list[str]:
    found = []
    for file in run.glob("p-*/process.json"):
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads(file.read_text()).get("executable", ""))
    return found


def run_of(pid: int) -> Path | None:
    """The run directory in shared memory of a process that runs and has recorded something."""
    name = f"p-{pid}-{process_start_ticks(pid)}"
    return next((each.parent for each in SHARED_MEMORY.glob(f"traceloop-*/{name}")), None)


def remove_run(folder: Path | None) -> None:
    """Of a program that was killed: waits until its collector has kept the record, and removes that."""
    if folder is None:
        return
    with contextlib.suppress(OSError, ValueError, KeyError):
        collector = json.loads((folder / "collector.json").read_text())["pid"]
        until(lambda: not is_alive(collector), "the end of a collector")
    shutil.rmtree(folder, ignore_errors=True)


def remove_runs_of(folder: Path, patience: float) -> list[str]:
    """Waits for collectors that are about to remove theirs, removes what is left, and says what that was."""
    deadline = time.monotonic() + patience
    while (left := runs_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return [f"{path}: {command}" for path, command in left.items()]
