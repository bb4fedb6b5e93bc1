"""How often the collector reads: by how fast the rings fill."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from tests.helpers.observed import HEAD, environment
from tests.helpers.waiting import until
from traceloop.collector.collector import Collector
from traceloop.collector.pace import MAX_POLL_SECONDS, MIN_POLL_SECONDS, SOON_SECONDS, Pace
from traceloop.reading.decoding.choose import native
from traceloop.reading.rest import rest
from traceloop.record import files, layout
from traceloop.recording.ring import FIRST_BYTES, Ring
from traceloop.settings import Settings


def pause_after(seconds, rings, *, in_c=False):
    """``rings``: their capacity in bytes, and records read."""
    now = [100.0]
    pace = Pace(clock=lambda: now[0], in_c=in_c)
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
    assert pause_after(seconds, rings) == pytest.approx(pause)


def test_the_reader_in_c_takes_more_at_once():
    assert pause_after(0.1, [(64 << 20, 16_384)], in_c=True) == pytest.approx(0.4)
    assert pause_after(0.1, [(8 << 20, (8 << 20) / 24 / 8)], in_c=True) == pytest.approx(0.1)


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
def waiting(tmp_path, request):
    """A program that waits for a line of input, to compute then; and its collector, which has read what it wrote. No
    ring can wake the collector: the pipe is gone, as it is for a server that has changed its user.
    """
    program, run_dir = tmp_path / "program.py", tmp_path / "run"
    blocks = getattr(request, "param", "")
    program.write_text(HEAD + (blocks or BURSTS))
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
        assert ("blocks" if blocks else "waits") in process.stdout.readline()
        if blocks:
            until(lambda: (collector.poll(), collector.probe.stands)[1], "that its loop stands still")
        else:
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


@pytest.mark.parametrize("what", ["a process", "a ring", "an end", "a kill"])
def test_what_has_come_since_the_last_poll_is_seen_though_every_known_ring_is_quiet(waiting, what):
    collector, root = waiting
    until(lambda: (collector.poll(), not is_due(collector, due=0.0))[1], "that there is nothing to read")
    (process,) = collector.follower.processes.values()
    if what == "a process":
        os.mkdir(os.path.join(collector.run_dir, "p-1-1"))
    elif what == "a kill":
        root.kill()
        root.wait()
    else:
        name = files.loop_ring(7) if what == "a ring" else files.ENDED
        open(os.path.join(process.folder.path, name), "x").close()
    assert is_due(collector, due=0.0)


def test_a_process_that_has_ended_and_was_let_go_keeps_nobody_awake(waiting):
    collector, _ = waiting
    path = os.path.join(collector.run_dir, "p-1-1")  # no process has that number and began then
    os.mkdir(path)
    until(lambda: (collector.poll(), not os.path.exists(path))[1], "that it is let go")
    until(lambda: (collector.poll(), collector.follower.is_quiet())[1], "that there is nothing to read")


def test_a_quiet_program_is_polled_while_a_snapshot_waits_for_its_second_copy(waiting):
    collector, _ = waiting
    until(lambda: (collector.poll(), not is_due(collector, due=0.0))[1], "that there is nothing to read")
    collector.snapshots = SimpleNamespace(unfinished=True)
    assert is_due(collector, due=0.0)


def test_a_killed_process_has_ended_no_sooner_than_its_watchdog_has_looked(waiting):
    """Between two polls nothing else is seen of it, and they may be seconds apart."""
    collector, process = waiting
    (follower,) = collector.follower.processes.values()
    watchdog = next(ring.reader for ring in follower.rings.values() if not ring.is_loop)
    until(lambda: watchdog.word(layout.W_HEARTBEAT) > follower.seen_at + 0.2, "that the watchdog looks")
    looked, offset = watchdog.word(layout.W_HEARTBEAT), watchdog.clock_offset_ns
    process.kill()
    process.wait()
    until(lambda: (collector.poll(), follower.end_ns)[1], "that the end is noticed")
    # The rings of a process measure that offset one after the other, and differ by microseconds.
    assert looked - 0.001 <= (follower.end_ns - offset) / 1e9 <= time.monotonic() + 0.001


FAR = 3600.0
BLOCKS = """
import time
async def main():
    tell(blocks=True)
    time.sleep(600)
