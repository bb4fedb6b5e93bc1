"""Which core runs, and that the C one agrees with what Python says of the record."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cores import NATIVE
from traceloop.record import layout
from traceloop.recording.outbox import LIMIT, UNATTENDED_SECONDS

ROOT = Path(__file__).resolve().parents[2]
NATIVE_FOLDER = ROOT / "traceloop" / "core" / "native"
RUN = """
import asyncio, traceloop
from traceloop.core.choose import core

traceloop.run(asyncio.sleep(0))
print(core().name)
"""


def run(value: str | None) -> tuple[str, str]:
    env = {name: text for name, text in os.environ.items() if name != "OTEL_PYTHON_TRACELOOP_CORE"}
    if value is not None:
        env["OTEL_PYTHON_TRACELOOP_CORE"] = value
    done = subprocess.run([sys.executable, "-c", RUN], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def test_the_variable_chooses():
    built = "c\n" if NATIVE is not None else "python\n"
    assert run(None) == (built, "")
    assert run("") == (built, "")
    assert run("python") == ("python\n", "")
    out, err = run("C ")
    assert out == built
    if NATIVE is not None:
        assert err == ""
    else:
        assert err.startswith("traceloop: OTEL_PYTHON_TRACELOOP_CORE=c, but ") and err.count("\n") == 1


CHANGED_ASYNCIO = """
import asyncio.base_futures

finished = asyncio.base_futures._FINISHED
del asyncio.base_futures._FINISHED
from traceloop.core.choose import core

core()
asyncio.base_futures._FINISHED = finished  # asyncio's own repr wants it
import traceloop

traceloop.run(asyncio.sleep(0))
print(core())
"""


@pytest.mark.skipif(NATIVE is None, reason="there is no C core here")
@pytest.mark.parametrize("value", ["", "c"])
def test_on_an_asyncio_that_it_does_not_know_python_runs(value):
    env = {**os.environ, "OTEL_PYTHON_TRACELOOP_CORE": value}
    command = [sys.executable, "-c", CHANGED_ASYNCIO]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout[:17]) == (0, "Core(name='python"), done.stderr
    assert ("it cannot be loaded" in done.stderr) == (value == "c")


FREE_THREADED = """
import sys

sys._is_gil_enabled = lambda: False  # as an interpreter without a GIL says
from traceloop.core.choose import core
from traceloop.exporters.otlp.packing import native_packer
from traceloop.reading.decoding.choose import native
import traceloop

traceloop.run(__import__("asyncio").sleep(0))
print(core().name, native(), native_packer(), *(name for name in sys.modules if name.endswith(("._core", "._reader"))))
"""


@pytest.mark.parametrize("value", ["", "c"])
def test_without_a_gil_python_runs_and_nothing_in_c_is_loaded(value):
    env = {**os.environ, "OTEL_PYTHON_TRACELOOP_CORE": value}
    command = [sys.executable, "-c", FREE_THREADED]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "python None None\n"), done.stderr
    line = "traceloop: OTEL_PYTHON_TRACELOOP_CORE=c, but it needs an interpreter with a GIL; the Python core runs\n"
    assert done.stderr == (line if value == "c" else "")


def test_an_unknown_core_is_one_line():
    out, err = run("rust\x1b[31m")
    assert out == "python\n"
    assert err.startswith("traceloop: OTEL_PYTHON_TRACELOOP_CORE must be c or python, not 'rust")
    assert err.count("\n") == 1 and "\x1b" not in err


def test_the_version_tells_which(tmp_path):
    env = {**os.environ, "OTEL_PYTHON_TRACELOOP_CORE": "python"}
    command = [sys.executable, "-m", "traceloop", "--version"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"traceloop \S+ \(Python core, Python reader, Python packer\)\n", done.stdout)
    assert done.stderr == ""


def test_the_header_has_the_layouts_numbers():
    found = dict(re.findall(r"#define (R_\w+) \((.*)\)", (NATIVE_FOLDER / "core.h").read_text()))
    assert len(found) > 10
    assert {name: float(value) for name, value in found.items()} == {name: getattr(layout, name) for name in found}


def test_the_header_has_the_layouts_sums():
    header = (NATIVE_FOLDER / "core.h").read_text()
    for name in ("W_RUNNING", "W_RECORDS", "W_HEARTBEAT", "W_LOOKED", "W_DUE", "GC_FULL", "GC_FULL_CALLED"):
        assert f"#define {name} {getattr(layout, name)}\n" in header
    assert f"#define SITE_LIMIT {float(layout.SITE_LIMIT)}\n" in header
    assert f"#define OUTCOME {layout.OUTCOME}\n" in header
    assert f"#define OUTCOME_RESULT ({float(layout.OUTCOME_RESULT)} * OUTCOME)\n" in header
    assert f"#define OUTCOME_EXCEPTION ({float(layout.OUTCOME_EXCEPTION)} * OUTCOME)\n" in header
    assert f"#define FIRST ({float(layout.FIRST_STEP)} * OUTCOME)\n" in header


def test_the_choice_reads_no_variables_of_the_build():
    """They are 60 KB of bytecode, which each start of a traced process would load."""
    code = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{RUN}\nprint('sysconfig' in sys.modules)"
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.stdout.split()[-1:] == ["False"], ran


def test_offloads_leave_records_by_the_same_rules():
    source = (NATIVE_FOLDER / "offload.c").read_text()
    assert f"#define UNATTENDED_SECONDS {UNATTENDED_SECONDS}\n" in source
    assert LIMIT == 3 * 8192 and "#define LIMIT (3 * 8192)\n" in source


def test_its_files_are_short():
    for path in NATIVE_FOLDER.iterdir():
        assert len(path.read_text().splitlines()) < 600, path.name
