"""Runs as services have them: a parent that runs no loop, signals to all processes, restarts without a pause."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

import pytest

from tests.helpers.differential import clean_environ, notices, outcome
from tests.helpers.traced import Traced

POOL = """
import asyncio, subprocess, sys
child = "import asyncio\\nasync def main():\\n    for _ in range(50): await asyncio.sleep(0)\\nasyncio.run(main())"
for _ in range(2):
    subprocess.run([sys.executable, "-c", child], check=True)
# What the parent of a pool does: it waits, and runs no loop. The children have been read and freed by now.
import os, time
deadline = time.monotonic() + 120
folder = os.environ["OTEL_PYTHON_TRACELOOP_RUN_DIR"]
while any(name.startswith("p-") for name in os.listdir(folder)) and time.monotonic() < deadline:
    time.sleep(0.01)
"""
SIGNALLED = """
import asyncio, json, os, signal, time
folder = os.environ["OTEL_PYTHON_TRACELOOP_RUN_DIR"]

async def request():
    await asyncio.sleep(0)

async def main():
    while not os.path.exists(folder + "/collector.json"):
        await asyncio.sleep(0.01)
    # systemd sends its signal to every process of the unit.
    supervisor = int(os.environ["OTEL_PYTHON_TRACELOOP_COLLECTOR_PID"])
    for pid in (supervisor, json.load(open(folder + "/collector.json"))["pid"]):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
    await asyncio.sleep(0.5)
    for _ in range(800):
        await asyncio.create_task(request())
    print(folder)

asyncio.run(main())
"""


def test_a_root_that_runs_no_loop_gets_the_summary_of_its_children(traced: Traced, tmp_path: Path) -> None:
    """It said that nothing was recorded, and then summed up what was, or waited in vain for 2 s."""
    (tmp_path / "app.py").write_text(POOL)
    result = outcome([*traced.command, "--no-metrics", "app.py"], tmp_path)
    assert result.status == 0
    (line,) = notices(result)
    assert re.match(r"traceloop: 2 loops in 2 processes, [\d,]+ callbacks", line), line


def test_the_port_is_free_when_the_program_has_ended(traced: Traced, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(POOL)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for _ in range(2):
        # Without a pause between the two; a port that was asked for and is taken is status 2.
        result = outcome([*traced.command, "--metrics-port", str(port), "app.py"], tmp_path)
        assert result.status == 0, result.stderr


def test_signals_to_the_whole_unit_do_not_end_the_collector_before_the_program(traced: Traced, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SIGNALLED)
    result = outcome(
        [*traced.command, "--no-metrics", "app.py"], tmp_path, environ={"OTEL_PYTHON_TRACELOOP_EXIT_TIMEOUT": "30"}
    )
    assert result.status == 0
    (line,) = notices(result)
    callbacks = re.search(r"([\d,]+) callbacks", line)
    assert callbacks and int(callbacks[1].replace(",", "")) > 1600, line


@pytest.mark.slow  # it waits out the 10 s
def test_a_program_that_ignores_the_signal_and_is_idle_is_given_up(traced: Traced, tmp_path: Path) -> None:
    """The collector waited as long as the program lived."""
    (tmp_path / "app.py").write_text(
        "import asyncio, json, os, signal\n"
        "folder = os.environ['OTEL_PYTHON_TRACELOOP_RUN_DIR']\n"
        "async def main():\n"
        "    while not os.path.exists(folder + '/collector.json'):\n        await asyncio.sleep(0.01)\n"
        "    collector = json.load(open(folder + '/collector.json'))['pid']\n"
        "    handle = os.pidfd_open(collector)\n"
        "    over = asyncio.Event()\n"
        "    asyncio.get_running_loop().add_reader(handle, over.set)\n"
        "    os.kill(collector, signal.SIGTERM)\n"
        "    await over.wait()\n"
        "    print(folder)\n"
        "asyncio.run(main())\n"
    )
    result = outcome([*traced.command, "--no-metrics", "app.py"], tmp_path)
    assert result.status == 0
    folder = result.stdout.strip()
    subprocess.run(["rm", "-r", folder], check=True)
    assert notices(result) == [
        "traceloop: the collector was asked to end, and the program has been idle for 10 s; "
        f"its record stays in {folder}",
        f"traceloop: the collector has ended before the program; the record is in {folder}",
    ]


def test_a_record_that_finds_no_room_stays_where_it_is(traced: Traced, tmp_path: Path) -> None:
    """Both copies were lost, with a list of tuples for a message."""
    (tmp_path / "app.py").write_text(
        "import asyncio\nasync def main():\n    for _ in range(20000): await asyncio.sleep(0)\nasyncio.run(main())\n"
    )
    (tmp_path / "small").mkdir()
    script = 'mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"'
    words = [*traced.command, "--no-metrics", "--record", str(tmp_path / "small"), "app.py"]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(tmp_path / "small"), *words],
        cwd=tmp_path, env=clean_environ({"OTEL_PYTHON_TRACELOOP_EXIT_TIMEOUT": "30"}),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("needs the right to mount")
    kept = re.findall(
        r"^traceloop: the record could not be kept in \S+: .*No space left on device.*; it stays in (\S+)$",
        done.stderr,
        re.M,
    )
    assert done.returncode == 0 and len(kept) == 1, done.stderr
    again = subprocess.run(
        [traced.command[0], "report", kept[0]], capture_output=True, text=True, env=clean_environ(), timeout=120
    )
    subprocess.run(["rm", "-r", kept[0]], check=True)
    assert "__main__.main" in again.stdout


DELETES_ITS_RECORD = """
import asyncio, os, shutil
FOLDER = os.environ["OTEL_PYTHON_TRACELOOP_RUN_DIR"]
SUPERVISOR = os.environ["OTEL_PYTHON_TRACELOOP_COLLECTOR_PID"]

