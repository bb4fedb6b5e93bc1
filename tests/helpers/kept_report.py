"""A program that keeps its record in the folder it is given, and what `traceloop report --json` says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers.paths import ROOT


def report_of(folder: Path, program: str, core: str, timeout: float = 120) -> Any:
    """Runs ``program`` as folder/app.py on that core, with folder/kept as its argument; returns the report's JSON."""
    (folder / "app.py").write_text(program)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OTEL_PYTHON_TRACELOOP_CORE": core}

    def python(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            check=True,
            timeout=timeout,
            capture_output=True,
            text=True,
        ).stdout

    python("app.py", str(folder / "kept"))
    (kept,) = (folder / "kept").iterdir()
    return json.loads(python("-m", "traceloop", "report", "--json", str(kept)))
