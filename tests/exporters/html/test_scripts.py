"""The page's source: readable lines, and scripts that TypeScript's compiler finds nothing wrong with."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.helpers.paths import ROOT
from traceloop.exporters.html.page import _SCRIPTS

FOLDER = ROOT / "exporters" / "html"
# Names that nothing uses, paths without a result, and whatever its types say.
CHECKS = ("--noUnusedLocals", "--noUnusedParameters", "--noImplicitReturns", "--noFallthroughCasesInSwitch")


def test_lines_are_as_long_as_pythons_at_most():
    parts = [path for path in FOLDER.iterdir() if path.suffix in (".js", ".css", ".html")]
    assert len(parts) >= 8
    long = [
        f"{path.name}:{number}"
        for path in parts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 120
    ]
    assert long == []


def check(*scripts):
    words = ["tsc", "--noEmit", "--allowJs", "--checkJs", "--target", "es2022", "--lib", "es2022,dom,dom.iterable"]
    return subprocess.run([*words, *CHECKS, *map(str, scripts)], capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(shutil.which("tsc") is None, reason="tsc is not installed (apt-get install node-typescript)")
def test_the_scripts_types_are_right(tmp_path):
    scripts = [FOLDER / name for name in _SCRIPTS]
    assert sorted(scripts) == sorted(FOLDER.glob("*.js"))
    done = check(*scripts)
    assert (done.returncode, done.stdout) == (0, "")
    wrong = tmp_path / "wrong.js"
    wrong.write_text('document.title = seconds("1") + coumt(2);\n')
    done = check(*scripts, wrong)
    assert done.returncode != 0 and "coumt" in done.stdout