def is_read():
    (collector,) = open(f"/proc/{SUPERVISOR}/task/{SUPERVISOR}/children").read().split()
    files = [os.readlink(entry) for entry in os.scandir(f"/proc/{collector}/fd")]
    return any(file.startswith(f"{FOLDER}/p-{os.getpid()}-") and "loop-0" in file for file in files)

async def main():
    while not is_read():
        await asyncio.sleep(0.05)
    shutil.rmtree(FOLDER)
    print(FOLDER)

asyncio.run(main())
"""


@pytest.mark.parametrize("keeps", [False, True])
def test_a_record_that_was_deleted_during_the_run_is_said_to_be_gone(
    traced: Traced, tmp_path: Path, *, keeps: bool
) -> None:
    """It said that nothing was recorded, summed the run up, and said that the record stays where it was."""
    (tmp_path / "app.py").write_text(DELETES_ITS_RECORD)
    kept = tmp_path / "kept"
    result = outcome([*traced.command, "--no-metrics", *(["--record", str(kept)] if keeps else []), "app.py"], tmp_path)
    folder = result.stdout.strip()
    gone = f"traceloop: the record in {folder} was deleted while the program ran"
    if keeps:
        gone = f"traceloop: no record could be kept in {kept}: the one in {folder} was deleted while the program ran"
    assert result.status == 0 and not Path(folder).exists()
    summary, line = sorted(notices(result))  # two processes print them, in no certain order
    assert line == gone and summary.startswith("traceloop: 1 loop, ")


def test_a_run_without_room_for_its_record_says_so(traced: Traced, tmp_path: Path) -> None:
    """It said that the program had run no event loop."""
    (tmp_path / "app.py").write_text("import asyncio\nasyncio.run(asyncio.sleep(0))\n")
    script = 'mount --make-rprivate / && mount -t tmpfs -o nr_inodes=5 tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "-", *traced.command, "--no-metrics", "app.py"],
        cwd=tmp_path,
        # A busy machine may hold up the only callback.
        env=clean_environ({"OTEL_PYTHON_TRACELOOP_EXIT_TIMEOUT": "30", "OTEL_PYTHON_TRACELOOP_SLOW_THRESHOLD": "60"}),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("needs the right to mount")
    assert done.returncode == 0
    assert len(notices(done)) == 2, done.stderr
    first, last = notices(done)
    assert re.fullmatch(r"traceloop: cannot record into \S+ \(No space left on device\); .* private memory", first)
    assert last == "traceloop: nothing was recorded that others can read: there was no room for the record"
