"""`traceloop tasks` on programs that run, are blocked, and have crashed."""

import json
import os
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest

from tests.helpers.leftovers import remove_run, run_of
from tests.helpers.traced import started
from traceloop.cli import tasks as tasks_command

PROGRAM = """
import asyncio, sys, time

async def get(pool):
    async with pool:
        await asyncio.sleep(600)

async def request(pool):
    await get(pool)

async def handler():
    pool = asyncio.Semaphore(1)
    await asyncio.gather(*[asyncio.create_task(request(pool)) for _ in range(5)])

async def main():
    task = asyncio.create_task(handler(), name="handler")
    await asyncio.sleep(0.1)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.readline)
    await asyncio.sleep(1.5)  # the tasks are looked at once a second
    print("blocks", flush=True)
    time.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def program(traced, tmp_path):
    path = tmp_path / "app.py"
    path.write_text(PROGRAM)
    with started(traced, path) as process:
        yield process


def tasks(traced, *arguments):
    return subprocess.run(
        [traced.command[0], "tasks", "--width", "120", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_is_the_tree(done):
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "7 tasks" in lines[0]
    (at,) = [index for index, line in enumerate(lines) if "handler (handler)" in line]
    assert " at app.py:13 for asyncio.gather" in lines[at]
    below = " ".join(lines[at + 1 : at + 3])
    assert "4 x __main__.request" in below and " at app.py:5 in get for asyncio.Semaphore.acquire" in below
    assert " at app.py:6 in get for asyncio.sleep" in below


def test_the_tasks_of_a_program_that_runs(traced, program):
    assert_is_the_tree(tasks(traced, program.pid))


def test_the_tasks_of_a_program_whose_ring_has_lost_what_was_written_about_them(traced, tmp_path):
    path = tmp_path / "app.py"
    path.write_text("""
import asyncio, sys, time
from traceloop.record import layout

async def waits():
    await asyncio.Event().wait()

async def main():
    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    process = asyncio.get_running_loop()._recorder.process
    looked = [time.monotonic(), layout.R_LOOK, 1.0]
    ring = process.open_process_ring()
    begun = ring.words[layout.W_HEAD]
    while not begun:  # until the tasks were looked at
        await asyncio.sleep(0.1)
        begun = ring.words[layout.W_HEAD]
    while ring.words[layout.W_HEAD] - begun < 2 * (1 << 20):
        process.process_write(looked * 100, [], time.monotonic())
    print("ready", flush=True)
    sys.stdin.readline()

asyncio.run(main())
""")
    with started(traced, path) as process:
        done = tasks(traced, process.pid)
        assert (done.returncode, done.stderr) == (0, "")
        assert "app.py:6 for asyncio.Event.wait" in done.stdout


def test_the_tasks_of_a_program_whose_loop_is_blocked(traced, program):
    program.stdin.write("\n")
    program.stdin.flush()
    assert program.stdout.readline() == "blocks\n"
    assert_is_the_tree(tasks(traced, program.pid))
    # Before it stood at its last `sleep`, which is what a look has found.
    line = PROGRAM.splitlines().index("    time.sleep(600)") + 1
    done = repeated(traced, program.pid, " runs, for ")
    (main,) = [each for each in done.splitlines() if each.startswith("__main__.main (")]
    assert f" in this step, at app.py:{line}" in main


def repeated(traced, pid, words):
    """What the command prints once these words are in it: what they rest on may be some seconds late."""
    deadline = time.monotonic() + 120
    while words not in (done := tasks(traced, pid)).stdout and time.monotonic() < deadline:
        pass
    assert words in done.stdout
    return done.stdout


def test_it_is_said_how_old_a_look_is_that_could_not_be_taken_again(traced, program):
    assert_is_the_tree(tasks(traced, program.pid))
    program.send_signal(signal.SIGSTOP)
    try:
        title, age, *_ = repeated(traced, program.pid, "\nlooked at ").splitlines()
        assert "7 tasks" in title
        assert age.endswith(" ago, and not since: code holds the GIL, or the process is stopped")
        told = json.loads(tasks(traced, program.pid, "--json").stdout)["processes"][0]
        assert told["seconds_since_look"] > 3.0 and not told["ended"]
    finally:
        program.send_signal(signal.SIGCONT)


def test_every_task_as_json_and_some_of_them(traced, program):
    done = tasks(traced, program.pid, "--json", "--coroutine", "request")
    (process,) = json.loads(done.stdout)["processes"]
    assert process["pid"] == program.pid
    assert len(process["tasks"]) == 5
    task = process["tasks"][0]
    assert task["coroutine"] == "__main__.request" and task["made_by"] == "__main__.handler"
    assert task["state"] == "waiting" and task["age_seconds"] > 0
    assert [frame["function"] for frame in task["stack"]][:2] == ["request", "get"]
    assert json.loads(tasks(traced, program.pid, "--json", "--longer-than", 3600).stdout)["processes"][0]["tasks"] == []


def test_a_row_for_each_task(traced, program):
    lines = tasks(traced, program.pid, "--flat").stdout.splitlines()
    assert lines[1].split() == ["task", "coroutine", "stands", "at", "state", "since", "step", "age"]
    assert sum("__main__.request" in line for line in lines) == 5


def test_the_tasks_that_a_killed_program_left(traced, tmp_path):
    path = tmp_path / "app.py"
    path.write_text(PROGRAM)
    with started(traced, "--record", tmp_path / "record", path) as process:
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "blocks\n"
    report = [traced.command[0], "report", str(tmp_path / "record")]
    subprocess.run(report, capture_output=True, timeout=120, check=True)
    done = tasks(traced, tmp_path / "record")
    assert_is_the_tree(done)
    assert done.stdout.splitlines()[1].startswith("the process has ended: its tasks at its end, looked at ")


WORKERS = """
import subprocess, sys

