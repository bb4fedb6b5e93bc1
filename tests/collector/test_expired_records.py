"""Records of crashed runs expire by age and by size; those of living runs do not."""

import json
import os
import subprocess
import sys
import time

from traceloop.collector.expired_records import expire
from traceloop.record.proc import process_start_ticks


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
    first, second, third = (make(tmp_path, f"big{n}", days=3 - n, size=10_000) for n in range(3))
    (tmp_path / "traceloop-0x-other").mkdir()
    (tmp_path / "somebody").mkdir()
    removed = expire(str(own), max_bytes=25_000)
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
import sys, traceloop.collector.expired_records as old_records
print(old_records.hold(sys.argv[1]) >= 0, flush=True)
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
