"""The reader's C half under AddressSanitizer and UBSan, fed with mutated batches; fuzz_reader.py takes more of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from traceloop.reading.decoding.choose import load_native

SCRIPT = Path(__file__).with_name("fuzz_reader.py")


def can_be_built() -> bool:
    headers = os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
    if load_native() is None or shutil.which("gcc") is None or not headers:
        return False
    found = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=False)
    return os.path.isabs(found.stdout.strip())


@pytest.mark.slow
def test_no_batch_makes_it_misbehave() -> None:
    if not can_be_built():
        pytest.skip("needs gcc, its sanitizers, Python's headers, and an interpreter that the C half is for")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--inputs", "100000"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.startswith("100,000 inputs"), done.stdout
