"""Where the workers of a full executor stand, from a program to its report."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.helpers.paths import ROOT

PROGRAM = """
import asyncio, queue, sys, threading
from concurrent.futures import ThreadPoolExecutor
import traceloop
from traceloop.recording.process import current_process

stuck = queue.Queue()

def take():
    stuck.get()

def fill():
    take()

def small():
    pass

async def until_looked_at():
    # The watchdog notes it down once the pool has been full for ten slow thresholds.
    written = []
    process = current_process()
    write = process.process_write
    def seen(records, text, now, *more):
        written.extend(text)
        return write(records, text, now, *more)
    process.process_write = seen
    while not any('"kind":"workers"' in each for each in written):
        await asyncio.sleep(0.01)

async def main():
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(2, thread_name_prefix="db")
    calls = [loop.run_in_executor(pool, fill) for _ in range(2)]
    calls += [loop.run_in_executor(pool, small) for _ in range(3)]
    await until_looked_at()
    for _ in range(2):
        stuck.put(None)
    await asyncio.gather(*calls)

traceloop.install()
with traceloop.start(metrics=False, spans="off", slow_threshold=0.02, record=sys.argv[1]):
    asyncio.run(main())
"""


def test_the_report_tells_at_which_line_the_workers_of_a_full_pool_stand(tmp_path):
    (tmp_path / "app.py").write_text(PROGRAM)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    options = {"cwd": tmp_path, "env": environment, "check": True, "timeout": 120, "capture_output": True, "text": True}
    subprocess.run([sys.executable, "app.py", str(tmp_path / "kept")], **options)
    (kept,) = (tmp_path / "kept").iterdir()
    done = subprocess.run([sys.executable, "-m", "traceloop", "report", "--json", str(kept)], **options)
    (process,) = json.loads(done.stdout)["processes"]
    (pool,) = [each for each in process["executors"] if each["executor"] == "db"]
    (place,) = pool["workers_at"]
    line = PROGRAM.splitlines().index("    stuck.get()") + 1
    assert (place["workers"], place["function"], place["line"]) == (2, "__main__.take", line)
    assert place["inside"] == "threading.Condition.wait"
    text = subprocess.run([sys.executable, "-m", "traceloop", "report", "--full", str(kept)], **options).stdout
    assert f"2 of 2 workers stood at app.py:{line} in take, in threading.Condition.wait" in text


def test_an_executor_that_is_full_now_and_then_is_looked_at_often_and_not_reported(monkeypatch):
    from traceloop.recording.watchdog import full_executors

    full, events = [], []
    monkeypatch.setattr(full_executors, "_full_pools", lambda offloads: iter(full))
    monkeypatch.setattr(full_executors, "_full_limiters", lambda offloads: iter(()))
    looks = full_executors.FullExecutors(
        SimpleNamespace(offloads=object()), lambda event, now: events.append(event) or True
    )
    looks.poll(100.0, 0.1)
    assert not looks.undecided
    full.append(("db", 2, 3, set))
    looks.poll(101.0, 0.1)
    assert looks.undecided
    full.clear()
    looks.poll(101.1, 0.1)
    assert not looks.undecided
    full.append(("db", 2, 3, set))
    looks.poll(102.0, 0.1)
    assert looks.undecided and events == []
    looks.poll(103.0, 0.1)
    assert not looks.undecided and [event["full"] for event in events] == [1.0]


@pytest.mark.parametrize("data", [{}, {"places": 3}, {"places": [[1]], "full": 1, "workers": 1, "waiting": 1}])
def test_an_event_that_makes_no_sense_is_passed_over(data):
    from traceloop.reading.statistics.executors import _workers_at

    assert _workers_at(1.0, data) is None
