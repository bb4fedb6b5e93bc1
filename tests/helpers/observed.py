"""Runs a program on the traced loop into a run directory, and reads what it recorded."""

import json
import os
import pathlib
import subprocess
import sys
import threading

from tests.helpers.paths import ROOT
from tests.helpers.waiting import until
from traceloop.collector.stall_probe import StallProbe
from traceloop.reading.follower import RunFollower
from traceloop.reading.new_statistics import new_statistics
from traceloop.reading.stalls import parts as stall_statistics

TROUBLES = pathlib.Path(__file__).with_name("troubles.py")


def environment(run_dir, **more):
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(TROUBLES.parent)]),
        "OTEL_PYTHON_TRACELOOP_RUN_DIR": str(run_dir),
        "PYTHONWARNINGS": "error",
        **more,
    }


def start(run_dir, *arguments, **more):
    """The program, started."""
    run_dir.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment(run_dir, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Observed:
    """What a run directory says. truth: the JSON lines that the program printed."""

    def __init__(self, run_dir, statistics=None):
        if statistics is None:
            statistics = new_statistics()
        self.statistics = statistics
        self.follower = RunFollower(run_dir, self.statistics)
        self.probe = StallProbe(self.follower)
        self.truth = []
        self.errors = ""

    def poll(self, last=False):
        """What a collector does again and again."""
        self.follower.poll(last=last)
        self.probe.look()

    @property
    def facts(self):
        """What the program told, by name."""
        return {name: value for line in self.truth for name, value in line.items()}

    @property
    def process(self):
        return self.statistics.processes[0]

    @property
    def loop(self):
        return next(iter(self.process.loops.values()))

    @property
    def index(self):
        return stall_statistics.stalls_of(self.process).index

    def slow(self):
        """What is known of each slow run, in order."""
        return [self.index.lookup(*key) for key in self.index.slow_runs()]

    def metric(self, name, **labels):
        """The sum of the values of the series that have these labels."""
        return sum(
            value
            for sample, have, value in self.statistics.samples()
            if sample == name and labels.items() <= dict(have).items()
        )


def observe(tmp_path, *arguments, status=0, **more):
    """Runs a program to its end and reads its record."""
    process = start(tmp_path / "run", *arguments, **more)
    observed = Observed(tmp_path / "run")
    output = []
    reader = threading.Thread(target=lambda: output.extend(process.communicate()))
    reader.start()
    while reader.is_alive():
        observed.poll()
        reader.join(0.05)
    observed.poll(last=True)
    out, errors = output
    assert process.returncode == status, errors
    observed.truth = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    observed.errors = errors
    return observed


def wait_for(condition, what):
    """Asks until there is an answer."""
    return until(condition, what)


def guilty_lines(file):
    """Numbers of the lines that end in the comment `# guilty`."""
    return [number for number, line in enumerate(file.read_text().splitlines(), 1) if line.endswith("# guilty")]


HEAD = """
import asyncio, faulthandler, gc, json, os, signal, sys, threading, time
from traceloop import EventLoop
def tell(**truth):
    os.write(1, (json.dumps(truth) + "\\n").encode())
def run(main):
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        return runner.run(main)
"""


def program(tmp_path, text):
    tmp_path.mkdir(parents=True, exist_ok=True)
    path = tmp_path / "program.py"
    path.write_text(HEAD + text)
    return path
