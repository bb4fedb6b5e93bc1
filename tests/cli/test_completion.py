"""`traceloop completion`: shells get our commands, options and files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT


def traceloop(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "traceloop", *words],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


def completed(line: str) -> list[str]:
    """What bash is told for ``line``, whose last word is completed."""
    words = line.split(" ")
    done = traceloop(COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), _TRACELOOP_COMPLETE="bash_complete")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_takes(shell: str, tmp_path: os.PathLike[str]) -> None:
    done = traceloop("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_TRACELOOP_COMPLETE" in done.stdout
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=done.stdout, capture_output=True, text=True, timeout=120)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_another_shell_is_refused() -> None:
    done = traceloop("completion", "csh")
    assert done.returncode == 2 and done.stderr.startswith("traceloop: ") and len(done.stderr.splitlines()) == 1


def test_commands_options_and_files() -> None:
    assert {"plain,run", "plain,report", "plain,completion"} <= set(completed("traceloop "))
    assert completed("traceloop rep") == ["plain,report"]
    assert completed("traceloop run --no-m") == ["plain,--no-metrics"]
    assert completed("traceloop run --slow-threshold 0.5 --no-m") == ["plain,--no-metrics"]
    assert completed("traceloop run app") == ["file,app"]
    # What follows the program belongs to it.
    assert completed("traceloop run app.py --no-m") == ["file,--no-m"]
    assert "plain,--width" in completed("traceloop report --w")
