"""How often the collector reads: by how fast the rings fill."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from tests.helpers.observed import HEAD, environment
from tests.helpers.waiting import until
from traceloop.collector.collector import Collector
from traceloop.collector.pace import MAX_POLL_SECONDS, MIN_POLL_SECONDS, Pace
from traceloop.record import files, layout
from traceloop.recording.ring import FIRST_BYTES, Ring
from traceloop.settings import Settings


def pause_after(seconds, *rings):
    """``rings``: their capacity in bytes, and records read."""
    now = [100.0]
    pace = Pace(clock=lambda: now[0])
    pace.count(
        SimpleNamespace(
            ring=SimpleNamespace(reader=SimpleNamespace(capacity=room)), decoded=SimpleNamespace(records=records)
        )
        for room, records in rings
    )
    now[0] += seconds
    return pace.pause()


@pytest.mark.parametrize(
    ("seconds", "rings", "pause"),
    [
        (0.2, (), MAX_POLL_SECONDS),
        (0.2, [(8 << 20, 100)], MAX_POLL_SECONDS),
        (0.1, [(8 << 20, 16_384)], 0.1),
        (0.1, [(8 << 20, 8_192), (8 << 20, 8_192)], 0.1),
        (0.2, [(8 << 20, 8_192)], 0.4),
        (0.2, [(8 << 20, 300_000)], MIN_POLL_SECONDS),
        # An eighth of a small ring.
        (0.1, [(192_000, 1_000)], 0.1),
        (0.0, [(0, 1)], MIN_POLL_SECONDS),
    ],
)
def test_a_poll_comes_when_an_eighth_of_a_ring_has_filled(seconds, rings, pause):
    assert pause_after(seconds, *rings) == pytest.approx(pause)


def test_a_ring_wakes_its_reader_at_each_quarter(tmp_path):
    woken = []
    ring = Ring(str(tmp_path / "ring"), layout.KIND_LOOP, 0, FIRST_BYTES, wake=lambda: woken.append(ring.records))
    for _ in range(400):
        ring.write([1.0, layout.R_MEMORY, 0.0] * 100, [], 1.0)
    # Four times a turn of the ring, which has 2,700 records, but for the batch with which each quarter ends.
    assert 40_000 / (FIRST_BYTES / 24 / 4) * 0.8 <= len(woken) <= 40_000 / (FIRST_BYTES / 24 / 4) + 1
    ring.close()


def test_to_wake_a_reader_that_is_not_there_does_nothing(tmp_path):
    files.wake_reader(str(tmp_path))


BURSTS = """
async def main():
    loop = asyncio.get_running_loop()
    tell(waits=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    for _ in range(3000):
        await asyncio.sleep(0)
    tell(burst=True)
    await loop.run_in_executor(None, sys.stdin.readline)
run(main())
"""


@pytest.fixture
def waiting(tmp_path):
    """A program that waits for a line of input, to compute then; and its collector, which has read what it wrote. No
    ring can wake the collector: the pipe is gone, as it is for a server that has changed its user.
    """
    program, run_dir = tmp_path / "program.py", tmp_path / "run"
    program.write_text(HEAD + BURSTS)
    run_dir.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(program)],
        env=environment(run_dir),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        collector = Collector(Settings(run_dir=str(run_dir), metrics=False), process.pid)
        os.unlink(run_dir / files.WAKE)
        collector.open(None)
        assert "waits" in process.stdout.readline()
        until(lambda: (collector.poll(), collector.follower.is_quiet())[1], "that the program waits")
        yield collector, process
    finally:
        process.kill()
        process.communicate()


def is_due(collector, due=math.inf):
    """With the last poll in the future: the time that has passed is no reason for another one."""
    collector._polled_at, collector._due = time.monotonic() + 1000.0, due
    return collector._is_due(sees_end=True)


def test_a_burst_of_a_process_that_cannot_wake_its_collector_is_seen_between_two_polls(waiting):
    collector, process = waiting
    assert not is_due(collector)
    process.stdin.write("go\n")
    process.stdin.flush()
    assert "burst" in process.stdout.readline()
    assert is_due(collector)


def test_a_quiet_program_is_polled_while_a_snapshot_waits_for_its_second_copy(waiting):
    collector, _ = waiting
    until(lambda: (collector.poll(), not is_due(collector, due=0.0))[1], "that there is nothing to read")
    collector.snapshots = SimpleNamespace(unfinished=True)
    assert is_due(collector, due=0.0)
