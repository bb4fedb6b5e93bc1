"""What the watchdog computes is not among what the other threads of the process have."""

from __future__ import annotations

import threading
import time

import pytest

from traceloop.recording.watchdog import thread_clocks
from traceloop.recording.watchdog.thread_clocks import ThreadClocks, watchdog_begins, watchdog_ends

COMPUTED = 0.2


@pytest.fixture
def nothing_known(monkeypatch):
    for name, value in (("_own_ident", 0), ("_own_before", 0.0), ("_own_last", 0.0)):
        monkeypatch.setattr(thread_clocks, name, value)


@pytest.mark.parametrize("is_watchdog", [True, False])
def test_the_watchdogs_own_time_is_not_the_process_s(nothing_known, is_watchdog):
    clocks = ThreadClocks()
    samples = []

    def look():
        if is_watchdog:
            watchdog_begins()
        samples.append(clocks.sample())
        end = time.thread_time() + COMPUTED
        while time.thread_time() < end:
            pass
        samples.append(clocks.sample())
        if is_watchdog:
            watchdog_ends()
        samples.append(clocks.sample())

    thread = threading.Thread(target=look)
    before = time.process_time()
    thread.start()
    thread.join()
    all_of_it = time.process_time() - before
    first, last, after = (each[2] for each in samples)
    # Other threads of the tests' process may compute meanwhile: they are in both.
    others = all_of_it - COMPUTED
    assert last - first <= others + 0.01 if is_watchdog else last - first >= COMPUTED
    assert after - last < others + 0.01
