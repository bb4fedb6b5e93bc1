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


@pytest.mark.skipif(shutil.which("tsc") is None, reason="tsc is not installed (apt-get install node-typescript)")
def test_the_scripts_types_are_right(tmp_path):
    scripts = [FOLDER / name for name in _SCRIPTS]
    assert sorted(scripts) == sorted(FOLDER.glob("*.js"))
    # A script with two faults shows that faults are found, in the same run of the compiler: it takes long to start.
    wrong = tmp_path / "wrong.js"
    wrong.write_text('coumt(2);\n(() => { const unused = 1; })();\n')
    command = ["tsc", "--noEmit", "--allowJs", "--checkJs", "--target", "es2022", "--lib", "es2022,dom,dom.iterable"]
    done = subprocess.run([*command, *CHECKS, *map(str, scripts), str(wrong)], capture_output=True, text=True)
    assert done.returncode != 0
    faults = [line.rpartition("wrong.js") for line in done.stdout.splitlines()]
    assert [where[:2] for _, found, where in faults if found] == ["(1", "(2"] and len(faults) == 2, done.stdout
