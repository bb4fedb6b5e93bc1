"""Snapshots: taken while a stall lasts and after it, bounded, and readable as a record."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.observed import TROUBLES, Observed, environment, observe, start, wait_for
from traceloop.collector import stall_snapshots
from traceloop.collector.stall_snapshots import StallSnapshots, make_snapshots
from traceloop.settings import Settings

# Stacks and causes are told by clocks: on a busy machine something else is to blame.
pytestmark = pytest.mark.timing


@pytest.mark.parametrize("trouble", ["never", "never_regex"])
def test_taken_while_a_stall_lasts(tmp_path, trouble):
    process = start(tmp_path / "run", TROUBLES, trouble)
    observed = Observed(tmp_path / "run")
    lines = []
    snapshots = StallSnapshots(observed.follower, str(tmp_path / "kept"), 0.3, lines.append)

    def taken():
        observed.poll()
        snapshots.look()
        return snapshots.taken

    try:
        (folder,) = wait_for(taken, "a snapshot")
    finally:
        process.kill()
        process.communicate()
    assert lines == []
    assert snapshots.lines() == [f"a stall of 0.3 s and more: the record around it is kept in {folder}"]
    kept = Observed(folder)
    kept.poll(last=True)
    (key,) = kept.index.unfinished()
    assert kept.index.lookup(*key).culprit == f"__main__.{trouble}"


def test_taken_again_when_it_is_over(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio, time\nfrom traceloop import EventLoop\n"
        "async def main():\n    await asyncio.sleep(0.05)\n    time.sleep(0.6)\n    await asyncio.sleep(2)\n"
        "with asyncio.Runner(loop_factory=EventLoop) as runner:\n    runner.run(main())\n"
    )
    process = start(tmp_path / "run", program)
    observed = Observed(tmp_path / "run")
    snapshots = StallSnapshots(observed.follower, str(tmp_path / "kept"), 0.3)
    while process.poll() is None:
        observed.poll()
        snapshots.look()
    process.communicate()
    (folder,) = snapshots.taken
    kept = Observed(folder)
    kept.poll(last=True)
    (key,) = kept.index.slow_runs()
    assert kept.index.lookup(*key).culprit == "__main__.main"
    assert kept.index.length_of(*key) == pytest.approx(0.6, abs=0.3)


def test_they_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(stall_snapshots, "MAX_SNAPSHOTS", 0)
    observed = observe(tmp_path, TROUBLES, "sleep")
    observed.follower.ended.clear()
    snapshots = StallSnapshots(observed.follower, str(tmp_path / "kept"), 0.1)
    snapshots.look()
    snapshots.look()
    assert snapshots.taken == []
    assert snapshots.left_out >= 1


STEPS = """
import asyncio, os, time
from traceloop import EventLoop
def first(): time.sleep(0.3)
def second(): time.sleep(0.3)
async def main():
    await asyncio.sleep(0.05)
    loop = asyncio.get_running_loop()
    for step in STEPS:
        loop.call_soon(step)
        await asyncio.sleep(0.05)
    os.write(1, b"x")
    os.read(0, 1)
with asyncio.Runner(loop_factory=EventLoop) as runner:
    runner.run(main())
"""


def test_ten_stalls_of_one_culprit_leave_room_for_another(tmp_path, monkeypatch):
    """All went to the first stalls."""
    monkeypatch.setattr(stall_snapshots, "MAX_SNAPSHOTS", 2)
    program = tmp_path / "program.py"
    seen = tmp_path / "seen"
    wait = f"while not os.path.exists({str(seen)!r}): await asyncio.sleep(0.01)"  # else it may end in the look at it
    program.write_text(STEPS.replace("STEPS", "[first] * 4 + [second]").replace("os.read(0, 1)", wait))
    process = start(tmp_path / "run", program)
    observed = Observed(tmp_path / "run")
    snapshots = StallSnapshots(observed.follower, str(tmp_path / "kept"), 0.2)

    def look():
        observed.poll()
        snapshots.look()
        return len(snapshots.taken) == 2 and snapshots.left_out >= 3

    wait_for(look, "the fifth stall's end")
    seen.touch()
    while process.poll() is None:
        look()
    process.communicate()
    culprits = []
    for folder in snapshots.taken:
        kept = Observed(folder)
        kept.poll(last=True)
        culprits.append({kept.index.culprit(*key) for key in [*kept.index.slow_runs(), *kept.index.unfinished()]})
    assert len(culprits) == 2 and set().union(*culprits) == {"__main__.first", "__main__.second"}
    assert sorted(taken.culprit for taken in snapshots._taken) == ["__main__.first", "__main__.second"]
    observed.poll(last=True)
    snapshots.look()
    assert not snapshots._settled, "nothing is kept of a process that has ended"
    assert sorted(os.listdir(tmp_path / "kept")) == sorted(map(os.path.basename, snapshots.taken))


# A watchdog that has to wait for a processor several times in each of its looks.
SLOW_LOOKS = """
from traceloop.recording.watchdog.lateness import Lateness
turn_begins = Lateness.turn_begins
def slowly(*arguments):
    turn_begins(*arguments)
    for _ in range(10):
        time.sleep(0.005)
