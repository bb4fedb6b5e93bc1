"""SIGKILL at random moments: what was counted is what has run, but for 20 ms.

The program notes down when each of its handles ends, in shared memory that outlives it. ``TRACELOOP_KILLS=200``.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.waiting import until
from traceloop.cli.runs import read

PLACES = 1 << 20
#: How long records wait in the program's memory at most, s (docs/design.md).
WAITING = 0.02
# Handles of all lengths, in iterations of all sizes, with pauses; each notes down its end before it returns.
PROGRAM = """
import asyncio, mmap, os, random, struct, sys, time
from traceloop.loop.event_loop import EventLoop

file = open(sys.argv[1], "r+b")
noted = mmap.mmap(file.fileno(), 0)
draw = random.Random(int(sys.argv[2])).random
store = struct.Struct("<d").pack_into
count = 0
LENGTHS = (0.0, 0.0, 0.0, 0.0001, 0.001, 0.004)

def step():
    global count
    end = time.monotonic() + LENGTHS[int(draw() * 6)] * (draw() < 0.3)
    while time.monotonic() < end:
        pass
    count += 1
    store(noted, 8 * count, time.monotonic())
    store(noted, 0, float(count))

def plan():
    global count
    for _ in range(int(draw() * draw() * 2000)):
        loop.call_soon(step)
    if draw() < 0.5:
        loop.call_soon(plan)
    else:
        loop.call_later(draw() * 0.05, plan)
    if count > len(noted) // 8 - 100_000:
        os._exit(3)
    count += 1
    store(noted, 8 * count, time.monotonic())
    store(noted, 0, float(count))

loop = EventLoop()
loop.call_soon(plan)
loop.run_forever()
"""


@pytest.fixture
def noted(tmp_path: Path) -> Iterator[tuple[Path, mmap.mmap]]:
    path = tmp_path / "noted"
    with path.open("w+b") as file:
        file.truncate(8 * PLACES)
        with mmap.mmap(file.fileno(), 0) as memory:
            yield path, memory


def kill_once(seed: int, folder: Path, noted: tuple[Path, mmap.mmap], core: str) -> tuple[int, int, float]:
    """How many handles ran and how many were counted, and for how long (s) those waited that were not.

    The last one does not count: what waits is written at its end, if that is late enough, and the kill came before.
    """
    path, memory = noted
    memory[:8] = bytes(8)
    folder.mkdir(mode=0o700)
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OTEL_PYTHON_TRACELOOP_RUN_DIR": str(folder),
        "OTEL_PYTHON_TRACELOOP_CORE": core,
        "OTEL_PYTHON_TRACELOOP_RING_SIZE": "256M",
    }
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(path), str(seed)], env=environ)
    after = random.Random(seed).randrange(1, 10_000)
    until(lambda: struct.unpack_from("<d", memory)[0] >= after or process.poll() is not None)
    time.sleep(random.Random(seed).random() * 0.02)  # not always when the program has just woken us
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    ran = int(struct.unpack_from("<d", memory)[0])
    ends = struct.unpack_from(f"<{ran + 1}d", memory)
    statistics, crashes, problems = read(str(folder))
    assert not problems and len(crashes) == 1
    counted = sum(
        int(sample.value) for sample in statistics.samples() if sample.name == "asyncio_callback_runs_total"
    )
    # The handle that was under way counts as one that ran; it may not have come to its note.
    missing = max(0, ran - counted)
    assert counted <= ran + 1
    return ran, counted, ends[ran - 1] - ends[ran - missing + 1] if missing > 1 else 0.0


def kill(count: int, folder: Path, noted: tuple[Path, mmap.mmap], core: str) -> None:
    lost, longest, total = 0, 0.0, 0
    for seed in range(count):
        ran, counted, seconds = kill_once(seed, folder / f"run{seed}", noted, core)
        total += ran
        lost += max(0, ran - counted)
        longest = max(longest, seconds)
        assert seconds <= WAITING, f"seed {seed}: {ran} ran, {counted} were counted, {seconds * 1e3:.1f} ms are lost"
    print(f"{count} kills, {total:,} handles, {lost:,} of them not counted, at most {longest * 1e3:.1f} ms of one run")


@pytest.mark.parametrize("core", ["python", "c"])
def test_a_kill_loses_no_more_than_20_ms(tmp_path: Path, noted: tuple[Path, mmap.mmap], core: str) -> None:
    kill(5, tmp_path, noted, core)


@pytest.mark.slow
@pytest.mark.parametrize("core", ["python", "c"])
def test_two_hundred_kills_lose_no_more_each(tmp_path: Path, noted: tuple[Path, mmap.mmap], core: str) -> None:
    kill(int(os.environ.get("TRACELOOP_KILLS", "200")), tmp_path, noted, core)
