"""What `make` does on a machine that lacks something."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

#: Like Debian's python3 without python3-venv: it leaves a python there, and no pip.
HALF = """#!/bin/sh
[ "$1 $2" = "-m venv" ] || exit 0
mkdir -p "$3/bin" && ln -sf "$0" "$3/bin/python"
echo "ensurepip is not available"
exit 1
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_virtual_environment_that_failed_halfway_is_made_anew(tmp_path: Path) -> None:
    python, venv = tmp_path / "python3", tmp_path / "venv"
    python.write_text(HALF)
    python.chmod(0o755)
    command = ["make", f"PYTHON={python}", f"VENV={venv}", f"{venv}/bin/python"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of `make test`
    for _ in range(2):
        made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert made.returncode == 2
        assert "ensurepip is not available" in made.stdout
