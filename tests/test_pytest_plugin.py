"""`pytest --traceloop` on a small test suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

SUITE = """
import asyncio, time
async def good():
    await asyncio.sleep(0.001)
def price():
    time.sleep(0.2)
async def blocking():
    price()
def test_good():
    asyncio.run(good())
def test_blocking():
    asyncio.run(blocking())
def test_traced():
    assert asyncio.SelectorEventLoop.__module__.startswith("traceloop") is {traced}
"""

# Installed, the plugin is found by its entry point, and naming it as well would register its options twice.
INSTALLED = any(entry.value == "traceloop.pytest_plugin" for entry in entry_points(group="pytest11"))
PLUGIN = [] if INSTALLED else ["-p", "traceloop.pytest_plugin"]


def run(
    folder: Path, *options: str, traced: bool = True, suite: str = SUITE, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    (folder / "test_suite.py").write_text(textwrap.dedent(suite).replace("{traced}", str(traced)))
    keep = "PYTEST_DEBUG_TEMPROOT"
    clean = {name: value for name, value in os.environ.items() if name == keep or not name.startswith("PYTEST")}
    return subprocess.run(
        [*prefix, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PLUGIN, *options],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_slowest_callbacks_are_shown(tmp_path: Path) -> None:
    result = run(tmp_path, "--traceloop")
    assert result.returncode == 0, result.stdout
    table = result.stdout.partition("slowest callbacks")[2].splitlines()
    # Of a slow run the culprit's line, of another one that of its `def`.
    assert re.search(r" test_suite\.blocking \(.+/test_suite\.py:6 in price\)  test_suite\.py::test_block", table[1])
    assert any(re.search(r" test_suite\.good \(.+/test_suite\.py:\d+\)  test_suite\.py::", row) for row in table)
    assert 200 <= float(table[1].split()[0]) < 5000
    assert re.fullmatch(r"of \d+ callbacks", table[-2])


def test_plumbing_is_called_what_it_does_as_in_the_report(tmp_path: Path) -> None:
    suite = """
        import asyncio
        def test_sleep():
            asyncio.run(asyncio.sleep(0.01))
    """
    result = run(tmp_path, "--traceloop", suite=suite)
    # However short it was: the table has room.
    assert re.search(r" ms  ending a sleep .* test_suite\.py::test_sleep", result.stdout), result.stdout
    assert re.search(r" ms  asyncio\.tasks\.sleep .* test_suite\.py::test_sleep", result.stdout), result.stdout


def test_a_callback_over_the_limit_fails_its_test_only(tmp_path: Path) -> None:
    result = run(tmp_path, "--traceloop-slow=100ms")
    assert result.returncode == 1
    assert "1 failed, 2 passed" in result.stdout
    failure = result.stdout.partition("FAILURES")[2].partition("slowest callbacks")[0]
    assert re.search(r"test_suite\.blocking ran for 0\.\d+ s.* \(limit: 0\.1 s\)", failure)
    assert "culprit: test_suite.price (" in failure and "test_suite.py:6)" in failure
    assert 'test_suite.py", line 6, in test_suite.price' in failure
    assert "test_suite.py::test_good" not in failure


def test_every_worker_of_xdist_reports_to_one_table(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    result = run(tmp_path, "--traceloop-slow", "0.1", "-n", "2")
    assert "1 failed, 2 passed" in result.stdout, result.stdout + result.stderr
    table = result.stdout.partition("slowest callbacks")[2]
    assert "test_suite.py:6 in price" in table and "test_suite.good" in table
    assert "no traced event loop ran" not in table
    assert "culprit: test_suite.price" in result.stdout


def test_a_marker_sets_the_limit_of_one_test(tmp_path: Path) -> None:
    suite = """
        import asyncio, pytest, time
        async def block(seconds):
            time.sleep(seconds)
        @pytest.mark.traceloop(slow=60)
        def test_may_take_longer():
            asyncio.run(block(1.2))
        @pytest.mark.traceloop(slow=None)
        def test_may_take_any_time():
            asyncio.run(block(1.2))
        @pytest.mark.traceloop(slow=0.02)
        def test_may_not():
            asyncio.run(block(1))
        def test_as_the_option_says():
            asyncio.run(block(0.06))
    """
    # What the thread has waited for a processor is taken off: much, on a busy machine.
    result = run(tmp_path, "--traceloop-slow", "1", "--strict-markers", suite=suite)
    assert "1 failed, 3 passed" in result.stdout, result.stdout
    assert "(limit: 0.02 s)" in result.stdout and "line 4, in test_suite.block" in result.stdout
    # The marker is known, and means nothing, where nothing is traced.
    assert "4 passed" in run(tmp_path, "--strict-markers", suite=suite).stdout


def test_a_marker_that_says_nothing_known_is_refused(tmp_path: Path) -> None:
    suite = "import pytest\n@pytest.mark.traceloop(slwo=1)\ndef test_it(): pass\n"
    result = run(tmp_path, "--traceloop", suite=suite)
    assert result.returncode != 0 and "expected @pytest.mark.traceloop(" in result.stdout + result.stderr


LEAKS = """
    import asyncio, gc, pytest, unittest
    async def forever():
        await asyncio.Event().wait()
    async def leak():
        asyncio.create_task(forever(), name="mine")
        await asyncio.sleep(0)
    async def tidy():
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    async def collect():
        await leak()
        gc.collect()
    async def collect_three():
        for _ in range(3):
            await collect()
    async def report():
        loop = asyncio.get_running_loop()
        done = asyncio.create_task(asyncio.sleep(0))
        await done
        loop.call_exception_handler({"message": "an error of a task that is done", "task": done})
        loop.call_exception_handler({"message": "no task at all", "task": 42})
    def test_cancelled_by_run():
        asyncio.run(leak())
    def test_cancelled_in_three_runs():
        for _ in range(3):
            asyncio.run(leak())
    def test_three_collected():
        asyncio.run(collect_three())
    def test_errors_reported():
        asyncio.run(report())
    def test_collected():
        asyncio.run(collect())
    def test_in_a_closed_loop():
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leak())
        loop.close()
    def test_tidy():
        asyncio.run(tidy())
    @pytest.mark.traceloop(leaks=False)
    def test_may():
        asyncio.run(leak())

    class TestCase(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self):
            self.task = asyncio.create_task(forever())
        async def asyncTearDown(self):
            self.task.cancel()
        async def test_torn_down(self):
            pass
        async def test_not(self):
            asyncio.create_task(forever())

    @pytest.fixture
    def loop():
        loop = asyncio.new_event_loop()
        background = loop.create_task(forever())
        yield loop
        background.cancel()
        loop.run_until_complete(asyncio.wait([background]))
        loop.close()
    def test_a_fixtures_task(loop):
        loop.run_until_complete(tidy())
    def test_in_a_loop_that_stays_open(loop):
        loop.run_until_complete(leak())
        for task in asyncio.all_tasks(loop):
            if task.get_name() != "mine":
                task.add_done_callback(lambda _: None)
