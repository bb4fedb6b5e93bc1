"""The times of runs, which the C core reckons from the processor's counter where it can, are the clock's."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core.test_between_runs import ROOT, Written
from tests.helpers.cores import CORES

#: What a reading from the counter may be behind the clock, s, and a reading of the clock after it.
INEXACT = 2e-6

CLOCK = r"""
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long ahead;
static int stopped;
static struct timespec stopped_at;

void set_ahead(long seconds) { ahead = seconds; }

void set_stopped(int now)
{
    stopped = 0;
    clock_gettime(CLOCK_MONOTONIC, &stopped_at);
    stopped = now;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    long failed = syscall(SYS_clock_gettime, clock, time);
    if (clock == CLOCK_MONOTONIC)
        time->tv_sec += ahead;
    if (clock == CLOCK_MONOTONIC && stopped)
        *time = stopped_at;
    return (int)failed;
}
"""

PROGRAM = """
import ctypes, functools, sys
import pytest
from tests.core.test_clock import Busy
from tests.helpers.cores import CORES

clock = ctypes.CDLL(sys.argv[2])
with pytest.MonkeyPatch.context() as patch:
    loop = CORES[sys.argv[1]]()
    busy = Busy(loop, patch)
    if sys.argv[3] == "set":
        busy.work(0.05, *(functools.partial(clock.set_ahead, seconds) for seconds in (3600, -7200, 0)))
    else:
        busy.work(0.05, *(functools.partial(clock.set_stopped, now) for now in (1, 0)))
    loop.close()
    busy.check() if sys.argv[3] == "set" else busy.check_order()
"""


class Busy:
    """A loop that runs short callbacks, and what the clock says in each."""

    def __init__(self, loop: Any, patch: pytest.MonkeyPatch) -> None:
        self._loop = loop
        self._written = Written(loop, patch)
        self._changed: set[int] = set()
        self.times: list[float] = []

    def work(self, seconds: float, *changes: Callable[[], object]) -> None:
        """Short callbacks for so much CPU time, then one that makes the first change, and so on.

        That one goes on for longer than the loop reckons from one reading.
        """
        waiting = iter(changes)
        end = time.thread_time() + seconds

        def short() -> None:
            nonlocal end
            self.times.append(time.monotonic())
            if time.thread_time() > end:
                change = next(waiting, None)
                if change is None:
                    self._loop.stop()
                    return
                self._changed.add(len(self.times) - 1)
                change()
                end = time.thread_time() + 0.001
                while time.thread_time() < end:
                    pass
                end += seconds
            self._loop.call_soon(short)

        self._loop.call_soon(short)
        self._loop.run_forever()

    def check(self) -> None:
        """Each reading lies within the times of its run; of one that changed the clock, after its beginning."""
        runs = self._written.runs()["short"]
        assert len(runs) == len(self.times)
        for number, ((start, end), within) in enumerate(zip(runs, self.times, strict=True)):
            assert start <= within + INEXACT
            assert number in self._changed or start <= end
            assert number in self._changed or within <= end + INEXACT

    def check_order(self) -> None:
        """No time is before another that was read earlier."""
        runs = self._written.runs()["short"]
        times = [time for run in runs for time in run]
        assert len(runs) == len(self.times)
        assert times == sorted(times)


@pytest.mark.parametrize("core", CORES)
def test_a_reading_within_a_run_lies_between_its_times(core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = CORES[core]()
    busy = Busy(loop, monkeypatch)
    busy.work(0.2)
    loop.close()
    assert len(busy.times) > 1000
    busy.check()


@pytest.mark.parametrize("change", ["set", "stopped"])
@pytest.mark.parametrize("core", CORES)
def test_a_clock_that_is_changed_meanwhile(core: str, change: str, tmp_path: Path) -> None:
    """As libfaketime does it, or a machine that slept: times follow, and none is out of order but for the change."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, core, library, change],
        cwd=ROOT,
        env={"LD_PRELOAD": str(library), "PATH": str(Path(sys.executable).parent), "OTEL_TRACES_EXPORTER": "none"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("core", list(CORES))
def test_the_loops_time_is_that_of_whatever_clock_is_there(core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = CORES[core]()
    try:
        before = time.monotonic()
        assert before <= loop.time() <= time.monotonic()
        with monkeypatch.context() as patch:
            patch.setattr("time.monotonic", lambda: 5.0)
            assert loop.time() == type(loop).time(loop) == 5.0
            patch.setattr("time.monotonic", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                loop.time()
        assert before <= loop.time() <= time.monotonic()
    finally:
        loop.close()
