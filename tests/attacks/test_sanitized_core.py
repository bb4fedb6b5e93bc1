"""What is in C under AddressSanitizer and UBSan: its own tests, and all kinds of work many times over; and what a
million handles leave behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from traceloop.core.choose import load_native

ROOT = Path(__file__).parents[2]
SANITIZED = str(Path(__file__).with_name("sanitized.py"))
LEAK_HUNT = str(ROOT / "tests" / "core" / "leak_hunt.py")


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def skip_where_it_cannot_be_built() -> None:
    headers = os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
    if load_native()[0] is None or shutil.which("gcc") is None or not headers:
        pytest.skip("needs gcc, Python's headers, and an interpreter that what is in C is for")
    found = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=False)
    if not os.path.isabs(found.stdout.strip()):
        pytest.skip("needs gcc's sanitizers")


def sanitized(*command: str) -> str:
    skip_where_it_cannot_be_built()
    return run(SANITIZED, *command)


@pytest.mark.slow
def test_no_work_makes_it_misbehave() -> None:
    # The counts of blocks are the next test's: here the allocator is the sanitizers'.
    assert sanitized(LEAK_HUNT, "--handles", "50000", "--only-run").endswith("0 reports of the sanitizers\n")


@pytest.mark.slow
def test_a_thread_that_enables_faulthandler_is_no_report() -> None:
    # As the thread of a program's first loop does.
    program = "import faulthandler, threading; threading.Thread(target=faulthandler.enable).start()"
    assert sanitized("-c", program).endswith("0 reports of the sanitizers\n")


@pytest.mark.slow
def test_its_own_tests_make_no_report(tmp_path: Path) -> None:
    # Sanitized memory cannot be limited.
    options = ["-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "inner"), "-k", "not lack_of_memory"]
    tests = ["core", "reading/decoding", "reading/requests", "exporters/otlp/test_native_packing.py"]
    assert "0 reports of the sanitizers" in sanitized(
        "-m", "pytest", *options, *(f"tests/{each}" for each in tests), "-m", "not slow"
    )


@pytest.mark.slow
def test_a_million_handles_leave_nothing_behind() -> None:
    assert "offloads: " in run(LEAK_HUNT, "--handles", "1000000")
