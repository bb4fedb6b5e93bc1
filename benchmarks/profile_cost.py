"""What `--profile` costs the program: CPU time of the sampling thread, and CPU time of the loop for the same work.

    python benchmarks/profile_cost.py [PAIRS]

For each rate so many pairs of processes run (15 by default, two seconds each), one with and one without the profile, by
turns and in changing order: a loop that is busy all the time, in tasks that call each other 20 frames deep. What is
compared are CPU times of threads, pair by pair, since a busy machine changes others; the line has the pairs' median and
their middle half. Where the middle half of two runs without a profile (the first line) is wider than a difference, that
difference says nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RATES = ("0", "10", "100", "1000")
PAIRS = 15
#: Tasks of a process: as many in each, so that the same work is compared.
TASKS = 6000
DEPTH = 20


def deep(depth: int) -> int:
    if depth:
        return deep(depth - 1)
    total = 0
    for number in range(3000):
        total += number * number
    return total


async def work() -> int:
    return deep(DEPTH)


async def main() -> None:
    for _ in range(TASKS // 10):  # until caches are warm and the recording has what it needs
        await asyncio.create_task(work())
    began, cpu = time.thread_time(), time.process_time()
    for _ in range(TASKS):
        await asyncio.create_task(work())
    loop = time.thread_time() - began
    print(json.dumps({"loop": loop / TASKS, "others": (time.process_time() - cpu - loop) / loop}))


def run(rate: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        environment = {**os.environ, "OTEL_PYTHON_TRACELOOP_PROFILE": rate, "OTEL_PYTHON_TRACELOOP_RUN_DIR": folder}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, __file__, "--run"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        out: dict[str, float] = json.loads(done.stdout)
        return out


def compare(rate: str, pairs: int) -> str:
    ratios, others = [], []
    for number in range(pairs):
        plain = run("0") if number % 2 else None
        profiled = run(rate)
        plain = plain or run("0")
        ratios.append(profiled["loop"] / plain["loop"])
        others.append(profiled["others"] - plain["others"])
    low, middle, high = statistics.quantiles(ratios, n=4)
    return (
        f"{rate:>5} Hz: the sampling thread {statistics.median(others):+.2%} of the loop's CPU time; "
        f"the loop's own {middle - 1:+.2%} ({low - 1:+.2%} to {high - 1:+.2%})"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        from traceloop import EventLoop

        with asyncio.Runner(loop_factory=EventLoop) as runner:
            runner.run(main())
    else:
        for each in RATES:
            print(compare(each, int(sys.argv[1]) if sys.argv[1:] else PAIRS), flush=True)
