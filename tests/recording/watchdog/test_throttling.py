"""How long a container's CPU limit holds the process: read by the watchdog, and what stalls say of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from traceloop.record.throttles import Held, throttled_during
from traceloop.recording.watchdog.throttling import Throttling, cpu_stat_paths, limited_group, parse_cpu_stat


def test_cpu_stat_of_both_versions():
    assert parse_cpu_stat("usage_usec 5\nnr_throttled 3\nthrottled_usec 1500000\n") == (3, 1.5)
    assert parse_cpu_stat("nr_periods 9\nnr_throttled 3\nthrottled_time 1500000000\n") == (3, 1.5)
    assert parse_cpu_stat("usage_usec 5\n") is None
    assert parse_cpu_stat("nr_throttled x\n") is None
    paths = list(cpu_stat_paths("4:cpu,cpuacct:/docker/a\n0::/b\n1:name=x:/../..\n"))
    assert "/sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.stat" in paths and "/sys/fs/cgroup/b/cpu.stat" in paths
    assert not any(".." in path for path in paths)


def test_what_advances_between_two_looks_is_written_once_a_second(tmp_path):
    (tmp_path / "own").write_text("0::/mine\n")
    (tmp_path / "mine").mkdir()
    stat = tmp_path / "mine" / "cpu.stat"
    stat.write_text("usage_usec 5\nnr_throttled 3\nthrottled_usec 1500000\n")
    assert limited_group(str(tmp_path), str(tmp_path / "own")) == str(stat)
    events = []
    throttling = Throttling(lambda event, now: events.append(event) or True)
    throttling._path = str(stat)
    throttling.poll(10.0)
    throttling.poll(10.05)  # too early for another look
    stat.write_text("usage_usec 5\nnr_throttled 4\nthrottled_usec 1560000\n")
    throttling.poll(10.1)
    stat.write_text("usage_usec 5\nnr_throttled 5\nthrottled_usec 1600000\n")
    throttling.poll(10.2)
    assert throttling.during(10.0, 10.1) == pytest.approx(0.06)
    assert [len(event["held"]) for event in events] == [1]
    throttling.poll(11.2)
    assert [held[2] for event in events for held in event["held"]] == [1, 1]
    stat.unlink()
    throttling.poll(12.0)  # the group is gone
    assert throttling._path == ""


def test_the_first_turn_that_finds_a_limit_looks_at_once(tmp_path, monkeypatch):
    """The next whole turn may come a second later (quiet_turns.py): until then there must be something to compare."""
    stat = tmp_path / "cpu.stat"
    stat.write_text("nr_throttled 3\nthrottled_usec 1500000\n")
    monkeypatch.setattr("traceloop.recording.watchdog.throttling.limited_group", lambda root: str(stat))
    throttling = Throttling(lambda event, now: True)
    assert throttling.known() == ("", 0)
    throttling.poll(10.0)
    assert throttling.known() == (str(stat), 3)
    stat.write_text("nr_throttled 4\nthrottled_usec 1560000\n")
    throttling.look(10.2)
    assert throttling.during(10.0, 10.2) == pytest.approx(0.06)


def test_what_may_not_be_written_now_is_written_later(tmp_path):
    stat = tmp_path / "cpu.stat"
    may, events = [False, True], []
    throttling = Throttling(lambda event, now: may.pop(0) and events.append(event["held"]) is None)
    throttling._path = str(stat)
    for number in range(3):
        stat.write_text(f"nr_throttled {number}\nthrottled_usec {number}00000\n")
        throttling.look(10.0 + number)
    assert [[held.periods for held in each] for each in events] == [[1, 1]]


def test_a_look_that_reaches_beyond_a_stall_counts_with_its_share():
    held = [Held(0.0, 1.0, 1, 0.5), Held(1.0, 2.0, 5, 4.0)]  # four processors were held in the second
    assert throttled_during(0.5, 1.5, held) == pytest.approx(0.25 + 0.5)
    assert throttled_during(5.0, 6.0, held) == 0.0


@pytest.mark.parametrize("held", [None, [[1]], [["x", 1, 1, 1]], [[2.0, 1.0, 1, 1.0]], [[1.0, 2.0, -1, 1.0]]])
def test_an_event_that_makes_no_sense_is_passed_over(held):
    from traceloop.reading.statistics.throttling import held_of

    assert held_of({"held": held}) == []


PROGRAM = """
import asyncio, os, sys, time
import traceloop

def compute():
    begin = time.process_time()
    while time.process_time() - begin < 0.1:
        pass

async def main():
    await asyncio.sleep(0.2)
    compute()

traceloop.install()
with traceloop.start(metrics=False, spans="off", record=sys.argv[2]):
    with open(sys.argv[1] + "/cgroup.procs", "w") as group:
        group.write(str(os.getpid()))
    asyncio.run(main())
    with open(os.path.dirname(sys.argv[1]) + "/cgroup.procs", "w") as group:
        group.write(str(os.getpid()))
"""


def _limited(name: str, quota_us: int) -> Path | None:
    """A control group with so many us of a processor in each 100 ms, where this machine lets us make one."""
    for root, limit, value in (
        ("/sys/fs/cgroup", "cpu.max", f"{quota_us} 100000"),
        ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", f"{quota_us}"),
    ):
        group = Path(root, name)
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / limit).exists():  # else it is an ordinary folder, or a group without this controller
                (group / limit).write_text(value)
                return group
        except OSError:
            pass
        group.rmdir()
    return None


@pytest.mark.slow
@pytest.mark.parametrize(("quota_us", "found"), [(2000, True), (400_000, False)], ids=["a fiftieth", "ample"])
def test_a_stall_under_a_real_limit_says_so(tmp_path, quota_us, found):
    group = _limited(f"traceloop-test-{os.getpid()}", quota_us)
    if group is None:
        pytest.skip("no control group with a limit can be made here")
    try:
        (tmp_path / "app.py").write_text(PROGRAM)
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        options = {"cwd": tmp_path, "env": environment, "check": True, "timeout": 300}
        subprocess.run([sys.executable, "app.py", str(group), str(tmp_path / "kept")], **options)
    finally:
        group.rmdir()
    (kept,) = (tmp_path / "kept").iterdir()
    command = [sys.executable, "-m", "traceloop", "report", "--json", str(kept)]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, **options).stdout)
    assert ("container-throttled" in [each["kind"] for each in report["verdict"]["findings"]]) is found
    stalls = [each for each in report["processes"][0]["stalls"] if each["culprit"] == "__main__.compute"]
    if found:
        (stall,) = stalls
        assert 0.5 < stall["throttled_seconds"] <= stall["seconds"]
    else:
        assert not any(each["throttled_seconds"] for each in stalls)
