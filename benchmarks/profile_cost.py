"""What `--profile` costs the program: CPU time of the sampling thread, and CPU time of the loop for the same work.

    python benchmarks/profile_cost.py [SECONDS]

Each rate runs in a process of its own, several times by turns: a loop that is busy all the time, in tasks that call
each other 20 frames deep, awaited by another task. Both are CPU times of a thread, since a busy machine changes others.
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

RATES = ("0", "10", "100", "1000")
ROUNDS = 3
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


async def main(seconds: float) -> None:
    done = 0
    began, cpu = time.thread_time(), time.process_time()
    while time.thread_time() - began < seconds:
        for _ in range(20):
            await asyncio.create_task(work())
        done += 20
    loop = time.thread_time() - began
    print(json.dumps({"loop": loop / done, "others": (time.process_time() - cpu - loop) / loop}))


def run(rate: str, seconds: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        environment = {**os.environ, "OTEL_PYTHON_TRACELOOP_PROFILE": rate, "OTEL_PYTHON_TRACELOOP_RUN_DIR": folder}
        command = [sys.executable, __file__, "--run", seconds]
        out: dict[str, float] = json.loads(subprocess.run(command, env=environment, capture_output=True).stdout)
        return out


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        from traceloop import EventLoop

        with asyncio.Runner(loop_factory=EventLoop) as runner:
            runner.run(main(float(sys.argv[2])))
    else:
        seconds = sys.argv[1] if sys.argv[1:] else "2"
        results: dict[str, list[dict[str, float]]] = {rate: [] for rate in RATES}
        for _ in range(ROUNDS):
            for rate in RATES:
                results[rate].append(run(rate, seconds))
        plain = statistics.median(each["loop"] for each in results["0"])
        for rate in RATES:
            others = statistics.median(each["others"] for each in results[rate])
            loop = statistics.median(each["loop"] for each in results[rate])
            print(f"{rate:>5} Hz: other threads {others:.2%} of the loop's CPU time; the loop's own {loop / plain:.3f}")
