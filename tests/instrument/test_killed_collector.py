"""A collector that is killed or fails: another goes on where it was, or one line says what is missing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.helpers.differential import notices
from tests.helpers.traced import Traced
from tests.instrument.test_run import LOOP, RUN, run

KILLS_THE_COLLECTOR = """
import json, os, signal
folder = os.environ["OTEL_PYTHON_TRACELOOP_RUN_DIR"]
def kill_collector():
    pid = json.load(open(folder + "/collector.json"))["pid"]
    os.kill(pid, signal.SIGKILL)
    return pid
async def kill_and_wait():
    while not os.path.exists(folder + "/collector.json"):
        await asyncio.sleep(0.01)
    pid = kill_collector()
    while json.load(open(folder + "/collector.json"))["pid"] == pid:
        await asyncio.sleep(0.01)
"""


def test_a_collector_that_is_killed_is_started_again(traced: Traced, tmp_path: Path) -> None:
    """It goes on from what the rings hold: nothing is missing from the summary."""
    text = (
        LOOP
        + KILLS_THE_COLLECTOR
        + (
            "async def work():\n"
            "    for _ in range(500): await asyncio.sleep(0)\n"
            "    await kill_and_wait()\n"
            "    for _ in range(500): await asyncio.sleep(0)\n"
            "asyncio.run(work()); sys.exit(5)"
        )
    )
    result = run(traced, tmp_path, text, "--no-metrics")
    assert (result.status, result.stdout) == (5, "")
    first, summary = notices(result)
    assert first == (
        "traceloop: the collector was ended by signal 9 and was started again: it goes on from what the rings hold"
    )
    callbacks = re.search(r"([\d,]+) callbacks", summary)
    assert callbacks and int(callbacks[1].replace(",", "")) > 1000


def test_a_collector_that_is_killed_again_within_the_minute_still_reads_the_end(traced: Traced, tmp_path: Path) -> None:
    text = (
        LOOP
        + KILLS_THE_COLLECTOR
        + (
            "async def work():\n    await kill_and_wait()\n    kill_collector()\n    await main()\n"
            "asyncio.run(work()); sys.exit(5)"
        )
    )
    result = run(traced, tmp_path, text, "--no-metrics", environ={"OTEL_PYTHON_TRACELOOP_EXIT_TIMEOUT": "20"})
    assert (result.status, result.stdout) == (5, "traceloop\n")
    assert re.search(r"traceloop: 1 loop, [\d,]+ callbacks", result.stderr), result.stderr


def test_the_port_of_a_killed_collector_stays(traced: Traced, tmp_path: Path) -> None:
    text = (
        LOOP
        + KILLS_THE_COLLECTOR
        + (
            "from urllib.request import urlopen\n"
            "url = os.environ['OTEL_PYTHON_TRACELOOP_METRICS_URL']\n"
            "async def work():\n"
            "    loop = asyncio.get_running_loop()\n"
            "    before = await loop.run_in_executor(None, lambda: urlopen(url, timeout=120).read())\n"
            "    await kill_and_wait()\n"
            "    after = await loop.run_in_executor(None, lambda: urlopen(url, timeout=120).read())\n"
            "    print(b'traceloop_' in before, b'traceloop_' in after)\n"
            "asyncio.run(work())"
        )
    )
    result = run(traced, tmp_path, text, "--metrics-port", "0")
    assert (result.status, result.stdout) == (0, "True True\n"), result.stderr


def test_a_run_whose_collector_and_supervisor_are_killed_says_so(traced: Traced, tmp_path: Path) -> None:
    text = (
        LOOP
        + KILLS_THE_COLLECTOR
        + (
            "async def work():\n"
            "    while not os.path.exists(folder + '/collector.json'):\n        await asyncio.sleep(0.01)\n"
            "    os.kill(int(os.environ['OTEL_PYTHON_TRACELOOP_COLLECTOR_PID']), signal.SIGKILL)\n"
            "    kill_collector(); await main()\n"
            "asyncio.run(work()); print(folder); sys.exit(5)"
        )
    )
    result = run(traced, tmp_path, text, "--no-metrics")
    assert result.status == 5
    assert len(notices(result)) == 1 and "the collector has ended before the program" in notices(result)[0]
    shutil.rmtree(result.stdout.split()[-1])


def test_a_collector_that_fails_says_so_and_keeps_its_traceback(traced: Traced, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if any('collector.main import' in word for word in sys.orig_argv):\n"
        "    from traceloop.collector import collector\n"
        "    def poll(self):\n        raise RuntimeError('injected')\n"
        "    collector.Collector.poll = poll\n"
    )
    text = RUN + "import time; time.sleep(1); sys.exit(5)"
    result = run(traced, tmp_path, text, "--no-metrics", environ={"PYTHONPATH": str(tmp_path)})
    assert (result.status, result.stdout) == (5, "traceloop\n")
    failed = [line for line in notices(result) if "the collector failed: RuntimeError('injected')" in line]
    assert len(failed) == 1, result.stderr
    path = re.search(r"its traceback is in (\S+),", failed[0])
    assert path and "Traceback" in Path(path[1]).read_text() and "in poll" in Path(path[1]).read_text()
    shutil.rmtree(Path(path[1]).parent)
