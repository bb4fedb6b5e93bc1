"""The callback of the garbage collector: in C as in Python, and what a signal's handler raises meanwhile."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest

from tests.conftest import ROOT
from traceloop.core.choose import core
from traceloop.record import layout
from traceloop.recording.heaps import gc_pauses
from traceloop.recording.heaps.gc_pauses import GCPauses
from traceloop.recording.outbox import Outbox
from traceloop.recording.process import Process
from traceloop.settings import Settings

pytestmark = pytest.mark.skipif(core().native is None, reason="the C core is not built, or not chosen")


@pytest.fixture
def process() -> Process:
    return Process(Settings(ring_size=1 << 20))


def totals_of(records: list[float]) -> Counter[tuple[float, float, str]]:
    """Of each generation: how many collections, how many objects they freed and could not free."""
    totals: Counter[tuple[float, float, str]] = Counter()
    number, called = 1.0, 0.0
    for at in range(0, len(records), 3):
        a, kind, b = records[at : at + 3]
        if kind == layout.R_GC_SUM:
            called, number = divmod(a, layout.OUTCOME)
        elif kind == layout.R_GC:
            assert 0.0 <= b < 100.0
            assert 0.0 <= time.monotonic() - a < 100.0
        else:
            assert kind == layout.R_GC_INFO
            uncollectable, generation = divmod(a, 4)
            for name, value in (("number", number), ("freed", b), ("not freed", uncollectable)):
                totals[generation, called, name] += int(value)
            number, called = 1.0, 0.0
    return totals


def notes_of(note: Any, write_sums: Any, outbox: Outbox) -> Counter[tuple[float, float, str]]:
    for generation, times in ((0, 5), (1, 300), (2, 150), (0, 400)):
        for _ in range(times):
            note("start", {})
            note("stop", {"generation": generation, "collected": 7, "uncollectable": 2})
    note("stop", {"generation": 0, "collected": 7, "uncollectable": 2})  # it began while none were noted
    write_sums()
    return totals_of(outbox.pending.take()[0])


def test_it_notes_in_c_what_it_notes_in_python(process: Process) -> None:
    twin, outbox = Outbox(process), Outbox(process)
    sums: dict[int, list[float]] = {}
    pauses = GCPauses(outbox)
    is_enabled = gc.isenabled()
    gc.disable()  # none of these comes by itself
    try:
        note = gc_pauses._make_callback(twin, sums)
        expected = notes_of(note, lambda: gc_pauses._write_sums(sums, twin), twin)
        assert notes_of(pauses._callback, pauses._write_sums, outbox) == expected
    finally:
        if is_enabled:
            gc.enable()
    assert expected[0.0, 1.0, "number"] == 405
    assert expected[layout.GC_FULL_CALLED, 0.0, "freed"] == 150 * 7


@pytest.mark.parametrize(
    ("phase", "info", "error"),
    [
        ("stop", {"generation": 2, "collected": 1}, KeyError),
        ("stop", {"generation": 9, "collected": 1, "uncollectable": 0}, ValueError),
        ("stop", {"generation": "2", "collected": 1, "uncollectable": 0}, TypeError),
        ("stop", None, TypeError),
        (None, {}, TypeError),
    ],
)
def test_it_refuses_what_no_collector_passes(process: Process, phase: Any, info: Any, error: type[Exception]) -> None:
    outbox = Outbox(process)
    note: Any = GCPauses(outbox)._callback
    note("start", {})
    with pytest.raises(error):
        note(phase, info)
    assert not outbox.pending


def test_the_source_has_the_numbers_of_the_twin() -> None:
    source = (ROOT / "traceloop" / "core" / "native" / "gc_notes.c").read_text()
    numbers = dict(re.findall(r"#define (\w+) ([0-9.]+)", source))
    assert float(numbers["PERIOD_SECONDS"]) == gc_pauses._PERIOD_SECONDS
    assert int(numbers["MOST_SINGLES"]) == gc_pauses._MOST_SINGLES
    assert float(numbers["SHORT_SECONDS"]) == gc_pauses._SHORT_SECONDS


LONG_COLLECTION = """
import gc, signal, time
from traceloop.loop.event_loop import EventLoop
from traceloop.recording.heaps import gc_pauses

class Rung(Exception):
    pass

def ring(number, frame):
    raise Rung

def collects():
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    began = time.monotonic()
    try:
        gc.collect()
    except Rung:
        print("rung")
    assert time.monotonic() - began >= gc_pauses.LONG_SECONDS
    loop.stop()

kept = [[number] for number in range(2_000_000)]
looks = []
signal.signal(signal.SIGALRM, ring)
gc_pauses.after_long.append(lambda: looks.append(gc.isenabled()))
loop = EventLoop()
loop.call_soon(collects)
loop.run_forever()
loop.close()
assert looks
"""


def test_what_a_signals_handler_raises_during_a_long_collection_reaches_the_program() -> None:
    """It was lost: the watchdog's look after the collection, in Python, ran the handler within the callback."""
    # Alone in a process: other callbacks of the collector, and finalizers, may be Python code too.
    done = subprocess.run(
        [sys.executable, "-c", LONG_COLLECTION], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "rung\n", done.stderr
