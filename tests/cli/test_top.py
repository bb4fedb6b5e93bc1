"""`traceloop top` on programs that run."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.helpers.leftovers import remove_run, run_of
from tests.helpers.traced import started
from tests.helpers.waiting import PATIENCE, until

BUSY = """
import asyncio, sys, time

def hold():
    print("blocking", flush=True)
    time.sleep(600)

async def wait():
    while True:
        await asyncio.sleep(0.001)

async def main():
    tasks = [asyncio.create_task(wait()) for _ in range(5)]
    await asyncio.sleep(0.1)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.readline)
    hold()

asyncio.run(main())
"""


@pytest.fixture
def program(traced, tmp_path):
    """A program under `traceloop run` with five tasks that blocks once it has read a line."""
    path = tmp_path / "busy.py"
    path.write_text(BUSY)
    with started(traced, path) as process:
        yield process


def top(traced, *arguments):
    return subprocess.run(
        [traced.command[0], "top", "--width", "120", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


def test_a_loop_that_works(traced, program):
    done = top(traced, "--once", program.pid)
    assert (done.returncode, done.stderr) == (0, "")
    headline, *lines = done.stdout.splitlines()
    assert "busy.py" in headline and "1 process, 1 loop" in headline
    # Before the table stands what is wrong: on a busy machine the want of a processor.
    (at,) = [number for number, line in enumerate(lines) if line.split()[:3] == ["loop", "pid", "active"]]
    loop, *rest = lines[at + 1 :]
    assert loop.split()[:2] == ["MainThread", str(program.pid)]
    rate = float(re.search(r"%\s+([\d,]+)", loop)[1].replace(",", ""))
    assert 10 < rate < 20_000
    assert any(line.startswith("__main__.wait ") for line in rest)


def test_the_report_of_a_program_that_runs(traced, program, tmp_path):
    path = tmp_path / "now.html"
    for options in (("--full",), ("--html", path)):
        words = [traced.command[0], "report", str(program.pid), *map(str, options)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("traceloop: the run goes on, this is what its rings hold by now")
        assert "__main__.wait" in (path.read_text() if path.exists() else done.stdout)
    done = subprocess.run([traced.command[0], "report", "999999999"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "") and "process 999999999 is not traced" in done.stderr


def test_a_loop_that_is_blocked(traced, program):
    program.stdin.write("\n")
    program.stdin.flush()
    assert program.stdout.readline() == "blocking\n"
    # Over an interval of its own the watchdog has seen it.
    done = top(traced, "--once", "--interval", "1", program.pid)
    assert done.returncode == 0
    said = done.stdout[done.stdout.index("has been blocked for") :]
    assert "by __main__.main, in __main__.hold" in said
    assert re.search(r'busy\.py", line 6, in __main__\.hold', said)


def test_a_terminal_until_the_run_ends(traced, program):
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [traced.command[0], "top", "--interval", "0.2", str(program.pid)], stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    while seen.count(b"\x1b[H\x1b[2J") < 2:
        seen += os.read(mine, 4096)
    program.kill()
    try:
        while True:
            seen += os.read(mine, 4096)
    except OSError:
        pass  # the other end was closed
    os.close(mine)
    assert process.wait(120) == 0
    assert b"the run has ended" in seen
    # The cursor is there again.
    assert seen.rstrip().endswith(b"\x1b[?25h")


def test_an_interrupt_ends_it(traced, program):
    process = subprocess.Popen(
        [traced.command[0], "top", "--interval", "0.2", str(program.pid)], stdout=subprocess.PIPE, text=True
    )
    assert "busy.py" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 0


WORKERS = """
import asyncio, os, sys, time

async def beat(n):
    while True:
        await asyncio.sleep(0.01 * n)

async def main():
    tasks = [asyncio.create_task(beat(n)) for n in range(1, 15)]
    await asyncio.sleep(0.5)
    print("ready", flush=True)
    time.sleep(600)

for _ in range(4):
    if not os.fork():
        asyncio.run(main())
while True:
    os.wait()
"""


def test_a_small_terminal_with_four_blocked_workers(traced, tmp_path):
    (tmp_path / "workers.py").write_text(WORKERS)
    command = [*traced.command, "--no-metrics", str(tmp_path / "workers.py")]
    root = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    try:
        for _ in range(4):
            assert root.stdout.readline() == "ready\n"
        # The process that has no loop of its own names the run too.
        process = subprocess.Popen(
            [traced.command[0], "top", "--interval", "1", str(root.pid)],
            stdout=theirs, stderr=theirs, env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip
        os.close(theirs)
        seen = b""
        while seen.count(b"\x1b[H\x1b[2J") < 4:
            seen += os.read(mine, 4096)
        process.send_signal(signal.SIGINT)
        process.wait(120)
    finally:
        workers = Path(f"/proc/{root.pid}/task/{root.pid}/children").read_text().split()
        left = run_of(int(workers[0]))
        os.killpg(root.pid, signal.SIGKILL)
        root.communicate()
        remove_run(left)
        os.close(mine)
    screens = seen.decode().replace("\r", "").split("\x1b[H\x1b[2J")[1:-1]
    for screen in screens:
        lines = screen.removesuffix("\n").split("\n")
        assert "\x1b[" not in screen, "colours"
        assert len(lines) <= 23 and max(map(len, lines)) <= 80, screen
        assert "4 processes, 4 loops" in lines[0]
        assert sum(line.startswith("MainThread ") and line.rstrip().endswith(" s") for line in lines) == 4
        assert any(line.startswith("callbacks of the last") for line in lines)
    assert "has been blocked for" in screens[-1]


SLOW_BEFORE = """
import asyncio, sys, time