run(main())
"""


@pytest.mark.parametrize("waiting", [BLOCKS], indirect=True, ids=["blocks"])
def test_no_look_at_a_loop_that_runs_is_put_off_after_a_rest(waiting, monkeypatch):
    collector, _ = waiting
    collector.probe.stands = False  # as before its threshold
    assert waits_of(collector, monkeypatch, FAR) == [0.0 if native() is not None else SOON_SECONDS]


def test_the_end_of_a_stall_is_looked_for_without_a_rest(waiting, monkeypatch):
    """The loop stood still at the last look, and sleeps by now. How long it stood is measured by these looks."""
    collector, _ = waiting
    collector.probe.stands = True
    assert waits_of(collector, monkeypatch, 100 * SOON_SECONDS) == [SOON_SECONDS]


def waits_of(collector, monkeypatch, seconds):
    """How long the collector waits in Python (s), with a poll due in so many ``seconds``."""
    waits = []
    monkeypatch.setattr(collector.pipe, "wait", lambda seconds, root: waits.append(seconds))
    root, end = os.pipe()
    try:
        collector._polled_at = time.monotonic()
        collector._due, collector._look_again = collector._polled_at + seconds, SOON_SECONDS
        assert not collector._wait(root)
    finally:
        os.close(root)
        os.close(end)
    return waits


in_c = pytest.mark.skipif(native() is None, reason="the collector rests in C, where that was built")


@pytest.fixture
def resting(waiting):
    """Rests as that program's collector may, once it has read all there is."""
    collector, process = waiting
    reader, writer = os.pipe()

    def rested(seconds=FAR, until_new=True):
        return rest(collector.follower, (reader,), 0.001, time.monotonic() + seconds, until_new=until_new)

    until(lambda: (collector.poll(), rested(0.0) is False)[1], "that nothing is to be read")
    yield SimpleNamespace(collector=collector, process=process, rest=rested, writer=writer)
    os.close(reader)
    os.close(writer)


@in_c
@pytest.mark.parametrize("until_new", [True, False])
def test_the_collector_rests_while_nothing_comes(resting, until_new):
    assert resting.rest(0.01, until_new) is False


@in_c
@pytest.mark.parametrize("until_new", [True, False])
def test_what_can_be_read_ends_a_rest(resting, until_new):
    os.write(resting.writer, b"x")
    assert resting.rest(FAR, until_new) is True


@in_c
def test_what_a_program_writes_ends_a_rest(resting):
    resting.process.stdin.write("go\n")
    resting.process.stdin.flush()
    while not resting.rest():  # a loop that runs ends it too, and has written nothing yet
        pass
    assert not resting.collector.follower.is_quiet()


@in_c
@pytest.mark.parametrize("where", ["the run", "its process"])
def test_what_comes_into_a_folder_ends_a_rest(resting, where):
    (process,) = resting.collector.follower.processes.values()
    path = resting.collector.run_dir if where == "the run" else process.folder.path
    os.utime(path, (1.0, 1.0))

    def come():
        while not over.is_set():  # it may have come before the rest began
            os.utime(path)

    over = threading.Event()
    thread = threading.Thread(target=come)
    thread.start()
    try:
        assert resting.rest() is True
    finally:
        over.set()
        thread.join()


@in_c
def test_a_process_that_is_killed_ends_a_rest(resting):
    resting.process.kill()
    resting.process.wait()
    assert resting.rest() is True


@in_c
def test_a_ring_that_fills_ends_a_rest_between_two_polls(resting):
    resting.process.stdin.write("go\n")
    resting.process.stdin.flush()
    while not resting.rest(until_new=False):
        pass
    (process,) = resting.collector.follower.processes.values()
    assert max(ring.reader.behind for ring in process.rings.values()) > FIRST_BYTES / 4  # it has grown since, perhaps


@in_c
def test_a_rest_of_what_it_cannot_look_at_is_an_error():
    module = native()
    with pytest.raises(TypeError):
        module.rest(1)
    with pytest.raises(ValueError):
        module.rest((), (), ((0, 0, True, 0.0),) * 65, 0.1, 0.0)
    assert module.rest((), ((b"/nowhere", 0),), (), 0.1, FAR + time.monotonic()) is True
    assert module.rest((), (), ((-1, 0, False, 0.0),), 0.1, FAR + time.monotonic()) is True