worker = "import asyncio\\nasync def main():\\n print(1, flush=True)\\n await asyncio.sleep(600)\\nasyncio.run(main())"
workers = [subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE) for _ in range(2)]
for each in workers:
    each.stdout.readline()
print(*[each.pid for each in workers], flush=True)
sys.stdin.readline()
for each in workers:
    each.kill()
    each.wait()
"""


def test_the_pid_of_a_run_means_all_its_workers(traced, program, tmp_path):
    path = tmp_path / "workers.py"
    path.write_text(WORKERS)
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([*traced.command, "--no-metrics", str(path)], **options) as run:
        pids = [int(word) for word in run.stdout.readline().split()]
        assert len(pids) == 2
        done = tasks(traced, run.pid)
        assert (done.returncode, done.stderr) == (0, "")
        titles = [line.partition(":")[0] for line in done.stdout.splitlines() if line.startswith("process ")]
        assert sorted(titles) == sorted(f"process {pid}" for pid in pids)
        one = tasks(traced, pids[1]).stdout.splitlines()
        assert [line.partition(":")[0] for line in one if line.startswith("process ")] == [f"process {pids[1]}"]
        # Without a PID, one of the programs is shown, and a line says which.
        assert "programs are traced; this is " in tasks(traced).stderr.splitlines()[0]
        left = run_of(pids[0])
        run.communicate("\n")
    remove_run(left)


def test_a_program_without_a_loop_is_said_to_have_recorded_nothing(traced, tmp_path):
    path = tmp_path / "plain.py"
    path.write_text("print('ready', flush=True)\ninput()\n")
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([*traced.command, "--no-metrics", str(path)], **options) as run:
        assert run.stdout.readline() == "ready\n"
        done = tasks(traced, run.pid)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("traceloop: ") and "has recorded nothing yet" in done.stderr
        run.communicate("\n")


@pytest.mark.parametrize(("which", "status"), [("999999999", 1), ("/nowhere", 2)])
def test_where_there_is_nothing_to_see(traced, which, status):
    done = tasks(traced, which)
    assert done.returncode == status
    assert done.stderr.startswith("traceloop: ") and done.stderr.count("\n") == 1


MANY = """
import asyncio, sys

async def worker(event):
    await event.wait()

async def main():
    event = asyncio.Event()
    tasks = [asyncio.create_task(worker(event)) for _ in range(5_000)]
    await asyncio.sleep(0)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    event.set()

asyncio.run(main())
"""


def test_all_of_many_tasks_are_looked_at_though_the_record_has_lost_their_beginning(traced, tmp_path):
    path = tmp_path / "many.py"
    path.write_text(MANY)
    command = [*traced.command, "--no-metrics", "--ring-size", "64K", str(path)]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **options) as process:
        assert process.stdout.readline() == "ready\n"
        lines = tasks(traced, process.pid).stdout.splitlines()
        process.communicate("\n")
    assert lines[0] == f"process {process.pid}: 5,001 tasks, 5,001 waiting"
    assert lines[1].startswith("5,000 x __main__.worker  waits ")
    assert " at many.py:5 for asyncio.Event.wait" in lines[1]


def test_a_look_is_asked_for_through_no_link_and_no_pipe(tmp_path, monkeypatch):
    """A record's folder may be another user's, who waits for root to look into it."""
    folders = [tmp_path / name for name in ("link", "pipe", "usual")]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "look").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folders[1] / "look")
    processes = [SimpleNamespace(path=str(folder), pid=1) for folder in folders]
    monkeypatch.setattr(tasks_command, "living_processes", lambda folder: processes)
    assert tasks_command._ask_for_looks("", None) == [str(folder) for folder in folders]
    assert not (tmp_path / "elsewhere").exists() and (folders[2] / "look").is_file()


def test_a_process_that_died_during_its_look_is_not_waited_for(tmp_path):
    """Its folder says for good that it is looking."""
    folder = tmp_path / "p-1-2"
    folder.mkdir()
    (folder / "looking").touch()
    polls = []
    tasks_command._follow(SimpleNamespace(poll=lambda: polls.append(1)), str(tmp_path), [str(folder)])
    assert 0 < len(polls) < 10 * tasks_command._READ_SECONDS + 3  # one each 0.1 s, and one at the end
