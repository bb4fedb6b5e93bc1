"""An interpreter with traceloop's startup hook, for programs to be run under."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.leftovers import remove_run, run_of
from tests.helpers.paths import ROOT


class Traced:
    """A virtual environment that sees this one's packages, and has traceloop installed as a wheel would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = str(folder / "bin" / "python")
        self.command = [str(folder / "bin" / "traceloop"), "run"]
        #: Of a script that its interpreter runs. A kernel ends the path at a blank, so a shell has to start that.
        self.first_line = f"#!{self.python}\n"
        if " " in self.python:
            self.first_line = f"#!/bin/sh\n'''exec' '{self.python}' \"$0\" \"$@\"\n' '''\n"


def _install(site: Path) -> None:
    """Lays the packages out as a wheel has them."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "traceloop", site / "traceloop", ignore=ignored)
    for name in ("exporters", "cli", "dashboards"):
        shutil.copytree(ROOT / name, site / "traceloop" / name, ignore=ignored)
    for name in ("", "findings", "runbooks"):
        (site / "traceloop" / "docs" / name).mkdir(parents=True)
        for page in (ROOT / "docs" / name).glob("*.md"):
            shutil.copy(page, site / "traceloop" / "docs" / name)


def make_traced(folder: Path) -> Traced:
    """Makes the environment in an existing empty folder."""
    # Readable for the tests that run as another user.
    for parent in (folder, *folder.parents):
        if parent.owner() == folder.owner() and parent != Path("/tmp") and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = Path(
        sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}, scheme="venv")
        if "venv" in sysconfig.get_scheme_names()
        else folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    )
    outer = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    # After the hook's own line in the alphabet, as dependencies may come in any order.
    (site / "zz_packages.pth").write_text("".join(f"{entry}\n" for entry in outer))
    _install(site)
    # Programs run with PYTHONDONTWRITEBYTECODE: what is not compiled here is compiled by each of them.
    subprocess.run([str(folder / "bin" / "python"), "-m", "compileall", "-q", str(site / "traceloop")], check=True)
    (site / "traceloop.pth").write_bytes((ROOT / "buildtools" / "traceloop.pth").read_bytes())
    result = Traced(folder)
    script = Path(result.command[0])
    script.write_text(f"{result.first_line}from traceloop.cli.main import main\nmain()\n")
    script.chmod(0o755)
    for name in ("uvicorn", "gunicorn", "hypercorn", "daphne", "sanic", "granian", "pytest"):
        outer_script = Path(os.path.dirname(sys.executable), name)
        if outer_script.exists():
            lines = outer_script.read_text(errors="replace").splitlines(keepends=True)
            (folder / "bin" / name).write_text(result.first_line + "".join(lines[1:]))
            (folder / "bin" / name).chmod(0o755)
    return result

@contextlib.contextmanager
def started(traced: Traced, *words: str | Path, line: str = "ready") -> Iterator[subprocess.Popen[str]]:
    """A program under `traceloop run`, once it has printed ``line``; killed at the end. ``words``: options, program."""
    process = subprocess.Popen(
        [*traced.command, "--no-metrics", *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    left = None
    try:
        assert process.stdout is not None and process.stdout.readline() == f"{line}\n"
        left = run_of(process.pid)  # now: the block may kill it
        yield process
    finally:
        if left is None and process.poll() is None:
            left = run_of(process.pid)
        process.kill()
        process.communicate()
        remove_run(left)
