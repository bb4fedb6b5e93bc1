"""The watchdog's thread wants the GIL beside a busy loop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cores import CORES
from tests.helpers.differential import clean_environ
from tests.helpers.traced import Traced

SPIN = """
import asyncio, os, threading, time
SECONDS = 2.0

def switches(thread):
    with open(f"/proc/self/task/{thread}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))

async def spin(end):
    while time.thread_time() < end:
        await asyncio.sleep(0)

async def main():
    own = threading.get_native_id()
    await asyncio.sleep(0.5)
    others = [int(each) for each in os.listdir("/proc/self/task") if int(each) != own]
    before = [switches(each) for each in others]
    begun = time.monotonic()
    await asyncio.gather(*[spin(time.thread_time() + SECONDS) for _ in range(100)])
    seconds = time.monotonic() - begun
    print(len(others), *[(switches(each) - old) / seconds for each, old in zip(others, before)])

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux" or "c" not in CORES, reason="the C core alone does it")
def test_it_is_not_woken_by_each_poll(traced: Traced, tmp_path: Path) -> None:
    """It was, and mostly came too late, since the loop had the GIL again: 400 to 3,000 times a second."""
    program = tmp_path / "spin.py"
    program.write_text(SPIN)
    done = subprocess.run(
        [*traced.command, "--no-metrics", str(program)],
        cwd=tmp_path, env=clean_environ(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    threads, *a_second = done.stdout.split()
    assert threads == "1"
    # Ten turns, of which one is whole: 40.
    assert float(a_second[0]) < 200