def hold():
    print("blocking", flush=True)
    sys.stdin.readline()

async def main():
    hold()
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_no_callback_has_more_time_than_has_passed(traced, tmp_path):
    (tmp_path / "before.py").write_text(SLOW_BEFORE)
    with started(traced, tmp_path / "before.py", line="blocking") as process:
        # It has run for long when the first look begins, and ends in one of the next.
        assert "has been blocked for" in top(traced, "--once", "--interval", "3", process.pid).stdout
        watcher = subprocess.Popen(
            [traced.command[0], "top", "--interval", "0.5", str(process.pid)], stdout=subprocess.PIPE, text=True
        )
        shares = []
        while not shares or "runs now" in shares[-1]:
            line = watcher.stdout.readline()
            if line.startswith("__main__.main"):
                shares.append(line)
                process.stdin.write("\n")
                process.stdin.flush()
        watcher.send_signal(signal.SIGINT)
        watcher.communicate(timeout=120)
    assert all(float(re.search(r"([\d.]+)%", line)[1]) <= 100.1 for line in shares), shares


def test_a_program_that_has_no_loop_yet(traced):
    code = "import sys; print('imports', flush=True); sys.stdin.readline()"
    with started(traced, "-c", code, line="imports") as process:
        done = top(traced, "--once", "--interval", "0.2", process.pid)
        assert (done.returncode, done.stderr) == (0, "")
        assert "the program has not run an asyncio event loop yet" in done.stdout
        process.communicate("\n", timeout=120)
    assert top(traced, "--once", process.pid).returncode == 1


def test_what_is_not_there(traced, tmp_path):
    me = top(traced, "--once", os.getpid())
    assert me.returncode == 1
    assert me.stderr.startswith(f"traceloop: process {os.getpid()} is not traced")
    assert me.stderr.count("\n") == 1
    empty = top(traced, tmp_path)
    assert empty.returncode == 1
    assert f"no record of a run in {tmp_path}" in empty.stderr
    missing = top(traced, "uvicron")
    assert missing.returncode == 2
    assert missing.stderr.startswith("traceloop: uvicron is neither a PID nor a folder; `traceloop ps` lists what is")
    assert missing.stderr.count("\n") == 1


