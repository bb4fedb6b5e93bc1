"""Modules that Cython compiles for a test."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def compiled(folder: Path, name: str, source: str) -> Iterator[Any]:
    """The module of that source. Skips where there is no Cython or no compiler."""
    pytest.importorskip("Cython")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    (folder / f"{name}.pyx").write_text(source)
    command = [sys.executable, "-m", "Cython.Build.Cythonize", "-i", "-3", f"{name}.pyx"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