Lateness.turn_begins = slowly
"""


@pytest.mark.parametrize("looks", ["", SLOW_LOOKS], ids=["quick", "slow"])
@pytest.mark.parametrize("within", ["loop.call_soon(first)", "pass"])
def test_a_process_that_is_stopped_does_not_stall(tmp_path, within, looks):
    """In the middle of a callback that is slow, but not so slow; and in its poll."""
    program = tmp_path / "program.py"
    program.write_text(
        f"import asyncio, os, time\nfrom traceloop import EventLoop\n{looks}"
        "def first():\n    os.write(1, b'x')\n    time.sleep(0.2)\n"
        "async def main():\n    loop = asyncio.get_running_loop()\n    loop.add_reader(0, loop.stop)\n"
        f"    os.write(1, b'x')\n    {within}\n    await asyncio.Event().wait()\n"
        "loop = EventLoop()\ntask = loop.create_task(main())\nloop.run_forever()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(program)], env=environment(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    observed = Observed(tmp_path)
    snapshots = StallSnapshots(observed.follower, str(tmp_path / "kept"), 1.0)

    def watch(seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            observed.poll()
            snapshots.look()
            time.sleep(0.02)

    process.stdout.read(1 + (within != "pass"))
    watch(0.12)
    process.send_signal(signal.SIGSTOP)
    watch(2.0)
    assert snapshots.taken == []
    process.send_signal(signal.SIGCONT)
    watch(0.6)
    process.communicate(b"x")
    assert snapshots.taken == [] and snapshots.left_out == 0


def test_a_snapshot_of_a_program_that_ended_well_is_no_crash(traced, tmp_path):
    program = tmp_path / "app.py"
    program.write_text(
        "import asyncio, time\nasync def main(): time.sleep(0.7); await asyncio.sleep(1)\nasyncio.run(main())"
    )
    words = ["--no-metrics", "--snapshot-on-stall", "0.3", "--record", "kept", "app.py"]
    done = subprocess.run([*traced.command, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    (folder,) = (line.split()[-1] for line in done.stderr.splitlines() if "is kept in" in line)
    report = subprocess.run(
        [traced.command[0], "report", folder], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "exit record" not in report.stdout
    assert "traceloop: a snapshot of process" in report.stdout and "__main__.main" in report.stdout


def test_a_planted_link_gets_no_snapshot(tmp_path, monkeypatch):
    """Without --record they go to /tmp, where others can write: under a name that they cannot know, into no link."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    said = []
    names = set()
    for _ in range(2):
        settings = Settings(run_dir="/dev/shm/traceloop-0-abc", snapshot_on_stall=1.0)
        snapshots = make_snapshots(settings, None, said.append)
        names.add(snapshots._directory)
    assert len(names) == 2 and not any("traceloop-0-abc" in name for name in names)
    (tmp_path / "victim").mkdir()
    source = tmp_path / "p-1-1"
    source.mkdir()
    os.symlink(tmp_path / "victim", snapshots._directory)
    assert not snapshots._copy(str(source), os.path.join(snapshots._directory, "stall-1-1", "p-1-1"))
    assert os.listdir(tmp_path / "victim") == []
    assert len(said) == 1 and "link" in said[0]
