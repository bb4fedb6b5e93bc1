"""The reader's C half under AddressSanitizer and UBSan, fed with mutated batches; fuzz_reader.py takes more of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks.test_sanitized_core import skip_where_it_cannot_be_built

SCRIPT = Path(__file__).with_name("fuzz_reader.py")


def fuzz(*options: str) -> str:
    skip_where_it_cannot_be_built()
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_no_batch_makes_it_misbehave() -> None:
    """Every time, since a read beyond an array goes unnoticed elsewhere."""
    told = fuzz("--inputs", "30000")
    assert told.startswith("30,") and told.endswith("0 reports of the sanitizers\n"), told


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--quick"]], ids=["objects", "memory"])
def test_nor_do_more_of_them(more: list[str]) -> None:
    told = fuzz("--inputs", "100000", *more)
    assert told.startswith("100,") and told.endswith("0 reports of the sanitizers\n"), told
