"""A container's shared memory and memory limit belong to the program: it is never ended for our rings."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

SMALL = "mount -t tmpfs -o size=64m tmpfs /dev/shm && exec \"$@\""


def can_mount() -> bool:
    try:
        done = subprocess.run(["unshare", "-m", "sh", "-c", SMALL, "sh", "true"], capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="needs root and mount(2) for a small /dev/shm of its own")

# Workers that each fill a ring, and the program's own shared memory: before, between and after them.
WORKERS = """
import asyncio, os, signal, sys
from multiprocessing.shared_memory import SharedMemory

workers, restarts, handles = map(int, sys.argv[1:])
own = SharedMemory(create=True, size=12 << 20)
own.buf[:] = bytes(own.size)
ready, write = os.pipe()

async def serve():
    loop = asyncio.get_running_loop()
    for _ in range(handles // 500):
        for _ in range(500):
            loop.call_soon(int)
        await asyncio.sleep(0)
    os.write(write, b"x")
    await asyncio.Event().wait()

def start():
    pid = os.fork()
    if pid == 0:
        asyncio.run(serve())
    return pid

def wait_ready():
    assert os.read(ready, 1) == b"x"

pids = [start() for _ in range(workers)]
for _ in pids:
    wait_ready()
for _ in range(restarts):
    pid = pids.pop(0)
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    pids.append(start())
    wait_ready()
status = os.statvfs("/dev/shm")
free = status.f_bavail * status.f_frsize
more = SharedMemory(create=True, size=free - (1 << 20))  # nearly all that is left
more.buf[:] = bytes(more.size)
for shared in (more, own):
    shared.close()
    shared.unlink()
for pid in pids:
    os.kill(pid, signal.SIGKILL)
print("ended by", {os.waitpid(pid, 0)[1] for pid in pids}, "free", free >> 20)
"""


def run_workers(traced, folder: Path, workers: int, restarts: int, handles: int) -> int:
    """Returns the MiB that were free while all lived."""
    program = folder / "workers.py"
    program.write_text(textwrap.dedent(WORKERS))
    words = [*traced.command, str(program), str(workers), str(restarts), str(handles)]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", SMALL, "sh", *words], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    text, _, free = done.stdout.partition(" free ")
    assert text == "ended by {9}", done.stderr
    return int(free)


@needs_mount
def test_workers_in_a_small_shared_memory_leave_half_of_it_to_the_program(traced, tmp_path):
    # 52 MiB beside the program's own 12, of which the workers' rings want 8 MiB each.
    assert run_workers(traced, tmp_path, workers=8, restarts=0, handles=100_000) >= 26


@needs_mount
@pytest.mark.slow
def test_twenty_workers_restarted_fifty_times_in_a_small_shared_memory(traced, tmp_path):
    # Killed workers leave their records, which a collector keeps.
    assert run_workers(traced, tmp_path, workers=20, restarts=50, handles=30_000) >= 24


# -- a memory limit


@pytest.fixture
def limited() -> Iterator[list[str]]:
    """The beginning of a command that runs in a control group which may take 256 MiB."""
    limit = str(256 << 20)
    group = _make_group(limit)
    if group is None:
        pytest.skip("no control group can be made here")
    yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    for pid in (group / "cgroup.procs").read_text().split():  # a collector that lives a moment longer
        subprocess.run(["tail", f"--pid={pid}", "-f", "/dev/null"], timeout=120, check=True)
    group.rmdir()


def _make_group(limit: str) -> Path | None:
    name = f"traceloop-test-{os.getpid()}"
    for root, file in (
        (Path("/sys/fs/cgroup"), "memory.max"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    ):
        group = root / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / file).exists():  # else this is no mount of that controller
                (group / file).write_text(limit)
                return group
        except OSError:
            pass
        group.rmdir()
    return None


LOOPS = """
import asyncio, sys, threading

count = int(sys.argv[1])
barrier = threading.Barrier(count)
done = []

async def main():
    await asyncio.to_thread(barrier.wait)  # all of them run at the same time
    loop = asyncio.get_running_loop()
    for _ in range(4000 // 40):
        for _ in range(40):
            loop.call_soon(int)
        await asyncio.sleep(0)
    done.append(1)

threading.stack_size(256 << 10)
threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(count)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
blocks = 0
import os
for folder, _, names in os.walk(os.environ["OTEL_PYTHON_TRACELOOP_RUN_DIR"]):
    blocks += sum(os.stat(os.path.join(folder, name)).st_blocks for name in names)
print(len(done), "loops", blocks * 512 >> 20, "MiB")
"""


@pytest.mark.parametrize("count", [100, pytest.param(300, marks=pytest.mark.slow)])
def test_loops_in_threads_keep_within_the_memory_limit_of_their_container(traced, tmp_path, limited, count):
    program = tmp_path / "loops.py"
    program.write_text(textwrap.dedent(LOOPS))
    done = subprocess.run(
        [*limited, *traced.command, "--slow-threshold", "5", str(program), str(count)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    loops, _, mib, _ = done.stdout.split()
    assert int(loops) == count
    assert int(mib) <= 32, "an eighth of the limit"


def test_two_hundred_small_loops_take_a_hundred_kilobytes_each(traced, tmp_path):
    program = tmp_path / "loops.py"
    program.write_text(textwrap.dedent(LOOPS).replace("4000", "40"))
    done = subprocess.run(
        [*traced.command, "--slow-threshold", "5", str(program), "200"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    loops, _, mib, _ = done.stdout.split()
    assert int(loops) == 200
    assert int(mib) <= 20


# -- a limited address space

SHORT = """
import asyncio, os, resource, time

def room(mib):
    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (mib << 20), resource.RLIM_INFINITY))
    return used

