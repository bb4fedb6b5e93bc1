"""A record with a bit of everything, and `traceloop export` on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.observed import environment, program
from tests.helpers.paths import ROOT

PROGRAM = """
def spin(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass

def offloaded():
    return threading.get_ident()

async def child(n):
    await asyncio.sleep(0.001)
    return await asyncio.to_thread(offloaded)

async def slow_one():
    spin(0.25)

async def main():
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.call_later(0.01, loop.call_soon, done.set)
    await done.wait()
    async with asyncio.TaskGroup() as group:
        for n in range(4):
            group.create_task(child(n), name=f"child-{n}")
    await asyncio.create_task(slow_one(), name="the <slow> one")
    # What some readers of JSON stumble over: a pair of surrogates, a backslash before the quote.
    await asyncio.create_task(asyncio.sleep(0), name="\\N{SNAIL} of A:" + chr(92))
    gc.collect()
    waiting = [loop.call_later(600, print) for _ in range(3)]
    # The watchdog counts them once a second.
    counted = sampler_of(current_process())._loops[-1]
    while counted.timers < 3:
        await asyncio.sleep(0.02)
    for timer in waiting:
        timer.cancel()

from traceloop.recording.heaps.sampler import sampler_of
from traceloop.recording.process import current_process
run(main())
"""


def record(folder: Path, text: str = PROGRAM, **more: str) -> Path:
    """The record of a program that has run to its end; ``more``: of its environment."""
    run_dir = folder / "record"
    run_dir.mkdir(parents=True)
    environ = environment(run_dir, OTEL_PYTHON_TRACELOOP_PROFILE="100", **more)
    subprocess.run([sys.executable, program(folder, text)], env=environ, check=True, capture_output=True, timeout=120)
    return run_dir


def traceloop(*words: object, **more: object) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "traceloop", *map(str, words)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, **more)  # type: ignore
