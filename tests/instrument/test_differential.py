"""`traceloop run X` is `python X`: the same output, the same errors, the same status."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.differential import Outcome, comparable, notices, outcome
from tests.helpers.leftovers import remove_runs_of
from tests.helpers.traced import Traced

from .odd_programs import ODD_PROGRAMS
from .programs import PROGRAMS, Program

PLAIN = ""
SURROUNDINGS = {
    "process 1 of a pid namespace": 'exec unshare --pid --fork --mount-proc --kill-child "$@"',
    "read-only root": (
        'exec unshare --mount sh -c \'mount --make-rprivate / && mount -o remount,bind,ro / && exec "$@"\' - "$@"'
    ),
    "64 MB of shared memory": (
        "exec unshare --mount sh -c 'mount --make-rprivate / && mount -t tmpfs -o size=64m shm /dev/shm"
        ' && exec "$@"\' - "$@"'
    ),
    "no shared memory": (
        "exec unshare --mount sh -c 'mount --make-rprivate / && mount -t tmpfs -o ro shm /dev/shm"
        ' && exec "$@"\' - "$@"'
    ),
    "another user": 'exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"',
}


def opened(command: str, folders: list[str], aside: Path) -> str:
    """``command``, where another user may enter ``folders`` though they lie in somebody's home.

    In a mount namespace of its own, an empty folder that is open covers each closed one above them, and what is wanted
    of it is mounted at its place again.
    """
    closed = {
        str(next(parent for parent in reversed(Path(folder).parents) if not parent.stat().st_mode & 0o001)): None
        for folder in folders
        if any(not parent.stat().st_mode & 0o001 for parent in Path(folder).parents)
    }
    if not closed:
        return command
    lines = ["mount --make-rprivate /"]
    kept = [folder for folder in folders if any(folder.startswith(f"{above}/") for above in closed)]
    for number, folder in enumerate(kept):
        (aside / str(number)).mkdir(parents=True)
        lines.append(f"mount --rbind {shlex.quote(folder)} {shlex.quote(str(aside / str(number)))}")
    lines += [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(above)}" for above in closed]
    for number, folder in enumerate(kept):
        place = shlex.quote(folder)
        lines += [f"mkdir -p {place}", f"mount --rbind {shlex.quote(str(aside / str(number)))} {place}"]
    script = " && ".join([*lines, command])
    return f'exec unshare --mount sh -c {shlex.quote(script)} - "$@"'


#: Programs worth running in every surrounding; the others do not touch what differs there.
EVERYWHERE = (
    "look",
    "exit 3",
    "exception in loop",
    "os._exit in loop",
    "abort",
    "sigterm in loop",
    "sigint from outside",
    "exec",
    "fork",
    "daemon",
    "multiprocessing spawn",
    "subprocess",
)


def write_files(program: Program, folder: Path) -> None:
    for name, text in program.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def run(program: Program, command: list[str], folder: Path, python: str, surrounding: str) -> Outcome:
    words = list(program.words)
    if words[0] == "python":
        words = words[1:] if command[-1] != "run" else [python, *words[1:]]
    line = [*command, *words]
    for shell in (program.shell, surrounding):
        if shell:
            line = ["sh", "-c", shell, "sh", *line]
    environ = {"PYTHON": python, **program.environ}
    return outcome(line, folder, stdin=program.stdin, environ=environ, interrupt=program.interrupt)


def compare(program: Program, traced: Traced, folder: Path, surrounding: str = PLAIN) -> tuple[Outcome, Outcome]:
    write_files(program, folder)
    plain = run(program, [traced.python], folder, traced.python, surrounding)
    under = run(program, traced.command, folder, traced.python, surrounding)
    if not 0 <= plain.status < 128 or surrounding == SURROUNDINGS["process 1 of a pid namespace"]:
        # The record of a crash stays by design; so does any where the kernel ended the collector with process 1.
        remove_runs_of(folder, 1)
    assert comparable(under) == comparable(plain), notices(under)
    return plain, under


@pytest.mark.parametrize("name", [*PROGRAMS, *ODD_PROGRAMS])
def test_same_as_under_python(name: str, traced: Traced, tmp_path: Path) -> None:
    compare((PROGRAMS | ODD_PROGRAMS)[name], traced, tmp_path)


@pytest.mark.parametrize("surrounding", SURROUNDINGS)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_same_everywhere(name: str, surrounding: str, traced: Traced, tmp_path: Path) -> None:
    command = SURROUNDINGS[surrounding]
    if surrounding == "another user":
        packages = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
        command = opened(command, list(dict.fromkeys([sys.base_prefix, *packages])), tmp_path / "aside")
    write_files(PROGRAMS[name], tmp_path)
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/tmp") and str(folder).startswith("/tmp/"):
            folder.chmod(0o777)
    # In two steps: the first program of another user may still have been opened with our rights.
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import asyncio'], check=True)"
    trial = subprocess.run(
        ["sh", "-c", command, "sh", traced.python, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    if trial.returncode != 0:
        pytest.skip(f"not possible here: {trial.stderr.strip().splitlines()[-1]}")
    program = PROGRAMS[name]
    if surrounding.startswith("process 1") and program.interrupt is not None:
        # unshare stands between the sender and the program, and dies of the signal itself.
        pytest.skip("the signal does not reach the program")
    if surrounding.startswith("process 1") and name == "daemon":
        pytest.skip("the kernel ends the daemon with process 1, before or after it has printed")
    compare(program, traced, tmp_path, command)
