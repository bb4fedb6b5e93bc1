"""Records of crashed runs expire by age and by size; those of living runs do not."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests.helpers.small_shared_memory import run_in_shared_memory
from traceloop.collector.expired_records import expire, hold, make_room
from traceloop.record.proc import pid_namespace, process_start_ticks


def make(folder, name, *, days=0.0, size=1000, process=None):
    path = folder / f"traceloop-{os.getuid()}-{name}"
    inner = path / (process or "p-999999-1")
    inner.mkdir(parents=True)
    (inner / "loop-0.ring").write_bytes(bytes(size))
    when = time.time() - 3600 - days * 86400
    os.utime(path, (when, when))
    return path


def test_age_and_size_and_life(tmp_path):
    own = make(tmp_path, "own")
    old = make(tmp_path, "old", days=8)
    alive = make(tmp_path, "alive", days=8, process=f"p-{os.getpid()}-{process_start_ticks()}")
    first, second, third = (make(tmp_path, f"big{n}", days=3 - n, size=12_288) for n in range(3))
    (tmp_path / "traceloop-0x-other").mkdir()
    (tmp_path / "somebody").mkdir()
    removed = expire(str(own), max_bytes=28_000)
    assert sorted(removed) == sorted([str(old), str(first)])
    assert not old.exists() and not first.exists()
    for path in (own, alive, second, third, tmp_path / "somebody", tmp_path / "traceloop-0x-other"):
        assert path.exists()


def test_a_fresh_run_and_a_foreign_place_are_left_alone(tmp_path):
    own = make(tmp_path, "own")
    fresh = make(tmp_path, "fresh")
    os.utime(fresh)
    assert expire(str(own), max_bytes=0) == []
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert expire(str(other), max_bytes=0) == []


def test_a_run_of_another_container_lives_as_long_as_its_collector(tmp_path):
    """What shares the memory need not share the pids: nothing of the run seems to live here."""
    own = make(tmp_path, "own")
    path = make(tmp_path, "elsewhere", days=8)
    (path / "run.json").write_text(json.dumps({"pid_namespace": 1}))
    os.utime(path, (1e9, 1e9))
    code = """
import sys
from traceloop.collector import expired_records
print(expired_records.hold(sys.argv[1]) >= 0, flush=True)
sys.stdin.read()
"""
    collector = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with collector:
        assert collector.stdout.readline() == "True\n"
        os.utime(path, (1e9, 1e9))
        assert expire(str(own), max_bytes=0) == []
        collector.stdin.close()
        collector.wait()
    assert expire(str(own), max_bytes=0) == [str(path)]


def test_of_a_run_elsewhere_without_a_collector_nothing_is_known(tmp_path):
    own = make(tmp_path, "own")
    path = make(tmp_path, "elsewhere", days=3)
    (path / "run.json").write_text(json.dumps({"pid_namespace": 1}))
    when = time.time() - 3 * 86400
    os.utime(path, (when, when))
    assert expire(str(own), max_bytes=0) == []
    os.utime(path, (1e9, 1e9))
    assert expire(str(own)) == [str(path)]


CRASH = """
import asyncio, os
async def main():
    for _ in range(50_000):
        await asyncio.sleep(0)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""


def test_crashes_leave_a_small_file_system_room(traced, tmp_path):
    """In a container's shared memory: eight crashes in a row, then a run that finds all the room it wants."""
    (tmp_path / "app.py").write_text(CRASH)
    run = f"{traced.command[0]} run --no-metrics --ring-size 1M"
    script = f"""
        for number in 1 2 3 4 5 6 7 8; do {run} app.py; done
        du -sk /dev/shm | cut -f1
        ls /dev/shm | wc -l
        {run} -c 'import asyncio; asyncio.run(asyncio.sleep(0))'
    """
    done = run_in_shared_memory("16m", script, tmp_path)
    kib, count = map(int, done.stdout.split())
    # A quarter of 16 MiB, and the newest.
    assert kib < 6 * 1024 and 1 <= count < 8, done.stderr
    assert "KiB free" not in done.stderr, done.stderr


def left_by_a_killed_run(tmp_path, record, **settings):
    left = make(tmp_path, "left")
    described = {"pid_namespace": pid_namespace(), "settings": {"record": str(record), **settings}}
    (left / "run.json").write_text(json.dumps(described))
    os.utime(left, (1e9, 1e9))
    return left


@pytest.mark.parametrize("bring", [lambda own: expire(own), lambda own: make_room(own, 1 << 62)])
def test_a_record_that_was_to_be_kept_is_brought_there(tmp_path, bring):
    """Its collector was killed too, and could not."""
    own, record = make(tmp_path, "own"), tmp_path / "records"
    record.mkdir()
    left = left_by_a_killed_run(tmp_path, record)
    bring(str(own))
    assert not left.exists()
    assert [path.name for path in record.iterdir()] == [left.name]
    assert (record / left.name / "p-999999-1" / "loop-0.ring").read_bytes() == bytes(1000)


def test_a_record_stays_where_its_folder_is_gone_or_another_collector_brings_it(tmp_path):
    own, record = make(tmp_path, "own"), tmp_path / "records"
    left = left_by_a_killed_run(tmp_path, record)
    assert expire(str(own), max_age=1e12) == [] and left.exists() and not record.exists()
    record.mkdir()
    held = hold(str(left))
    assert expire(str(own), max_age=1e12) == [] and left.exists()
    os.close(held)
    (left / "stays").write_text("")  # its collector could not copy it, and has said where it is
    assert expire(str(own), max_age=1e12) == [] and left.exists()
    (left / "stays").unlink()
    (record / f"{left.name}.unfinished").write_text("")  # what a full disk, say, makes of the copy
    assert expire(str(own), max_age=1e12) == [] and left.exists()


def test_a_new_run_comes_before_old_records(tmp_path):
    own = make(tmp_path, "own")
    old = make(tmp_path, "old", days=2)
    new = make(tmp_path, "new", days=1)
    assert make_room(str(own), 0) == []
    assert make_room(str(own), 1 << 62) == [str(old), str(new)]
    assert own.exists() and not old.exists() and not new.exists()
