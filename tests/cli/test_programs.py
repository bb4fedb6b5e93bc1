"""What the words after `traceloop run` name."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from traceloop.cli.programs import Refused, resolve

SHELL_AND_PYTHON = """#!/bin/sh
''':'
exec python3 "$0" "$@"
'''
print("python")
"""


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "first_line",
    [
        "#!/usr/bin/env -S uv run --script",
        "#!/usr/bin/env -S poetry run python",
        "#!/usr/bin/env -S pipx run",
        "#!/usr/bin/env ipython",
        "#!/usr/bin/env pytest",
        "#!/usr/bin/env nix-shell\n#!nix-shell -i python3 -p python3",
        "#!/usr/bin/sage",
    ],
)
def test_a_script_given_by_its_path_is_run_whatever_its_first_line_names(first_line: str, tmp_path: Path) -> None:
    path = script(tmp_path / "app.py", f"{first_line}\nprint('ran')\n")
    program = resolve([str(path), "--option"], {"PATH": "/bin"})
    assert program.argv == [sys.executable, str(path), "--option"]


def test_a_script_that_is_shell_and_python_at_once_is_run(tmp_path: Path) -> None:
    path = script(tmp_path / "both", SHELL_AND_PYTHON)
    assert resolve([str(path)], {}).argv == [sys.executable, str(path)]


def test_a_zip_file_behind_a_shell_script_is_run(tmp_path: Path) -> None:
    """As pex --sh-boot makes them."""
    path = tmp_path / "app.pex"
    path.write_bytes(b'#!/bin/sh\nif true; then exec python3 "$0" "$@"; fi\n')
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("__main__.py", "print('ran')")
    path.chmod(0o755)
    assert resolve([str(path)], {}).argv == [sys.executable, str(path)]


def test_what_python_cannot_run_is_refused(tmp_path: Path) -> None:
    path = script(tmp_path / "deploy", "#!/usr/bin/env -S bash -eu\nfor x in 1 2; do echo $x; done\n")
    with pytest.raises(Refused, match="deploy is a script for bash, not a Python program"):
        resolve([str(path)], {})


@pytest.mark.parametrize("first_line", ["#!/usr/bin/env -S uv run --script", "#!/usr/bin/env -Suv run --script"])
def test_for_a_command_on_path_the_first_line_counts(first_line: str, tmp_path: Path) -> None:
    script(tmp_path / "sometool", f"{first_line}\nprint('ran')\n")
    with pytest.raises(Refused, match="sometool is a script for uv"):
        resolve(["sometool"], {"PATH": str(tmp_path)})


def test_a_command_on_path_gets_the_interpreter_and_options_of_its_first_line(tmp_path: Path) -> None:
    other = script(tmp_path / "python3.99", "")
    command = script(tmp_path / "sometool", "#!/usr/bin/env -S python3.99 -X dev -u\nprint('ran')\n")
    program = resolve(["sometool", "-x"], {"PATH": str(tmp_path)})
    assert program.argv == [str(other), "-X", "dev", "-u", str(command), "-x"]
