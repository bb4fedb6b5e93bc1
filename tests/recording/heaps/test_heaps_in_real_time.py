"""Leaks are named, and their healthy twin is left in peace, in real programs and real time: ten minutes.

``test_growth_rules.py`` goes through the same in no time.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.traced import Traced

SECONDS = {"none": 600, "timer": 45, "memory": 150}


@pytest.mark.slow
def test_leaks_are_named_and_the_healthy_twin_is_silent(traced: Traced, tmp_path: Path) -> None:
    running = {}
    for leak, seconds in SECONDS.items():
        command = [*traced.command, "--no-metrics", "--memory-trace", "--record", tmp_path / leak, traced.python]
        with open(tmp_path / f"{leak}.txt", "w", encoding="utf-8") as output:
            running[leak] = subprocess.Popen(
                [*command, str(ROOT / "examples" / "leaks.py"), leak, str(seconds)], stdout=output, stderr=output
            )
    reports = {}
    for leak, process in running.items():
        assert process.wait(SECONDS[leak] + 120) == 0
        whole = [traced.command[0], "report", "--full", tmp_path / leak]
        printed = subprocess.run(whole, check=True, capture_output=True, text=True).stdout
        reports[leak] = " ".join(line.strip() for line in printed.splitlines())  # it is wrapped to a terminal's width
    assert "Heaps that grew" in reports["timer"] and "Heaps that grew" in reports["memory"]
    assert "Heaps that grew" not in reports["none"], reports["none"]
    assert "most of them __main__.session_expired (set by __main__.serve:" in reports["timer"]
    assert "memory heap grew from" in reports["memory"]
    assert "examples/leaks.py:" in reports["memory"] and "under callbacks: __main__.serve (" in reports["memory"]
    assert "traced for" in reports["memory"]
