"""Prometheus' own tools: Debian's packages prometheus and prometheus-alertmanager have them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def need(program: str) -> str:
    """The path of a program, or a skip that says how to get it; a failure with TRACELOOP_TESTS_NEED_PROMETHEUS=1."""
    path = shutil.which(program)
    if path is None:
        message = f"{program} is not installed (apt-get install prometheus prometheus-alertmanager)"
        if os.environ.get("TRACELOOP_TESTS_NEED_PROMETHEUS"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def promtool():
    """Runs promtool with arguments in a folder; returns the finished process with its output as text."""
    path = need("promtool")

    def run(*arguments, cwd=REPOSITORY):
        return subprocess.run(
            [path, *map(str, arguments)],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )

    return run
