"""Which runs the commands look at: those of this user, and nothing that somebody has put beside them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.observed import environment, program
from traceloop.cli.runs import _run_directories, _worth_watching, command_of, settings_of
from traceloop.settings import Settings


def make(place: Path, name: str) -> Path:
    path = place / f"traceloop-{os.getuid()}-{name}"
    path.mkdir()
    (path / "run.json").write_text(json.dumps({"command": ["app.py"], "settings": {"slow_threshold": 0.5}}))
    return path


def test_only_own_folders_are_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    own = make(tmp_path, "own")
    pipe = make(tmp_path, "pipe")
    (pipe / "run.json").unlink()
    os.mkfifo(pipe / "run.json")
    device = make(tmp_path, "device")
    (device / "run.json").unlink()
    (device / "run.json").symlink_to("/dev/zero")
    (tmp_path / f"traceloop-{os.getuid()}-link").symlink_to(own)
    (tmp_path / "traceloop-0x-other").mkdir()
    if os.getuid() == 0:
        os.chown(make(tmp_path, "planted"), 65534, 65534)
    assert [path for path in _run_directories() if path.startswith(str(tmp_path))] == [str(own)]
    # Named on the command line, they are opened, and nothing hangs.
    for path in (pipe, device):
        assert settings_of(str(path)) == Settings()
        assert command_of(str(path)) == str(path)
    assert settings_of(str(own)).slow_threshold == 0.5


WAITS = """
async def main():
    await asyncio.sleep(0)
    print("runs", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
run(main())
"""


def test_a_run_that_records_goes_before_scripts_that_have_just_begun(tmp_path: Path) -> None:
    now = time.time_ns()
    old, newer, script, silent = (tmp_path / name for name in ("old", "newer", "script", "silent"))
    running = []
    try:
        for place in (old, newer, script):
            place.mkdir()
            command = [sys.executable, program(place, WAITS)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            running.append(subprocess.Popen(command, env=environment(place), **pipes))  # type: ignore[call-overload]
            assert running[-1].stdout.readline() == "runs\n"
        silent.mkdir()
        for place, age in ((old, 1000), (newer, 100), (silent, 50), (script, 1)):
            (place / "run.json").write_text(json.dumps({"command": ["app.py"], "started_ns": now - age * 10**9}))
        ranked = sorted((silent, script, old, newer), key=lambda place: _worth_watching(str(place), now))
        assert [place.name for place in ranked] == ["silent", "script", "old", "newer"]
    finally:
        for process in running:
            process.communicate("\n", timeout=60)
