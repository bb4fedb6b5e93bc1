"""Runs a program under `python` and under `traceloop run`, and says where the two differ."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# A traceback through the loop names the loop's own file: there, and only there, the two must differ.
_LOOP_FRAME = re.compile(r'  File "[^"]*/(?:asyncio|traceloop/(?:loop|core))/[^"]*", line \d+, in .*\n(?:    .*\n)*')
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
_TIME = re.compile(r" in \d+\.\d+s")
_PID = re.compile(r"\bpid[ =:]+\d+")


class Outcome(NamedTuple):
    """What a caller sees of a program: all of it is to be equal."""

    status: int
    stdout: str
    stderr: str


def clean_environ(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    out = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON", "COVERAGE"))}
    # Two runs must not differ because the first one wrote the bytecode.
    return {**out, "PYTHONDONTWRITEBYTECODE": "1", **(extra or {})}


def outcome(
    command: Sequence[str],
    folder: Path,
    *,
    stdin: str = "",
    environ: Mapping[str, str] | None = None,
    interrupt: signal.Signals | None = None,
    timeout: float = 60,
) -> Outcome:
    """Runs it. With `interrupt`, sends that signal as soon as the program has written a line."""
    process = subprocess.Popen(
        list(command),
        cwd=folder,
        env=clean_environ(environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
    )
    first = ""
    if interrupt is not None:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(interrupt)
    try:
        stdout, stderr = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        stderr += "\n<timed out>"
    return Outcome(process.returncode, first + stdout, stderr)


def notices(result: Outcome) -> list[str]:
    """The lines of ours."""
    return [line for line in result.stderr.splitlines() if line.startswith("traceloop: ")]


def comparable(result: Outcome) -> Outcome:
    """Without our lines, the loop's own frames and what differs from run to run."""
    stderr = "".join(line for line in result.stderr.splitlines(keepends=True) if not line.startswith("traceloop: "))
    stderr = _LOOP_FRAME.sub("", stderr)
    stderr = _TIME.sub(" in N s", stderr)
    texts = [_PID.sub("pid N", _ADDRESS.sub("0x0", text)) for text in (result.stdout, stderr)]
    return Outcome(result.status, *texts)
