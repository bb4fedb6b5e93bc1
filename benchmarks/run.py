"""The benchmarks: CPU time of the loop's process against asyncio's standard loop.

    python benchmarks/run.py                             every workload, the arms that have a bar
    python benchmarks/run.py spawn wait_for --rounds 11
    python benchmarks/run.py --arms all --python /usr/bin/python3.13
    python benchmarks/run.py --arms traced-metrics,off --scale 0.2 call_soon_1

Two tables: what it costs the program (its own process), and what it costs the machine (with its collector).

A round starts a fresh process for each arm; these run the workload in slices, by turns, so that whatever else the
machine does meets all of them. A ratio is taken between the slices of one turn; a round's is the median of its turns'.
Shown: the median of the rounds, with quartiles.
A traced arm's record is checked: its collector must have seen every handle and lost none (LOST), and every field of
every handle run must be found in the record that the measured process left (INCOMPLETE; checked.py says what that is).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys

from costs import print_costs

from harness.interpreter import hooked
from harness.measured import Arm, Measured, Program, Receiver, run_program
from workloads import network_workloads, scheduling_workloads

ARMS = {
    arm.name: arm
    for arm in (
        Arm("standard", "standard"),
        Arm("standard-64k", "standard_64k"),
        Arm("traced-metrics", "traced", ("--spans", "off")),
        Arm("traced-spans", "traced", ("--otlp-endpoint", "RECEIVER")),
        Arm("off", "off"),
        Arm("debug", "debug", scale=0.1),
        Arm("uvloop", "uvloop"),
        Arm("rloop", "rloop"),
        Arm("naive", "naive", scale=0.05),
    )
}
DEFAULT_ARMS = "standard-64k,traced-metrics,traced-spans,uvloop"

#: The program's own process is to cost no more than it does on uvloop, which records nothing; this share of it at most
#: where it serves the network, and so much of the standard loop more where the application has spans of its own.
NETWORK_BAR = 1.05
APPLICATION_SPANS_BAR = 0.04
#: What program and collector together may cost, relative to the standard loop.
MACHINE_BAR = 1.0
MACHINE_BARS = {"executor": 1.15}
LOW_MACHINE_BAR = 0.8
LOW_WORKLOADS = ("call_soon", "sleep0", "timers")
#: Turns of a round: a slice of some 40 ms each, of a server 0.1 s. The speed of a shared machine changes by a factor of
#: two within seconds: the shorter the slices, the more alike the moments that are compared.
SLICES = 5
NETWORK_SLICES = 10
#: wrk works for a second at least.
WRK_SLICES = 3
HTTP = ("aiohttp", "aiohttp_span", "aiohttp_spans", "uvicorn")
#: Workloads that have to be made in one go.
WHOLE = ("sleep0_100k", "timers_1m")


@dataclasses.dataclass
class Row:
    """One workload's rounds: arm -> measurements in order."""

    workload: str
    network: bool
    measured: dict[str, list[Measured]]

    def ratios(self, arm: str, *, machine: bool = False) -> list[float]:
        """The arm's CPU time an operation over the base's, round by round; with its collector's where ``machine``."""
        out = []
        for one, other in zip(self.measured[arm], self.measured[self.base], strict=True):
            costs = [cpu + one.collector_us for cpu in one.cpu_us] if machine else one.cpu_us
            out.append(statistics.median(a / b for a, b in zip(costs, other.cpu_us, strict=True)))
        return out

    @property
    def base(self) -> str:
        return "standard-64k" if self.network and "standard-64k" in self.measured else "standard"


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def bar_of(row: Row, arm: str) -> float | None:
    """What the arm's process may cost on this workload; None where nothing was promised, or uvloop was not asked."""
    if not arm.startswith("traced") or not row.measured.get("uvloop"):
        return None
    uvloop = statistics.median(row.ratios("uvloop"))
    bar = uvloop * NETWORK_BAR if row.network else uvloop
    return bar + APPLICATION_SPANS_BAR if row.workload.endswith(("_span", "_spans")) else bar


def machine_bar_of(row: Row, arm: str) -> float | None:
    """What the arm and its collector may cost together; None where nothing was promised: with a span a handle."""
    if arm != "traced-metrics":
        return None
    usual = LOW_MACHINE_BAR if row.workload.startswith(LOW_WORKLOADS) else MACHINE_BAR
    return MACHINE_BARS.get(row.workload, usual)


def cell(values: list[float], bar: float | None) -> str:
    """A median, its quartiles, and how it stands to its bar."""
    low, middle, high = quartiles(values)
    mark = "" if bar is None else " ok" if middle <= bar else f" > {bar:.2f}"
    return f"{middle:.2f} ({low:.2f}-{high:.2f}){mark}"


def print_row(row: Row) -> None:
    cells = []
    for arm, measured in row.measured.items():
        if arm == row.base:
            continue
        lost = "" if not any(one.lost for one in measured) else " LOST"
        problems = sorted({problem for one in measured for problem in one.problems})
        if problems:
            lost += " INCOMPLETE"
            print(f"{arm}, {row.workload}: {'; '.join(problems)}", file=sys.stderr)
        cells.append(cell(row.ratios(arm), bar_of(row, arm)) + lost)
    base = statistics.median(cpu for one in row.measured[row.base] for cpu in one.cpu_us)
    print(f"| {row.workload} | {base:.2f} us | " + " | ".join(cells) + " |", flush=True)