async def main():
    for _ in range(100):
        await asyncio.sleep(0)

asyncio.run(main())  # everything is imported by now
while len(os.listdir("/proc/self/task")) > 1:  # that of the loop which is gone may take its time to end
    time.sleep(0.01)
used = room(20)
loops = [asyncio.new_event_loop() for _ in range(3)]
for loop in loops:  # open together: no ring is free for the next one
    loop.run_until_complete(main())
more = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE") - used
for loop in loops:
    loop.close()
print("done", more >> 20, "MiB", len(os.listdir("/proc/self/task")), "threads")
"""


@pytest.mark.parametrize("core", ["python", "c"])
def test_the_last_of_a_limited_address_space_stays_the_program_s(traced, tmp_path, core):
    """Rings and the watchdog's thread took it; small allocations failed then, which CPython itself did not survive."""
    program = tmp_path / "short.py"
    program.write_text(textwrap.dedent(SHORT))
    done = subprocess.run(
        [*traced.command, "--no-metrics", str(program)], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "OTEL_PYTHON_TRACELOOP_CORE": core},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    words = done.stdout.split()
    assert words[0] == "done" and int(words[1]) <= 4 and words[3] == "1", done.stdout


# -- no inode left

NO_INODES = """
import asyncio, os, sys

held = []
try:
    while True:
        held.append(os.open(f"/dev/shm/own-{len(held)}", os.O_CREAT | os.O_RDWR))
except OSError:
    pass
pids = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        asyncio.run(asyncio.sleep(0.01))
        os._exit(0)
    pids.append(pid)
print([os.waitpid(pid, 0)[1] for pid in pids])
for number in range(len(held)):
    os.unlink(f"/dev/shm/own-{number}")
"""


@needs_mount
def test_where_no_inode_is_left_the_workers_run_on_and_one_line_says_so(traced, tmp_path):
    program = tmp_path / "inodes.py"
    program.write_text(textwrap.dedent(NO_INODES))
    mount = "mount -t tmpfs -o size=64m,nr_inodes=60 tmpfs /dev/shm && exec \"$@\""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", *traced.command, str(program)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )
    assert done.stdout == "[0, 0, 0, 0]\n" and done.returncode == 0, done.stderr
    assert done.stderr.count("No space left on device") == 1, done.stderr


FILLED = """
import asyncio

async def main():
    await asyncio.sleep(0)
    with open("/dev/shm/filler", "wb", 0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    print("full")

asyncio.run(main())
"""


@needs_mount
@pytest.mark.parametrize("options", [[], ["--report"]])
def test_a_run_is_summed_up_where_the_program_has_filled_the_shared_memory(tmp_path: Path, options: list[str]) -> None:
    program = tmp_path / "filled.py"
    program.write_text(FILLED)
    command = [sys.executable, "-m", "traceloop", "run", "--no-metrics", "--exit-timeout", "60", *options]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", SMALL, "sh", *command, str(program)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "full\n"), done.stderr
    assert done.stderr.count("traceloop: 1 loop, ") == 1
    assert ("Process 0" in done.stderr) == bool(options)
