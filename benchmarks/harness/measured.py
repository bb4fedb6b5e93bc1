"""Starts the measured process, with its collector where it is traced, and says what both took."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

from . import checked

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.path.join(ROOT, "benchmarks", "harness", "program.py")
_PR_SET_CHILD_SUBREAPER = 36
#: A collector that took no more than so much of a processor for so long (s) has read all: it polls once a second.
_QUIET_SHARE = 0.02
_QUIET_SECONDS = 1.2
#: What it takes while nothing happens is measured for so long.
_IDLE_SECONDS = 3.0
#: The collector, and who supervises it.
_COLLECTOR_PROCESSES = 2


@dataclasses.dataclass(frozen=True)
class Arm:
    """What is compared. ``loop``: of loops.py. ``options``: of ``traceloop run``, None where it is not used.

    ``scale``: of the number of operations, smaller for what is many times slower.
    """

    name: str
    loop: str
    options: tuple[str, ...] | None = None
    scale: float = 1.0


@dataclasses.dataclass
class Measured:
    """One process's workload. ``cpu_us``: an operation, slice by slice. ``collector_us``: one of its collector,
    less what that takes while nothing happens. ``collector_cpu_seconds``: its whole life, as its parent is told.

    ``lost``: handle runs that the collector did not see; ``handles``: those that it did. ``problems``: what could
    not be had from the record (checked.py).
    """

    cpu_us: list[float]
    operations: int
    peak_bytes: int
    resident_bytes: int
    handles: int = 0
    lost: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)
    collector_us: float = 0.0
    collector_cpu_seconds: float = 0.0
    collector_peak_bytes: int = 0


class Receiver:
    """A null OTLP receiver in a process of its own; ``url`` is where it listens."""

    def __enter__(self) -> Receiver:
        path = os.path.join(ROOT, "benchmarks", "collector", "null_receiver.py")
        self._process = subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{self._process.stdout.readline().strip()}"
        return self

    def __exit__(self, *args: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def become_subreaper() -> bool:
    """Collectors, whose parents have ended, become children of this process: so their CPU time can be had (Linux)."""
    try:
        return ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    except (OSError, AttributeError):
        return False


def collectors_of(pid: int) -> list[int]:
    """The processes of the collector that reads what the process ``pid`` and its children record (Linux)."""
    out = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            words = file.read().split(b"\0")
            if any(b"traceloop.collector" in word for word in words) and str(pid).encode() in words:
                out.append(int(path.split("/")[2]))
    return out


def command_of(python: str, arm: Arm, receiver: Receiver, arguments: list[str]) -> list[str]:
    """The command line by which ``arm`` runs ``python ARGUMENTS``."""
    if arm.options is None:
        return [python, *arguments]
    options = [receiver.url if option == "RECEIVER" else option for option in arm.options]
    return [python, "-m", "traceloop", "run", "--metrics-port", "0", "--exit-timeout", "60", *options, *arguments]


def environ_of(receiver: Receiver) -> dict[str, str]:
    """The environment of measured processes: the checkout can be imported, no telemetry is asked for but by options."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return environ | {"PYTHONPATH": ROOT, "PYTHONHASHSEED": "0", "BENCHMARK_RECEIVER": receiver.url}


