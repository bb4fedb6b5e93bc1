"""Who prints the summary: the program's process where it waits for it, else the collector."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.waiting import until
from traceloop.collector.root_stderr import RootStderr
from traceloop.collector.traced_processes import Root
from traceloop.record.proc import is_alive

#: Its first thread ends alone when it is told to, the other one lives on: as in the midst of a crash.
PROGRAM = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print(flush=True)
input()
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_process_that_runs_prints_it(process: subprocess.Popen[str], tmp_path: Path) -> None:
    assert RootStderr(str(tmp_path), Root(process.pid), report=False).root_listens()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_a_process_whose_first_thread_has_ended_does_not(process: subprocess.Popen[str], tmp_path: Path) -> None:
    root = Root(process.pid)
    assert process.stdin is not None
    print(file=process.stdin, flush=True)
    until(lambda: not is_alive(process.pid), "the end of its first thread")
    assert not RootStderr(str(tmp_path), root, report=False).root_listens()
