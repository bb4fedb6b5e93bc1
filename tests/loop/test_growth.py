"""Nothing grows, whatever the loop has done: each case of growth_cases.py in an interpreter of its own."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

from .growth_cases import CASES

PROGRAM = pathlib.Path(__file__).with_name("growth_cases.py")
SLOW = {"a_hundred_thousand_connections"}


@pytest.mark.parametrize("recording", ["recorded", "unrecorded"])
@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES])
def test_nothing_grows(case, recording):
    done = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM, case, recording],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    # The watchdog tells of the long runs that the cases are.
    said = [line for line in done.stderr.splitlines() if not line.startswith("traceloop: ")]
    assert (done.returncode, said) == (0, [])
