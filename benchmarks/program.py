"""The measured process: ``program.py LOOP WORKLOAD N`` runs one workload and prints what it took as a line of JSON.

CPU time is that of this process with all its threads, of the workload alone: neither start-up nor exit.
"""

from __future__ import annotations

import asyncio
import json
import sys

import network_workloads
import scheduling_workloads
import stopwatch
from loops import LOOPS

SETTLE_SECONDS = 0.5


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
        stopwatch.start()
        operations = await workload(n)
        stopwatch.stop()
        stopwatch.result["operations"] = operations

    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        runner.run(measured())
    memory = {"peak_bytes": resident_bytes("VmHWM"), "resident_bytes": resident_bytes("VmRSS")}
    print(json.dumps(stopwatch.result | memory), flush=True)


if __name__ == "__main__":
    main()
