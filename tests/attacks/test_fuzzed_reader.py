"""The reader's C half under AddressSanitizer and UBSan, fed with mutated batches; fuzz_reader.py takes more of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks.test_sanitized_core import skip_where_it_cannot_be_built

SCRIPT = Path(__file__).with_name("fuzz_reader.py")


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--quick"]], ids=["objects", "memory"])
def test_no_batch_makes_it_misbehave(more: list[str]) -> None:
    skip_where_it_cannot_be_built()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--inputs", "100000", *more], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.startswith("100,") and done.stdout.endswith("0 reports of the sanitizers\n"), done.stdout
