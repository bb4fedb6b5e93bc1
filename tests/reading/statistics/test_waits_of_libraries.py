"""What the report says of waits in asyncio and in libraries, beside the truth: line, name, number, seconds.

`python -m tests.reading.statistics.test_waits_of_libraries` prints the table.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.helpers.cores import CORES
from tests.helpers.local_servers import postgres, redis
from tests.helpers.paths import ROOT

PROGRAM = Path(__file__).with_name("waits_of_libraries.py")


class Row(NamedTuple):
    """One case: what is true, what the report says; seconds."""

    name: str
    line: int
    inside: str
    true_waits: int
    true_seconds: float
    failed: str
    waits: int
    seconds: float
    others: list[str]


def compared(folder: Path, core: str) -> Iterator[Row]:
    """Runs the program on this core, with the servers that there are."""
    kept, truth = folder / "kept", folder / "truth.json"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OTEL_PYTHON_TRACELOOP_CORE": core}

    def python(*arguments: object) -> str:
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command, env=environment, check=True, timeout=300, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ).stdout.decode()

    with postgres() as socket_folder, redis() as port:
        python(PROGRAM, kept, truth, socket_folder or "", port or "")
    (process,) = json.loads(python("-m", "traceloop", "report", "--json", kept))["processes"]
    said: dict[str, list[dict[str, Any]]] = {}
    for each in process["waits"]:
        said.setdefault(each["coroutine"].removeprefix("__main__."), []).append(each)
    for name, case in json.loads(truth.read_text()).items():
        at = [each for each in said.get(name, ()) if each["line"] == case["line"]]
        right = [each for each in at if each["inside"] == case["inside"]]
        yield Row(
            name,
            case["line"],
            case["inside"],
            case["waits"],
            case["seconds"],
            case.get("failed", ""),
            sum(each["waits"] for each in right),
            sum(each["seconds"] for each in right),
            [each["inside"] for each in at if each not in right],
        )


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
def test_the_report_says_where_tasks_waited_and_for_how_long(tmp_path: Path, core: str) -> None:
    rows = list(compared(tmp_path, core))
    assert len(rows) >= 11  # asyncio's own, wherever there is no library
    for row in rows:
        assert not row.failed and not row.others, row
        # What is read or set up at the same line may be seen too.
        assert row.waits >= row.true_waits, row
        assert row.seconds >= row.true_seconds - 0.05, row


if __name__ == "__main__":
    for each_core in CORES:
        print(f"\n{sys.version.split()[0]}, {each_core} core")
        print(f"{'case':18} {'line':>4}  {'waits for':54} {'at least':>12} {'said':>12}")
        with tempfile.TemporaryDirectory() as place:
            for row in compared(Path(place), each_core):
                true, told = f"{row.true_waits} x, {row.true_seconds:.2f} s", f"{row.waits} x, {row.seconds:.2f} s"
                wrong = "  ".join([row.failed, *row.others])
                print(f"{row.name:18} {row.line:>4}  {row.inside:54} {true:>12} {told:>12}  {wrong}".rstrip())
