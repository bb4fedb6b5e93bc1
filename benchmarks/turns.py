"""What the loop itself costs, on a machine that does other things too: the loops take turns in one process.

    python benchmarks/turns.py                      every scheduling workload
    python benchmarks/turns.py spawn futures --turns 400

A turn is a millisecond or two of the workload; the mean of the quickest twentieth of all turns counts. Nothing of a
run is there: no collector reads, records go to private memory, and a watchdog looks at all loops. So this compares
the hot path with the standard loop's; what a whole run costs, run.py measures. CPU time of all threads.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from traceloop.core.choose import core
from traceloop.loop.event_loop import EventLoop, PythonEventLoop
from workloads import scheduling_workloads as workloads

#: Workload -> operations of a turn.
TURNS = {
    workloads.call_soon_1: 600,
    workloads.call_soon_100: 1500,
    workloads.sleep0: 1200,
    workloads.sleep0_1: 1000,
    workloads.futures: 600,
    workloads.queues: 400,
    workloads.spawn: 400,
    workloads.wait_for: 100,
    workloads.timers_1k: 2000,
    workloads.executor: 100,
}


def lowest(values: list[float]) -> float:
    """The mean of the quickest twentieth."""
    return statistics.mean(sorted(values)[: max(1, len(values) // 20)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*")
    parser.add_argument("--turns", type=int, default=200)
    options = parser.parse_args()
    loops: dict[str, asyncio.AbstractEventLoop] = {
        "standard": asyncio.SelectorEventLoop(),
        core().name: EventLoop(),
    }
    if core().name != "python":
        loops["python"] = PythonEventLoop()
    # It records nothing. rloop, which closes descriptors twice, may take those of the others: it has an arm in run.py.
    with contextlib.suppress(ImportError):
        loops["uvloop"] = importlib.import_module("uvloop").new_event_loop()
    others = [name for name in loops if name != "standard"]
    print(f"Python {sys.version.split()[0]}, {options.turns} turns; c, python: this loop's cores, recording\n")
    print("| workload | standard | " + " | ".join(others) + " |")
    print("|---|" + "---|" * len(loops))
    for workload, operations in TURNS.items():
        if options.workloads and workload.__name__ not in options.workloads:
            continue
        taken: dict[str, list[float]] = {name: [] for name in loops}

        async def turn(workload=workload, operations=operations) -> float:
            begun = time.process_time()
            done = await workload(operations)
            return (time.process_time() - begun) / done

        for _ in range(options.turns):
            for name, loop in loops.items():
                taken[name].append(loop.run_until_complete(turn()))
        base = lowest(taken["standard"])
        cells = " | ".join(f"{lowest(taken[name]) / base:.2f}" for name in others)
        print(f"| {workload.__name__} | {base * 1e6:.2f} us | {cells} |", flush=True)
    for loop in loops.values():
        loop.close()


if __name__ == "__main__":
    main()
