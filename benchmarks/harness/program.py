"""The measured process: ``program.py LOOP WORKLOAD N``.

It prints a line when it is ready. For "fill" on stdin it runs so many handles that a recorder has used all of its ring
once, and says so; for each other line it runs the workload once and prints what that took as a line of JSON. When stdin
ends, it prints what memory it has and ends. CPU time is that of this process with all its threads, of the workload
alone: neither start-up nor exit.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

# It runs by its path: the folders beside its own are found like this.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from harness import stopwatch
from harness.loops import LOOPS
from workloads import network_workloads, scheduling_workloads

SETTLE_SECONDS = 0.5
#: A traced program's collector reads on after a slice, while the next program is measured.
CATCH_UP_SECONDS = 0.05
#: More than a ring of the usual size holds. Until it was full once, it grows, a page of memory for each 170 handles.
RING_HANDLES = 400_000


def resident_bytes(field: str) -> int:
    """``VmRSS`` or, for the peak since the process began, ``VmHWM``; 0 where there is no /proc."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith(field):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def main() -> None:
    loop_name, workload_name, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    workloads = {workload.__name__: workload for workload in scheduling_workloads.WORKLOADS}
    workloads.update({workload.__name__: workload for workload in network_workloads.WORKLOADS})
    workload = workloads[workload_name]

    async def measured() -> None:
        # A traced program's collector is still starting, which takes a processor's second hardware thread from us.
        await asyncio.sleep(SETTLE_SECONDS)
        print("ready", flush=True)
        while line := await network_workloads.read_line(sys.stdin.fileno()):
            if line.strip() == b"fill":
                await scheduling_workloads.call_soon_100(RING_HANDLES)
                print("filled", flush=True)
                continue
            stopwatch.result.clear()
            stopwatch.start()
            operations = await workload(n)
            stopwatch.stop()
            await asyncio.sleep(CATCH_UP_SECONDS)
            print(json.dumps(stopwatch.result | {"operations": operations}), flush=True)

    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        runner.run(measured())
    memory = {"peak_bytes": resident_bytes("VmHWM"), "resident_bytes": resident_bytes("VmRSS")}
    print(json.dumps(memory), flush=True)


if __name__ == "__main__":
    main()
