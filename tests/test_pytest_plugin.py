"""`pytest --traceloop` on a small test suite."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

SUITE = """
import asyncio, time
async def good():
    await asyncio.sleep(0.001)
async def blocking():
    time.sleep(0.2)
def test_good():
    asyncio.run(good())
def test_blocking():
    asyncio.run(blocking())
def test_traced():
    assert asyncio.SelectorEventLoop.__module__.startswith("traceloop") is {traced}
"""

# Installed, the plugin is found by its entry point, and naming it as well would register its options twice.
INSTALLED = any(entry.value == "traceloop.pytest_plugin" for entry in entry_points(group="pytest11"))
PLUGIN = [] if INSTALLED else ["-p", "traceloop.pytest_plugin"]


def run(folder: Path, *options: str, traced: bool = True) -> subprocess.CompletedProcess[str]:
    (folder / "test_suite.py").write_text(SUITE.replace("{traced}", str(traced)))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTEST"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PLUGIN, *options],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_slowest_callbacks_are_shown(tmp_path: Path) -> None:
    result = run(tmp_path, "--traceloop")
    assert result.returncode == 0, result.stdout
    table = result.stdout.partition("slowest callbacks")[2].splitlines()
    assert "test_suite.blocking" in table[1] and "test_suite.py::test_blocking" in table[1]
    assert 200 <= float(table[1].split()[0]) < 5000
    assert "callbacks" in table[-2] or "callbacks" in table[-1]


def test_a_callback_over_the_limit_fails_its_test_only(tmp_path: Path) -> None:
    result = run(tmp_path, "--traceloop-slow", "0.1")
    assert result.returncode == 1
    assert "1 failed, 2 passed" in result.stdout
    assert "test_suite.blocking ran for 0.2" in result.stdout


def test_without_the_option_nothing_is_changed(tmp_path: Path) -> None:
    result = run(tmp_path, traced=False)
    assert result.returncode == 0 and "slowest" not in result.stdout


@pytest.mark.parametrize("text", ["0", "-1", "fast"])
def test_a_limit_out_of_range_is_refused(text: str, tmp_path: Path) -> None:
    result = run(tmp_path, f"--traceloop-slow={text}")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR and "above 0" in result.stderr
