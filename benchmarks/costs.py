"""What is put off, not saved: the collector's CPU time, memory of both processes, start-up, exit, and a scrape."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
import urllib.request

from harness.measured import ROOT, Arm, Receiver, command_of, environ_of, reap_collector, run_program

_HANDLES = 200_000
_BYTES_MB = 1 << 20
_TRACED = ("traced-metrics", "traced-spans")

#: Tells when its first line ran, and when its loop was closed.
_EMPTY = """
import time
first = time.monotonic()
import asyncio
async def main(): pass
asyncio.run(main())
print(first, time.monotonic())
"""

#: 200 callbacks of different code, then idle until its stdin ends; prints the CPU time of the idle part.
_SERVICE = """
import asyncio, sys, time
source = "".join(f"def callback_{k}(): pass\\n" for k in range(200))
names = {}
exec(compile(source, "names.py", "exec"), names)
async def main():
    loop = asyncio.get_running_loop()
    for k in range(2000):
        loop.call_soon(names[f"callback_{k % 200}"])
    await asyncio.sleep(0.5)
    begun = time.process_time()
    ended = loop.create_future()
    loop.add_reader(0, ended.set_result, None)
    print("idle", flush=True)
    await ended
    print(time.process_time() - begun, flush=True)
asyncio.run(main())
"""


def print_costs(options: argparse.Namespace, arms: dict[str, Arm], receiver: Receiver) -> None:
    """Runs and prints it all; medians of ``options.rounds``."""
    print("\n| what | " + " | ".join(_TRACED) + " |\n|---|---|---|")
    _print_collector(options, arms, receiver)
    _print_start_and_exit(options, arms, receiver)
    _print_scrape(options, arms, receiver)


def _median(values: list[float]) -> float:
    return statistics.median(values)


def _print_collector(options: argparse.Namespace, arms: dict[str, Arm], receiver: Receiver) -> None:
    handle_us, collector_mb, added_mb = [], [], []
    standard = _median(
        [
            run_program(options.python, arms["standard"], "call_soon_100", _HANDLES, receiver).peak_bytes
            for _ in range(options.rounds)
        ]
    )
    for name in _TRACED:
        cpu, memory, peak = [], [], []
        for _ in range(options.rounds):
            idle = run_program(options.python, arms[name], "call_soon_100", 100, receiver)
            busy = run_program(options.python, arms[name], "call_soon_100", _HANDLES, receiver)
            spent = busy.collector_cpu_seconds - idle.collector_cpu_seconds
            cpu.append(spent / (busy.handles - idle.handles) * 1e6)
            memory.append(busy.collector_peak_bytes / _BYTES_MB)
            peak.append((busy.peak_bytes - standard) / _BYTES_MB)
        handle_us.append(f"{_median(cpu):.2f} us")
        collector_mb.append(f"{_median(memory):.0f} MB")
        added_mb.append(f"{_median(peak):.1f} MB")
    print(f"| collector, CPU a handle | {' | '.join(handle_us)} |", flush=True)
    print(f"| collector, peak memory | {' | '.join(collector_mb)} |")
    print(f"| loop's process, peak memory more | {' | '.join(added_mb)} |", flush=True)


def _print_start_and_exit(options: argparse.Namespace, arms: dict[str, Arm], receiver: Receiver) -> None:
    started: dict[str, list[float]] = {}
    ended: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name in ("standard", *_TRACED):
            begun = time.monotonic()
            command = command_of(options.python, arms[name], receiver, ["-c", _EMPTY])
            out = subprocess.run(
                command, capture_output=True, text=True, check=True, env=environ_of(receiver), cwd=ROOT
            )
            end = time.monotonic()
            first, last = map(float, out.stdout.split())
            started.setdefault(name, []).append((first - begun) * 1e3)
            ended.setdefault(name, []).append((end - last) * 1e3)
            if arms[name].options is not None:
                reap_collector()
    for what, times in (("start to the program's first line", started), ("end of the loop to exit", ended)):
        standard = _median(times["standard"])
        cells = " | ".join(f"{_median(times[name]):.0f} ms" for name in _TRACED)
        print(f"| {what} (without: {standard:.0f} ms) | {cells} |", flush=True)


def _print_scrape(options: argparse.Namespace, arms: dict[str, Arm], receiver: Receiver) -> None:
    wall, sizes, services = [], [], []
    for name in _TRACED:
        command = command_of(options.python, arms[name], receiver, ["-c", _SERVICE])
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environ_of(receiver), cwd=ROOT,
        ) as process:  # fmt: skip
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None
            url = process.stderr.readline().split()[-1]
            process.stdout.readline()
            times = []
            for _ in range(20):
                begun = time.monotonic()
                with urllib.request.urlopen(url) as answer:
                    size = len(answer.read())
                times.append((time.monotonic() - begun) * 1e3)
            process.stdin.close()
            services.append(f"{float(process.stdout.readline()) * 1e3 / 20:.2f} ms")
            process.wait()
        reap_collector()
        wall.append(f"{_median(times):.1f} ms")
        sizes.append(f"{size / 1024:.0f} KiB")
    print(f"| a scrape of 200 callbacks, wall time | {' | '.join(wall)} |")
    print(f"| its size | {' | '.join(sizes)} |")
    print(f"| the service's CPU meanwhile | {' | '.join(services)} |")