def test_a_run_that_has_ended(traced, tmp_path):
    subprocess.run(
        [
            *traced.command,
            "--no-metrics",
            "--record",
            str(tmp_path),
            "-c",
            "import asyncio; asyncio.run(asyncio.sleep(0))",
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    done = top(traced, tmp_path)
    assert done.returncode == 1
    assert "has ended" in done.stderr and "traceloop report" in done.stderr


def test_a_folder_of_records_finds_the_run_that_goes_on(traced, tmp_path):
    record = tmp_path / "record"
    options = ["--no-metrics", "--record", str(record)]
    # An older record lies there already.
    subprocess.run([*traced.command, *options, "-c", "import asyncio; asyncio.run(asyncio.sleep(0))"], check=True)
    path = tmp_path / "busy.py"
    path.write_text(BUSY)
    process = subprocess.Popen(
        [*traced.command, *options, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    try:
        (tmp_path / "link").symlink_to(record)
        for folder in (record, tmp_path / "link"):
            done = top(traced, folder, "--once", "--interval", "0.2")
            assert (done.returncode, done.stderr) == (0, "")
            assert "busy.py" in done.stdout.splitlines()[0]
        report = subprocess.run([traced.command[0], "report", record], capture_output=True, text=True, timeout=120)
        assert report.returncode == 0 and report.stderr.startswith("traceloop: the run goes on")
        assert "__main__.wait" in report.stdout
        made = tmp_path / "out.jsonl"
        words = [traced.command[0], "export", record, "--format", "jsonl", "-o", made]
        export = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert export.returncode == 0 and "the run goes on" in export.stderr
        command, document = traced.command[0], tmp_path / "checked.json"
        for which in (record, str(process.pid)):
            words = [command, "check", "--max-callback", "60s", "--json", document, which]
            check = subprocess.run(words, capture_output=True, text=True, timeout=120)
            assert (check.returncode, check.stdout) == (0, "ok    max-callback 60.0 s\n")
            assert check.stderr.startswith("traceloop: the run goes on, ")
            assert json.loads(document.read_text())["goes_on"] is True
        words = [command, "diff", "--json", record, str(process.pid)]
        diff = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert [line.partition(",")[0] for line in diff.stderr.splitlines()] == [
            f"traceloop: run {name} goes on" for name in "AB"
        ]
        assert [json.loads(diff.stdout)[name]["goes_on"] for name in "ab"] == [True, True]
        words = [command, "export", str(process.pid), "--format", "jsonl", "-o", "-"]
        export = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert export.returncode == 0 and json.loads(export.stdout.splitlines()[0])
    finally:
        process.kill()
        _, said = process.communicate(timeout=120)
    # The crash: its line names the folder, and what is found there is the copy, once it is there.
    assert f"`traceloop report {record}` shows its record" in said
    report = subprocess.run([traced.command[0], "report", record], capture_output=True, text=True, timeout=120)
    assert report.returncode == 0 and "killed" in report.stdout
    until(lambda: not any(os.path.exists(f"/dev/shm/{kept.name}") for kept in record.iterdir()), "no second copy")


def test_importing_it_is_cheap(traced):
    code = "import sys, traceloop.cli.top; print('opentelemetry' in sys.modules, 'prometheus_client' in sys.modules)"
    done = subprocess.run([traced.python, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["False", "False"], sys.version


def test_ps_lists_runs_and_processes(traced, program):
    done = subprocess.run([traced.command[0], "ps"], capture_output=True, text=True, check=True, timeout=120)
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["PID", "STARTED", "PROGRAM", "METRICS"]
    (row,) = [row.split() for row in rows if row.split()[0] == str(program.pid)]
    assert row[2:] == ["busy.py", "-"] and re.fullmatch(r"\d\d:\d\d:\d\d", row[1])


def screen_with(mine, text):
    """Reads the terminal until a whole picture has this text."""
    seen = picture = b""
    deadline = time.monotonic() + PATIENCE
    while text not in picture:
        assert time.monotonic() < deadline, f"no picture with {text!r} came, but {seen[-3000:]!r}"
        if select.select([mine], [], [], 1.0)[0]:
            seen += os.read(mine, 65536)
            picture = seen.rpartition(b"\x1b[H\x1b[2J")[2]
    return picture.decode(errors="replace")


def test_pages_pause_and_quit_by_keys(traced, program):
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(theirs)
    # A session of its own, whose terminal this is: keys are read by the job in the foreground.
    process = subprocess.Popen(
        [traced.command[0], "top", "--interval", "0.2", str(program.pid)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "NO_COLOR": "1"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    try:
        first = screen_with(mine, b"s / space q")
        assert "callbacks/s" in first and "1 loops" in first
        assert max(map(len, first.splitlines())) <= 80 and len(first.splitlines()) <= 24
        os.write(mine, b"2")
        tasks = screen_with(mine, b"[2 tasks]")
        assert "5 x __main__.wait" in tasks.replace("├─ ", "") or "__main__.wait" in tasks
        assert "\x1b[3" not in tasks
        os.write(mine, b"\t")
        assert "executor" in screen_with(mine, b"[3 executors]")
        os.write(mine, b"4")
        assert "0 requests" in screen_with(mine, b"[4 requests]")
        os.write(mine, b" ")
        screen_with(mine, b"paused space q")
        os.write(mine, b"5")
        callbacks = screen_with(mine, b"[5 callbacks]")
        assert "time \u25bc" in callbacks and "__main__.wait" in callbacks and "ending a sleep" in callbacks
        assert max(map(len, callbacks.splitlines())) <= 80
        os.write(mine, b"s")
        assert "__main__.wait" in screen_with(mine, "share \u25bc".encode())
        os.write(mine, b"r")
        screen_with(mine, "share \u25b2".encode())
        os.write(mine, b"/")
        screen_with(mine, b"only rows with: _")
        os.write(mine, b"MAIN__.waitx")
        os.write(mine, b"\x7f")
        only = screen_with(mine, b"only rows with: MAIN__.wait_")
        assert "__main__.wait" in only and "__main__.main" not in only
        os.write(mine, b"\r")
        assert "1 of" in screen_with(mine, b"[5 callbacks]")
        os.write(mine, b"\x1b")
        os.write(mine, b"6")
        heaps = screen_with(mine, b"[6 heaps]")
        assert "timers of MainThread" in heaps and "allocated blocks" in heaps
        os.write(mine, b"1")
        screen_with(mine, b"[1 loops]")
        os.write(mine, b"q")
        assert process.wait(120) == 0
        # The terminal is as it was, and the cursor there.
        assert termios.tcgetattr(theirs)[3] == before[3]
        rest = os.read(mine, 65536)
        assert rest.rstrip().endswith(b"\x1b[?25h")
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
        os.close(mine)
