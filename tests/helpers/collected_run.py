"""A run directory with a real collector, and programs that record into it."""

import json
import os
import re
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

from traceloop.collector import start as collector
from traceloop.record.proc import is_alive
from traceloop.settings import RUN_DIR, Settings

from .paths import ROOT
from .waiting import until

PREAMBLE = """
import asyncio, os, sys, time, threading
from traceloop import new_event_loop
from traceloop.recording.process import current_process

def run(main):
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)

def end():
    current_process().end()
    fd = os.open(os.environ["OTEL_PYTHON_TRACELOOP_RUN_DIR"] + "/wake", os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, b"x")
"""




class Run:
    """A run directory with a collector, whose root is this process unless said otherwise."""

    def __init__(self, folder, environ, **choices):
        self.path = Path(folder)
        self.environ = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
        settings = Settings(run_dir=str(folder), **{"metrics_port": 0, **choices})
        self.handle = collector.start(settings, self.environ)
        self.programs = []

    @property
    def collector_pid(self):
        """Of the process that reads the record; ``handle.pid`` is its supervisor's."""
        description = self.path / "collector.json"
        return json.loads(until(lambda: description.exists() and description.read_text()))["pid"]

    def start(self, code, **more):
        environ = {**self.environ, RUN_DIR: str(self.path)}
        program = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
            env=environ,
            stdout=subprocess.PIPE,
            text=True,
            **more,
        )
        self.programs.append(program)
        return program

    def scrape(self):
        with urllib.request.urlopen(self.handle.url, timeout=120) as answer:
            return answer.read().decode()

    def value(self, name, **labels):
        total = None
        for line in self.scrape().splitlines():
            match = re.match(rf"{name}(?:{{(.*)}})? (\S+)$", line)
            if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
                total = (total or 0.0) + float(match[2])
        return total

    def drained(self, program):
        """Waits until the collector has read the program to its end."""

        def read_to_its_end():
            folders = list(self.path.glob(f"p-{program.pid}-*"))
            # What has ended well is freed as soon as it is read.
            return all((each / "usage").exists() for each in folders) and (folders or program.poll() is not None)

        return until(read_to_its_end)

    def close(self):
        for program in self.programs:
            if program.poll() is None:
                program.kill()
            program.wait()
            program.stdout.close()
            if program.stdin is not None:
                program.stdin.close()
        self.handle.stop()
        until(lambda: not is_alive(self.handle.pid))


STEPS = """
    async def steps(n):
        for _ in range(n):
            await asyncio.sleep(0)
    async def main():
        await asyncio.create_task(steps(1000))
    run(main())
"""
