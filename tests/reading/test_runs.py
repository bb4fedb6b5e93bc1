"""Whole runs: a process that ended, one that was killed, one that forked, read from their folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.waiting import PATIENCE
from traceloop.reading import read_run
from traceloop.reading.follower import RunFollower
from traceloop.reading.new_statistics import new_statistics
from traceloop.settings import RUN_DIR

HEAD = """
import asyncio, os, signal, sys, time
from traceloop.loop.event_loop import EventLoop
from traceloop.recording.process import current_process

async def steps(count):
    for _ in range(count - 1):
        await asyncio.sleep(0)

def run(main):
    loop = EventLoop()
    loop.run_until_complete(main)
    loop.close()
"""


def program(run_dir, text, **options):
    environ = {**os.environ, RUN_DIR: str(run_dir), "PYTHONPATH": str(ROOT)}
    code = HEAD + textwrap.dedent(text)
    return subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True, **options)


def runs_of_steps(statistics):
    return [
        totals.runs
        for loop in statistics.loops()
        for label, totals in loop.callbacks.callbacks.items()
        if label.endswith("steps")
    ]


def test_a_run_that_ended_is_read_whole(tmp_path):
    child = program(tmp_path, "run(steps(1001)); current_process().end()")
    assert child.wait(120) == 0
    child.stdout.close()
    statistics = read_run(tmp_path)
    assert runs_of_steps(statistics) == [1001]
    process = statistics.processes[0]
    assert process.pid == child.pid and process.dropped == 0 and not process.attached
    assert not any(loop.is_open or loop.running_at_end for loop in statistics.loops())


def test_a_process_killed_in_the_middle_of_a_callback_leaves_what_it_did(tmp_path):
    child = program(
        tmp_path,
        """
        async def main():
            await steps(1001)
            await asyncio.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        run(main())
        """,
    )
    assert child.wait(120) == -signal.SIGKILL
    child.stdout.close()
    follower = RunFollower(tmp_path, new_statistics())
    follower.poll(last=True)
    assert len(follower.crashed) == 1
    (loop,) = follower.statistics.loops()
    assert loop.callbacks.durations["task"].count == 1001
    assert loop.running_at_end > 0
    assert not follower.problems


def test_a_forked_child_is_a_process_of_its_own(tmp_path):
    child = program(
        tmp_path,
        """
        run(steps(10))
        if os.fork() == 0:
            run(steps(20))
            current_process().end()
            os._exit(0)
        os.wait()
        run(steps(30))
        current_process().end()
        """,
    )
    assert child.wait(120) == 0
    child.stdout.close()
    statistics = read_run(tmp_path)
    assert sorted(runs_of_steps(statistics)) in ([20, 40],)
    assert sum(process.processes for process in statistics.processes.values()) == 2


def test_processes_that_ran_side_by_side_are_read_side_by_side_and_one_after_the_other_share_a_slot(tmp_path):
    together = """
        async def main():
            print("up", flush=True)
            sys.stdin.readline()
            await steps(11)
        run(main()); current_process().end()
        """
    pair = [program(tmp_path, together, stdin=subprocess.PIPE) for _ in range(2)]
    for child in pair:
        assert child.stdout.readline() == "up\n"
    for child in pair:
        child.communicate("go\n", timeout=PATIENCE)
    later = program(tmp_path, "run(steps(101)); current_process().end()")
    later.communicate(timeout=PATIENCE)
    statistics = read_run(tmp_path)
    assert sorted(statistics.processes) == [0, 1]
    assert [each.processes for _, each in sorted(statistics.processes.items())] == [2, 1]
    assert statistics.processes[0].pid == later.pid
    assert statistics.processes[1].pid in {child.pid for child in pair}


def test_a_living_process_is_followed_and_gives_its_slot_to_the_next(tmp_path):
    follower = RunFollower(tmp_path)
    seen = 0
    for expected in (100, 200):
        child = program(
            tmp_path,
            """
            run(steps(100))
            print("done", flush=True)
            import select
            select.select([], [], [], 60)
            """,
        )
        assert child.stdout.readline() == "done\n"
        deadline = time.monotonic() + PATIENCE
        while runs_of_steps(follower.statistics) != [expected] and time.monotonic() < deadline:
            follower.poll()
        assert runs_of_steps(follower.statistics) == [expected]
        (process,) = follower.statistics.processes.values()
        assert process.attached and process.pid == child.pid
        child.kill()
        child.wait(120)
        child.stdout.close()
        follower.poll()
        assert not process.attached
        seen += 1
    assert process.processes == seen == 2


def test_tasks_of_a_process_that_was_killed_are_none_of_the_next_one_s(tmp_path):
    follower = RunFollower(tmp_path)
    for killed in range(3):
        child = program(
            tmp_path,
            """
            async def main():
                tasks = [asyncio.create_task(asyncio.sleep(60)) for _ in range(4)]
                await steps(5)
                await asyncio.gather(*tasks)
            run(main())
            """,
        )
        deadline = time.monotonic() + PATIENCE
        alive = []
        while alive != [5] and time.monotonic() < deadline:
            follower.poll()
            alive = [loop.tasks_alive for loop in follower.statistics.loops() if loop.loops > killed]
        assert alive == [5]
        child.kill()
        child.wait(120)
        child.stdout.close()
        follower.poll()
        (loop,) = follower.statistics.loops()
        assert (loop.tasks_alive, loop.tasks_created) == (0, 5 * (killed + 1))


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no record"):
        read_run(tmp_path)


def test_rubbish_in_a_run_directory_is_told_and_passed_over(tmp_path):
    child = program(tmp_path, "run(steps(50)); current_process().end()")
    assert child.wait(120) == 0
    child.stdout.close()
    (tmp_path / "p-1-2-x").mkdir()
    (tmp_path / "p-99999999-5").mkdir()
    (tmp_path / "p-99999999-5" / "process.json").write_bytes(b"\xff{")
    folder = next(tmp_path.glob(f"p-{child.pid}-*"))
    (folder / "loop-7.ring").write_bytes(b"x" * 100)
    os.utime(folder / "loop-7.ring", (1, 1))
    with open(folder / "sites", "ab") as file:
        file.write(b'[1]\n{"a": 1}\nnull\n[70000, 1, 2, 3, "x"]\n\xff\xfe\n[12, "half')
    follower = RunFollower(tmp_path)
    follower.poll(last=True)
    assert runs_of_steps(follower.statistics) == [50]
    assert len(follower.problems) == 1 and "too short" in follower.problems[0]


WAITS = """
async def main():
    signal.signal(signal.SIGTERM, lambda *_: (current_process().end(), os._exit(0)))
    begun = time.monotonic()
    asyncio.get_running_loop().call_later(0.05, lambda: print(begun, time.monotonic(), flush=True))
    await asyncio.sleep(3600)