def print_machine(rows: list[Row]) -> None:
    """The second table: program and collector together, and the collector alone."""
    arms = [arm for arm in rows[0].measured if arm.startswith("traced")]
    if not arms:
        return
    print("\nProgram and collector together, relative to the standard loop; and the collector, CPU an operation")
    print("\n| workload | " + " | ".join(f"{arm} | its collector" for arm in arms) + " |")
    print("|---|" + "---|---|" * len(arms))
    for row in rows:
        cells = []
        for arm in arms:
            collector = statistics.median(one.collector_us for one in row.measured[arm])
            cells.append(cell(row.ratios(arm, machine=True), machine_bar_of(row, arm)))
            cells.append(f"{collector:.2f} us")
        print(f"| {row.workload} | " + " | ".join(cells) + " |")


def print_heading(row: Row, base: str) -> None:
    names = [arm for arm in row.measured if arm != row.base]
    reads = " with reads of 64 KiB" if base == "standard-64k" else ""
    print(f"\nThe program's own process, relative to the standard loop{reads}")
    print(f"\n| workload | {base} | " + " | ".join(names) + " |")
    print("|---|---|" + "---|" * len(names))


def run_by_turns(programs: list[Program], slices: int) -> None:
    """Each runs so many slices, one program at a time, in an order that changes from turn to turn; and then those of a
    traced one in a row, for its collector.
    """
    for program in programs:
        program.ready()
        program.fill_ring()
    for turn in range(slices):
        for program in programs if turn % 2 else reversed(programs):
            program.run()
    for program in programs:
        program.measure_collector(slices)


def whole_record(python: str, arm: Arm, workload: str, n: int, receiver: Receiver) -> list[str]:
    """What is wrong with the record of a process that runs one slice and no more; [] for an arm that makes none."""
    return [] if arm.options is None else run_program(python, arm, workload, n, receiver).problems


def run_rows(options: argparse.Namespace, arms: list[Arm], receiver: Receiver) -> None:
    chosen = {workload.__name__: (n, False) for workload, n in scheduling_workloads.WORKLOADS.items()}
    chosen.update({workload.__name__: (n, True) for workload, n in network_workloads.WORKLOADS.items()})
    unknown = set(options.workloads) - set(chosen)
    if unknown:
        raise SystemExit(f"no such workload: {', '.join(sorted(unknown))}; there are {', '.join(chosen)}")
    heading = None
    rows = []
    for name, (n, network) in chosen.items():
        if options.workloads and name not in options.workloads:
            continue
        used = [arm for arm in arms if network or arm.name != "standard-64k"]
        row = Row(name, network, {arm.name: [] for arm in used})
        slices = 1 if name in WHOLE else NETWORK_SLICES if network else SLICES
        if network_workloads.WRK and name in HTTP:
            slices = WRK_SLICES
        counts = {arm: max(100, int((options.n or n) * options.scale * arm.scale / slices)) for arm in used}
        # Records that have not lost their beginning: of these all is checked.
        problems = {arm: whole_record(options.python, arm, name, counts[arm], receiver) for arm in used}
        for _ in range(options.rounds):
            with contextlib.ExitStack() as stack:
                programs = []
                for arm in used:
                    programs.append(stack.enter_context(Program(options.python, arm, name, counts[arm], receiver)))
                run_by_turns(programs, slices)
                for program in programs:
                    row.measured[program.arm.name].append(program.end())
        for arm in used:
            row.measured[arm.name][0].problems += problems[arm]
        if heading != row.base:
            heading = row.base
            print_heading(row, row.base)
        print_row(row)
        rows.append(row)
        if options.json:
            with open(options.json, "a") as file:
                measured = {arm: [dataclasses.asdict(one) for one in all_] for arm, all_ in row.measured.items()}
                file.write(json.dumps({"workload": name, "python": options.version, "measured": measured}) + "\n")
    print_machine(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", help="all of them where none is named")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--arms", default=DEFAULT_ARMS, help=f"'all', or of {', '.join(ARMS)} (default {DEFAULT_ARMS})")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that is measured")
    parser.add_argument("--n", type=int, help="operations of each workload, where its own number does not do")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of operations")
    parser.add_argument("--json", metavar="FILE", help="every single measurement is appended to it")
    parser.add_argument("--costs", action="store_true", help="collector, memory, start-up, exit and scrape instead")
    options = parser.parse_args()
    names = list(ARMS) if options.arms == "all" else options.arms.split(",")
    for name in names:
        if name not in ARMS:
            parser.error(f"no such arm: {name}; there are {', '.join(ARMS)}")
    asked = subprocess.run([options.python, "-VV"], capture_output=True, text=True, check=True)
    options.version = asked.stdout.strip()
    print(f"{options.version}, {platform.machine()}, {os.cpu_count()} CPUs, {options.rounds} rounds")
    with Receiver() as receiver, hooked(options.python) as options.python:
        if options.costs:
            print_costs(options, ARMS, receiver)
        else:
            arms = [ARMS["standard"], *(ARMS[name] for name in names if name != "standard")]
            run_rows(options, arms, receiver)


if __name__ == "__main__":
    main()
