"""Prometheus' own tools: Debian's packages prometheus and prometheus-alertmanager have them."""

import subprocess
import sys

import pytest

from tests.helpers.needed_programs import need
from tests.helpers.paths import ROOT


@pytest.fixture(scope="session")
def promtool():
    """Runs promtool with arguments in a folder; returns the finished process with its output as text."""
    path = need("promtool")

    def run(*arguments, cwd=ROOT):
        return subprocess.run(
            [path, *map(str, arguments)],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )

    return run


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """An interpreter that has traceloop with its startup hook, as installed, and sees the packages of this one."""
    folder = tmp_path_factory.mktemp("traced")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    packages = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    (site / "checkout.pth").write_text(f"{ROOT}\n")
    (site / "traceloop.pth").write_bytes((ROOT / "buildtools" / "traceloop.pth").read_bytes())
    (site / "zz_packages.pth").write_text("".join(f"{entry}\n" for entry in packages))
    return str(folder / "bin" / "python")
