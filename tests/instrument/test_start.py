"""`traceloop.start()`: a run that a program begins, and ends, itself."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

PREAMBLE = """
import asyncio, json, os, pathlib, sys, traceloop, urllib.request

async def work(n):
    for _ in range(n):
        await asyncio.sleep(0)

def runs(run):
    text = urllib.request.urlopen(run.metrics_url).read().decode()
    lines = [line for line in text.splitlines() if line.startswith("asyncio_callback_runs_total{") and ".work" in line]
    if run.settings.run_dir:
        print("folder", run.settings.run_dir)
    return [int(float(line.split()[-1])) for line in lines]

def own_folders():
    return [
        path for path in pathlib.Path("/dev/shm").glob("traceloop-*/run.json")
        if json.loads(path.read_text())["pid"] == os.getpid()
    ]
"""


def start(code: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
        env={**clean, "PYTHONPATH": str(ROOT), **(environ or {})},
        capture_output=True,
        text=True,
        timeout=120,
    )


def left_of(code_output: str) -> list[str]:
    """Folders of runs that are still there some seconds after their end; PREAMBLE's `folders` named them."""
    names = [line.partition(" ")[2] for line in code_output.splitlines() if line.startswith("folder ")]
    assert names
    deadline = time.monotonic() + 120
    while (left := [name for name in names if Path(name).exists()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def without_folders(output: str) -> list[str]:
    return [line for line in output.splitlines() if not line.startswith("folder ")]


BAD = {
    "slow_threshold=-1": "slow_threshold: expected SECONDS above 0",
    "metrics_port=99999": "metrics_port: expected a port from 0 to 65535",
    "metrics_port=True": "metrics_port: expected a port",
    "metrics_prot=1": "did you mean metrics_port?",
    "spans='sometimes'": "spans: expected all, slow, off or a ratio",
    "report='perhaps'": "report: expected true or false",
    "ring_size=5": "ring_size: expected a size",
    "run_dir='/tmp'": "run_dir: no such setting",
    "collector='none', report=True": "report: with collector='none'",
}


def test_what_cannot_be_used_raises_and_begins_nothing() -> None:
    calls = "\n".join(
        f"try:\n    print('accepted', traceloop.start({bad}))\nexcept ValueError as e:\n    print(e)" for bad in BAD
    )
    done = start(calls + "\nprint([name for name in os.environ if 'TRACELOOP' in name])")
    *lines, variables = done.stdout.splitlines()
    assert variables == "[]" and done.stderr == ""
    for line, expected in zip(lines, BAD.values(), strict=True):
        assert expected in line


def test_a_taken_port_raises_and_leaves_nothing_behind() -> None:
    done = start("""
        import socket
        taken = socket.create_server(("127.0.0.1", 0))
        try:
            traceloop.start(metrics_host="127.0.0.1", metrics_port=taken.getsockname()[1])
        except OSError as error:
            print("taken" in str(error) or "in use" in str(error), own_folders(), error)
        with traceloop.start(metrics_port=0) as run:
            traceloop.run(work(9))
            print(runs(run))
    """)
    assert done.stdout.startswith("True []") and done.stdout.splitlines()[-1] == "[10]", done.stdout + done.stderr
    assert not left_of(done.stdout)


@pytest.mark.parametrize("collector", ["process", "thread"])
def test_start_stop_start(collector: str) -> None:
    done = start(f"""
        for n in (10, 20):
            run = traceloop.start(metrics_port=0, collector={collector!r})
            assert run.active and traceloop.start() is run is traceloop.start(metrics_port=0)
            try:
                traceloop.start(spans="slow")
            except RuntimeError as error:
                print(error)
            traceloop.run(work(n))
            print(runs(run))
            run.stop()
            run.stop()
            assert not run.active and run.metrics_url is None
            assert not [name for name in os.environ if "TRACELOOP" in name]
        traceloop.run(work(1))
    """)
    told = "a run with other choices is under way (spans): stop() it first"
    assert without_folders(done.stdout) == [told, "[11]", told, "[21]"], done.stderr
    summaries = [line for line in done.stderr.splitlines() if "callbacks, " in line]
    assert len(summaries) == 2 and all(line.startswith("traceloop: 1 loop, ") for line in summaries), done.stderr
    assert collector == "thread" or not left_of(done.stdout)


def test_it_ends_with_the_process_and_with_an_exception() -> None:
    done = start("""
        run = traceloop.start(metrics_port=0)
        traceloop.run(work(5))
        print("folder", run.settings.run_dir)
    """)
    assert not left_of(done.stdout)
    assert done.returncode == 0 and done.stderr.count("traceloop: 1 loop, ") == 1, done.stderr
    done = start("""
        with traceloop.start(metrics_port=0) as run:
            traceloop.run(work(5))
            print("folder", run.settings.run_dir)
            raise LookupError("of the program")
    """)
    assert done.stderr.count("traceloop: 1 loop, ") == 1 and "LookupError: of the program" in done.stderr
    assert not left_of(done.stdout)


def test_loops_made_before_are_told_of_and_later_ones_are_recorded() -> None:
    done = start("""
        early = traceloop.new_event_loop()
        with traceloop.start(metrics_port=0) as run:
            early.run_until_complete(work(3))
            traceloop.run(work(10))
            print(runs(run))
        early.run_until_complete(work(3))
        early.close()

        async def main():
            with traceloop.start(metrics_port=0):
                await work(3)
        traceloop.run(main())
    """)
    assert without_folders(done.stdout) == ["[11]"], done.stderr
    assert done.stderr.count("1 loop that was made before traceloop.start() will not be in the run") == 2


def test_without_a_traced_loop_it_says_which_are() -> None:
    done = start("""
        with traceloop.start(metrics_port=0):
            asyncio.run(work(3))
        traceloop.install()
        with traceloop.start(metrics_port=0) as run:
            asyncio.run(work(4))
            print(runs(run))
    """)
    where, first, _, second = done.stderr.splitlines()
    assert where.startswith("traceloop: page at http://localhost:") and "metrics at http://localhost:" in where
    assert "no traced event loop ran" in first and "traceloop.install()" in first
    assert second.startswith("traceloop: 1 loop, ") and without_folders(done.stdout) == ["[5]"]


def test_variables_are_given_back_and_children_join() -> None:
    child = "import asyncio, traceloop; traceloop.start().stop(); traceloop.run(asyncio.sleep(0))"
    done = start(
        f"""
        import subprocess
        with traceloop.start(metrics_port=0, record="kept") as run:
            subprocess.run([sys.executable, "-c", {child!r}], check=True)
            if not os.fork():
                run.stop()  # the parent's
                os._exit(0)
            os.wait()
            print(run.active, run.settings.slow_threshold, run.settings.record == os.path.abspath("kept"))
        import shutil; shutil.rmtree("kept")
        print({{name: value for name, value in os.environ.items() if "TRACELOOP" in name}})
        """,
        {"OTEL_PYTHON_TRACELOOP_SLOW_THRESHOLD": "0.5"},
    )
    assert done.stdout.splitlines() == ["True 0.5 True", "{'OTEL_PYTHON_TRACELOOP_SLOW_THRESHOLD': '0.5'}"], done.stderr
    assert "traceloop: 1 loop, " in done.stderr


def test_with_the_sdk_disabled_nothing_begins() -> None:
    done = start(
        "with traceloop.start() as run: traceloop.run(work(1)); print(run.metrics_url)", {"OTEL_SDK_DISABLED": "true"}
    )
    assert (done.stdout, done.stderr) == ("None\n", "")
