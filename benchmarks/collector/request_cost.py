"""What following requests costs a request of an empty FastAPI service, in the program and in the collector.

    python benchmarks/collector/request_cost.py [--requests 10000] [--rounds 3]

50 connections keep a uvicorn server busy, whose endpoint does nothing. The arms take turns: the standard loop alone,
and traced without and with requests. Shown are the CPU time of the server's process, and of reading the record that it
left as the collector does, metrics only, in the medians of all rounds; last, both together as a share of what the
request costs on the standard loop.
"""

from __future__ import annotations

import argparse
import gc
import glob
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from harness.interpreter import ROOT, hooked
from traceloop.reading.follower import RunFollower
from traceloop.reading.new_statistics import new_statistics

LOAD = os.path.join(ROOT, "benchmarks", "workloads", "load.py")
APP = """
import sys
import fastapi, uvicorn
app = fastapi.FastAPI()

@app.get("/")
async def empty():
    return {}

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error", loop="asyncio")
"""
ARMS: dict[str, tuple[str, ...] | None] = {"standard": None, "no-requests": ("--no-requests",), "requests": ()}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/schedstat") as file:  # of the main thread, in ns: the loop's
        return int(file.read().split()[0]) / 1e9


def serve(python: str, arm: str, folder: str, requests: int) -> float:
    """Runs one server under load; returns microseconds of CPU a request. Its record stays in ``folder``."""
    port = free_port()
    command = [python, os.path.join(folder, "app.py"), str(port)]
    options = ARMS[arm]
    if options is not None:
        record = ["--metrics-port", "0", "--ring-size", "64M", "--record", os.path.join(folder, arm)]
        command[1:1] = ["-m", "traceloop", "run", *record, *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if server.poll() is not None:
                    raise RuntimeError(f"{arm}: the server ended with status {server.returncode}") from None
                time.sleep(0.1)
        for count in (500, requests):
            begun = cpu_seconds(server.pid)
            subprocess.run(
                [sys.executable, LOAD, "http", str(port), str(count)], input=b"go\n", check=True, capture_output=True
            )
        return (cpu_seconds(server.pid) - begun) / requests * 1e6
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def read(folder: str, requests: bool) -> float:
    """CPU seconds of reading the record."""
    (path,) = glob.glob(os.path.join(folder, "traceloop-*"))
    gc.collect()
    follower = RunFollower(path, new_statistics(requests=requests))
    begun = time.process_time()
    for _ in follower.chunks(last=True):
        pass
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    program: dict[str, list[float]] = {arm: [] for arm in ARMS}
    collector: dict[str, list[float]] = {"no-requests": [], "requests": []}
    gc.set_threshold(200_000, 50, 100)
    with hooked(options.python) as python:
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:
                with open(os.path.join(folder, "app.py"), "w") as file:
                    file.write(APP)
                for arm, costs in program.items():
                    costs.append(serve(python, arm, folder, options.requests))
                for _ in range(3):  # of one record: the ledger alone makes the difference
                    for arm, costs in collector.items():
                        record = os.path.join(folder, "requests")
                        costs.append(read(record, arm == "requests") / (options.requests + 500) * 1e6)
    medians = {arm: statistics.median(costs) for arm, costs in program.items()}
    least = {arm: min(costs) for arm, costs in collector.items()}
    for arm, cost in medians.items():
        print(f"{arm:12} {cost:7.1f} us a request in the program (least {min(program[arm]):.1f})")
    for arm, cost in least.items():
        print(f"{arm:12} {cost:7.1f} us a request in the collector (median {statistics.median(collector[arm]):.1f})")
    read_us = least["requests"] - least["no-requests"]
    print(f"the ledger: {read_us:.1f} us a request in the collector, {read_us / medians['standard'] * 100:.1f} % of it")


if __name__ == "__main__":
    main()
