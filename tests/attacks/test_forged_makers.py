"""A record in which one task begins again and again, each time made by itself: reading it takes no memory for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cores import CORES
from tests.helpers.differential import clean_environ
from tests.helpers.paths import ROOT
from traceloop.record import files, layout
from traceloop.recording.ring import Ring

BEGINNINGS = 300_000
#: An empty record takes some 25 MB to read, and this one took 80 MB and more.
LIMIT_BYTES = 60 << 20
READ = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "traceloop", "report", sys.argv[1]], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def forge(folder: Path) -> None:
    process = folder / str(files.ProcessName(os.getpid(), 1, 1))
    process.mkdir()
    (process / files.PROCESS).write_text(json.dumps({"pid": os.getpid(), "command": "app"}))
    sites = [
        [900, "aiohttp.web_protocol", "RequestHandler.start", "/x/web_protocol.py", 1],
        [901, "app", "child", "/x/app.py", 1],
    ]
    (process / files.SITES).write_text("".join(json.dumps(site) + "\n" for site in sites))
    ring = Ring(str(process / files.loop_ring(0)), layout.KIND_LOOP, 0, 32 * BEGINNINGS)
    now = 100.0
    ring.tell_owner(1, now, "MainThread")
    connection, task = 1000.0 * layout.SITE_LIMIT + 900, 1001.0 * layout.SITE_LIMIT + 901
    records, text = [now, layout.R_LOOP, 1.0, now, layout.R_RUN, 1.0, now, connection, layout.FIRST + 1.0], ["x", ""]
    for _ in range(BEGINNINGS):
        now += 1e-6
        records += now, task, layout.FIRST + 1.0
        text.append("")
        if len(records) >= 3000:
            ring.write(records, text, now)
            records, text = [], []
    ring.write(records, text, now)
    ring.close()


@pytest.mark.parametrize("core", CORES)
def test_a_task_that_makes_itself_takes_no_memory_each_time(tmp_path: Path, core: str) -> None:
    forge(tmp_path)
    environ = clean_environ() | {"OTEL_PYTHON_TRACELOOP_CORE": core, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", READ, str(tmp_path)]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < LIMIT_BYTES
