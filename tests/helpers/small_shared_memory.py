"""A program whose /dev/shm is a small file system of its own, as in a container."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.helpers.differential import clean_environ


def run_in_shared_memory(size: str, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a shell script in ``folder`` with a /dev/shm of this size (as for mount: ``16m``). Skips the test where
    nothing may be mounted.
    """
    script = f"mount -t tmpfs -o size={size} tmpfs /dev/shm || exit 77\n{script}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], cwd=folder, env=clean_environ(), capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    if "unshare" in done.stderr or done.returncode == 77:
        pytest.skip("needs the right to mount")
    return done