class Program:
    """A measured process, which runs a slice of its workload whenever it is told to; a context manager.

    Where it is traced, its record is kept until the context ends, and checked at its own end. RuntimeError where it
    fails.
    """

    def __init__(self, python: str, arm: Arm, workload: str, n: int, receiver: Receiver) -> None:
        self.arm = arm
        self._workload = workload
        # Whether its collector is to be waited for.
        self._reaping = arm.options is not None and become_subreaper()
        self._folder = ""
        if arm.options is not None:
            # In memory, as the record of `traceloop run` is by itself.
            self._folder = tempfile.mkdtemp(prefix="benchmark-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
            arm = dataclasses.replace(arm, options=(*arm.options, "--record", self._folder))
        self._process = subprocess.Popen(
            command_of(python, arm, receiver, [PROGRAM, arm.loop, workload, str(n)]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environ_of(receiver), cwd=ROOT,
        )  # fmt: skip
        self._cpu_us: list[float] = []
        self._collectors: list[int] = []
        self._collector_us = 0.0
        self._operations = 0

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *args: object) -> None:
        self._process.kill()
        self._process.communicate()
        if self._folder:
            if self._reaping:  # it failed: its collector still has the folder
                with contextlib.suppress(RuntimeError):
                    reap_collector()
            shutil.rmtree(self._folder, ignore_errors=True)

    def ready(self) -> None:
        """Waits until it has started, and its collector."""
        self._read()
        if self._reaping:
            deadline = time.monotonic() + 60
            while len(self._collectors) < _COLLECTOR_PROCESSES and time.monotonic() < deadline:
                time.sleep(0.02)
                self._collectors = collectors_of(self._process.pid)
            self._wait_for_collector()

    def fill_ring(self) -> None:
        """Runs handles until its ring has been full once, as that of a service that has run for a while."""
        self._tell("fill")

    def _tell(self, what: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._read()

    def _collector_cpu(self) -> float:
        # Linux: the clock of another process has its pid in its number.
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in self._collectors)

    def run(self) -> None:
        """One slice."""
        data = self._slice()
        self._cpu_us.append(data["cpu_seconds"] / data["operations"] * 1e6)

    def _slice(self) -> dict[str, float]:
        data: dict[str, float] = json.loads(self._tell("go"))
        self._operations += int(data["operations"])
        return data

    def measure_collector(self, slices: int) -> None:
        """What its collector takes for an operation, while so many slices follow one another: it has work to do for
        each second, too, which is shared by all that happens in it.
        """
        if not self._collectors:
            return
        self._wait_for_collector()
        idle = self._share_for(_IDLE_SECONDS)
        begun, cpu = time.monotonic(), self._collector_cpu()
        operations = sum(self._slice()["operations"] for _ in range(slices))
        self._wait_for_collector()
        spent = self._collector_cpu() - cpu - idle * (time.monotonic() - begun)
        self._collector_us = max(0.0, spent) / operations * 1e6

    def _share_for(self, seconds: float) -> float:
        # What its collector takes meanwhile, of a processor.
        begun, cpu = time.monotonic(), self._collector_cpu()
        time.sleep(seconds)
        return (self._collector_cpu() - cpu) / (time.monotonic() - begun)

    def _wait_for_collector(self) -> None:
        deadline = time.monotonic() + 60
        while self._share_for(_QUIET_SECONDS) >= _QUIET_SHARE and time.monotonic() < deadline:
            pass

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._fail(self._process.communicate()[1])
        return line

    def _fail(self, stderr: str) -> None:
        raise RuntimeError(f"{self.arm.name}, {self._workload}: status {self._process.returncode}\n{stderr}")

    def end(self) -> Measured:
        """Ends it; what its slices took, and what became of its record."""
        stdout, stderr = self._process.communicate()
        if self._process.returncode:
            self._fail(stderr)
        data: dict[str, int] = json.loads(stdout.splitlines()[-1])
        out = Measured(self._cpu_us, self._operations, data["peak_bytes"], data["resident_bytes"])
        out.collector_us = self._collector_us
        if self._folder:
            read_summary(stderr, out)
            if self._reaping:
                usage = reap_collector()
                self._reaping = False
                out.collector_cpu_seconds = usage.ru_utime + usage.ru_stime
                out.collector_peak_bytes = usage.ru_maxrss * 1024
            out.problems = checked.problems_of(self._folder, self._workload, out.handles)
        return out


def run_program(python: str, arm: Arm, workload: str, n: int, receiver: Receiver) -> Measured:
    """A process that runs one slice."""
    with Program(python, arm, workload, n, receiver) as program:
        program.ready()
        program.run()
        return program.end()


def reap_collector() -> Any:
    """Waits for the collector of the run that has just ended; returns what it used, as ``os.wait4`` has it.

    Raises RuntimeError where there was none within a minute. The null receiver is a child too, and lives.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid:
            return usage
        time.sleep(0.005)
    raise RuntimeError("the collector did not end")


def read_summary(stderr: str, out: Measured) -> None:
    """Takes what the run says of handles seen and lost. RuntimeError where it sent no spans, though asked to."""
    if "no spans to" in stderr:
        raise RuntimeError(stderr.strip())
    match = re.search(r"traceloop: \d+ loops?, ([\d,]+) callbacks?", stderr)
    if match is None:
        raise RuntimeError(f"no summary of the run: {stderr}")
    out.handles = int(match[1].replace(",", ""))
    lost = re.search(r"([\d,]+) records? dropped", stderr)
    out.lost = int(lost[1].replace(",", "")) if lost else 0