run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_last_poll_of_an_idle_service_counts_however_it_ended(tmp_path, how):
    child = program(tmp_path, WAITS)
    begun, waits = map(float, child.stdout.readline().split())
    follower = RunFollower(tmp_path, new_statistics())
    while time.monotonic() - waits < 1.5:
        follower.poll()
        time.sleep(0.05)
    child.send_signal(how)
    child.wait(120)
    ended = time.monotonic()
    child.stdout.close()
    # By one that saw it alive, and by one that comes afterwards: a killed process leaves only its watchdog's word.
    follower.poll(last=True)
    readers = [follower.statistics, *([read_run(tmp_path)] if how == signal.SIGTERM else [])]
    for statistics in readers:
        (loop,) = statistics.loops()
        active, idle = loop.times()
        assert 1.0 < idle < ended - begun + 0.1
        assert loop.utilization() == active / (active + idle)


def test_files_of_a_copy_that_have_lost_their_times_say_nothing_of_the_end(tmp_path):
    child = program(tmp_path, WAITS)
    child.stdout.readline()
    child.terminate()
    child.wait(120)
    child.stdout.close()
    (folder,) = tmp_path.iterdir()
    for path in folder.iterdir():
        os.utime(path, (time.time() + 3e6, time.time() + 3e6))
    (loop,) = read_run(tmp_path).loops()
    assert loop.times()[1] < 600.0


TICKS = """
async def main():
    print(time.monotonic(), flush=True)
    while True:
        await asyncio.sleep(0.004)
run(main())
"""


def test_a_time_in_which_the_process_stood_still_counts_once(tmp_path):
    """Whether it is active or idle is known afterwards; nobody is told both, or that it runs meanwhile."""
    child = program(tmp_path, TICKS)
    began = float(child.stdout.readline())
    follower = RunFollower(tmp_path, new_statistics())

    def look(seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            follower.poll()
            time.sleep(0.05)
            for loop in follower.statistics.loops():
                list(loop.metrics())  # a scrape

    try:
        look(1.0)
        child.send_signal(signal.SIGSTOP)
        look(0.5)
        (loop,) = follower.statistics.loops()
        before, running = sum(loop.times()), loop.running_seconds()
        look(1.5)
        assert sum(loop.times()) == before and loop.running_seconds() == running
        child.send_signal(signal.SIGCONT)
        look(1.0)
        assert sum(loop.times()) < time.monotonic() - began + 0.1
    finally:
        child.kill()
        child.communicate()