"""


def test_tasks_left_behind_fail_their_test(tmp_path: Path) -> None:
    result = run(tmp_path, "--traceloop-leaks", "-W", "ignore", suite=LEAKS)
    failed = set(re.findall(r"FAILED \S+::(\w+)", result.stdout))
    leaking = {"test_cancelled_by_run", "test_collected", "test_in_a_closed_loop"}
    # Tasks of which one has the address of another that is gone are several all the same.
    several = {"test_cancelled_in_three_runs", "test_three_collected"}
    assert failed == leaking | several | {"test_not", "test_in_a_loop_that_stays_open"}, result.stdout
    assert result.stdout.count("3 tasks were left behind, not done:\n  ") == 2, result.stdout
    # Each is told once, of whatever test: a task that nothing refers to may be collected at any time.
    assert result.stdout.count("1 task was left behind, not done:\n  ") == 5, result.stdout
    assert re.search(r"mine: test_suite\.forever, at .+test_suite\.py:4", result.stdout), result.stdout
    assert re.search(r"mine: forever, of .+test_suite\.py:3\n", result.stdout), result.stdout
    assert "7 failed, 5 passed" in result.stdout


def test_calls_that_may_block_fail_their_test(tmp_path: Path) -> None:
    suite = """
        import asyncio, pytest, time
        def load():
            open(__file__).close()
        async def main():
            for _ in range(3): load()
        def test_it():
            asyncio.run(main())
        @pytest.mark.traceloop(blocking=False)
        def test_may():
            asyncio.run(main())
        def test_does_not():
            load()
            asyncio.run(asyncio.sleep(0))
            asyncio.run(asyncio.to_thread(load))
    """
    result = run(tmp_path, "--traceloop-blocking", suite=suite)
    assert "1 failed, 2 passed" in result.stdout, result.stdout
    assert re.search(r"  open: test_suite\.load \(.+test_suite\.py:4\), 3 times", result.stdout), result.stdout


def test_waiting_for_a_processor_fails_nothing(tmp_path: Path) -> None:
    # Eight processes that compute, on one processor, take most of it from the test's callback.
    suite = """
        import asyncio, subprocess, sys, time
        async def work(seconds):
            until = time.thread_time() + seconds
            while time.thread_time() < until: pass
        def test_starved():
            code = "print(end='.', flush=True)\\nwhile True: pass"
            others = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(8)]
            for other in others: other.stdout.read(1)
            begin = time.monotonic()
            asyncio.run(work(0.06))
            took = time.monotonic() - begin
            for other in others: other.kill()
            for other in others: other.communicate()
            assert took > 0.25
        def test_at_fault():
            asyncio.run(work(0.6))
    """
    processor = min(os.sched_getaffinity(0))
    result = run(tmp_path, "--traceloop-slow", "0.2", suite=suite, prefix=("taskset", "-c", str(processor)))
    assert "1 failed, 1 passed" in result.stdout and "FAILED test_suite.py::test_at_fault" in result.stdout, (
        result.stdout
    )


def test_without_the_option_nothing_is_changed(tmp_path: Path) -> None:
    result = run(tmp_path, traced=False)
    assert result.returncode == 0 and "slowest" not in result.stdout


@pytest.mark.parametrize("text", ["0", "-1", "fast", "0ms"])
def test_a_limit_out_of_range_is_refused(text: str, tmp_path: Path) -> None:
    result = run(tmp_path, f"--traceloop-slow={text}")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR and "above 0" in result.stderr
