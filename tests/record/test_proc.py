"""What the kernel says of processes: who lives, and what is said where it cannot be asked."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.waiting import PATIENCE, until
from traceloop.record import proc

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")


def test_this_process():
    stat = proc.stat_of(os.getpid())
    assert stat is not None and stat.state in "RS" and stat.resident_bytes > 1 << 20
    assert stat.start_ticks == proc.process_start_ticks() == proc.process_start_ticks(os.getpid()) > 0
    thread = proc.stat_of(os.getpid(), threading.get_native_id())
    assert thread is not None and thread.state == "R"
    usage = proc.process_usage(os.getpid())
    assert usage is not None and usage.open_fds > 2 and usage.cpu_s > 0
    assert proc.is_alive(os.getpid()) and proc.is_alive(os.getpid(), stat.start_ticks)
    assert not proc.is_alive(os.getpid(), stat.start_ticks + 1)
    assert proc.signal_masks()["SigCgt"] >> (signal.SIGINT - 1) & 1


def test_a_zombie_and_a_reaped_process_are_not_alive():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        start = proc.process_start_ticks(child.pid)
        assert proc.is_alive(child.pid, start) and not proc.stat_of(child.pid).is_exiting
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        stat = proc.stat_of(child.pid)
        assert stat.state == "Z" and stat.is_exiting and not proc.is_alive(child.pid, start)
    finally:
        child.kill()
        child.communicate()
    assert proc.stat_of(child.pid) is None and not proc.is_alive(child.pid, start)
    assert proc.process_usage(child.pid) is None and proc.process_start_ticks(child.pid) == 0
    assert proc.signal_masks(child.pid) == {} and proc.schedule_of(child.pid, child.pid).slices == -1
    assert proc.voluntary_switches_of(child.pid, child.pid) == -1


def test_a_thread_that_waits_leaves_its_processor():
    own = threading.get_native_id()
    before = proc.voluntary_switches_of(own)
    nobody = threading.Lock()
    nobody.acquire()
    for _ in range(3):
        assert not nobody.acquire(timeout=0.001)
    assert proc.voluntary_switches_of(own, os.getpid()) >= before + 3 > 2


@pytest.mark.parametrize("pid", [0, -1, 1 << 40])
def test_a_number_that_is_no_pid_is_not_alive(pid):
    assert not proc.is_alive(pid)


def test_a_process_is_alive_when_no_descriptor_is_left_to_look():
    """EMFILE says nothing of the process that was asked for."""
    program = f"""
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
from traceloop.record import proc
import errno
try:
    while True:
        os.open("/dev/null", os.O_RDONLY)
except OSError as error:
    assert error.errno == {errno.EMFILE}
assert proc.stat_of({os.getpid()}) is None
print(proc.is_alive({os.getpid()}), proc.is_alive({os.getpid()}, 123), proc.is_alive(1 << 22))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "False"], done.stderr


def _freezer() -> Path | None:
    """Where a group can be made that freezes its processes; None where that is not ours to do."""
    for place in (Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup")):
        group = place / f"traceloop-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        if any((group / name).exists() for name in ("freezer.state", "cgroup.freeze")):
            return group
        group.rmdir()
    return None


def test_a_process_that_is_frozen_with_its_control_group_is_stopped() -> None:
    """It looks like one that sleeps; its time was counted as active and, when it went on, as idle."""
    group = _freezer()
    if group is None:
        pytest.skip("no control group can be made here")
    process = subprocess.Popen(["sleep", "600"])
    v1 = (group / "freezer.state").exists()
    control, freeze, thaw = ("freezer.state", "FROZEN", "THAWED") if v1 else ("cgroup.freeze", "1", "0")
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        assert not proc.is_stopped(process.pid)
        (group / control).write_text(freeze)
        until(lambda: proc.is_stopped(process.pid))
        (group / control).write_text(thaw)
        until(lambda: not proc.is_stopped(process.pid))
        process.send_signal(signal.SIGSTOP)
        until(lambda: proc.is_stopped(process.pid))
    finally:
        (group / control).write_text(thaw)
        process.kill()
        process.wait()
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


# Where the second version of the control groups is mounted alone, beside an unmounted freezer of the first.
SECOND_VERSION = """
import os, pathlib, subprocess, sys
from tests.helpers.waiting import until
from traceloop.record import proc
group = pathlib.Path(f"/sys/fs/cgroup/traceloop-test-{os.getpid()}")
group.mkdir()
process = subprocess.Popen(["sleep", "600"])
try:
    (group / "cgroup.procs").write_text(str(process.pid))
    assert not proc.is_stopped(process.pid)
    (group / "cgroup.freeze").write_text("1")
    until(lambda: proc.is_stopped(process.pid))
    (group / "cgroup.freeze").write_text("0")
    until(lambda: not proc.is_stopped(process.pid))
finally:
    process.kill()
    process.wait()
    until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()
print("stopped")
"""


def test_a_process_that_is_frozen_in_the_second_version_of_control_groups_is_stopped() -> None:
    mount = "mount -t cgroup2 none /sys/fs/cgroup && test -e /sys/fs/cgroup/cgroup.procs"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "sh", "-c", mount]).returncode:
        pytest.skip("control groups cannot be mounted here")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount + ' && exec "$@"', "sh", sys.executable, "-c", SECOND_VERSION],
        cwd=ROOT, capture_output=True, text=True, timeout=4 * PATIENCE,
    )  # fmt: skip
    assert done.stdout == "stopped\n", done.stderr
