"""The allocation trace: what it names, and what it may cost."""

from __future__ import annotations

import time
from typing import Any

import pytest

from traceloop.recording.heaps import growth_rules as growth
from traceloop.recording.heaps.allocation_trace import AllocationTrace


class _Kept:
    def __init__(self) -> None:
        self.kept: list[Any] = []

    def leak(self) -> None:
        self.kept.append([{"number": number} for number in range(300)])


def test_a_trace_counts_what_stays_and_grows_not_what_is_alive_by_chance() -> None:
    trace = AllocationTrace(growth.Growth(1.0, 51.0, 10.0, 100.0), {}, 0.0, 1000.0)
    keeper = _Kept()
    for step in range(1, 41):
        keeper.leak()
        temporary = [object() for _ in range(20_000)] if step >= 30 else None  # much, at the last snapshot only
        if trace.step(step * 0.5, idle=True):
            break
    else:
        pytest.fail("it does not end")
    trace.end(20.0, lambda file, line: None)
    del temporary
    (line, size), *others = trace.known["top"]
    assert line == f"{__file__}:{_Kept.leak.__code__.co_firstlineno + 1}" and size > 100_000
    assert all(":" in name and "__init__" not in name for name, _ in others)
    assert trace.known["trace"]["frames"] == 1


def test_a_trace_ends_as_soon_as_it_has_cost_its_share() -> None:
    begin = time.process_time()
    trace = AllocationTrace(growth.Growth(1.0, 51.0, 10.0, 100.0), {}, 0.0, 10.0)  # 5 % of 10 s
    now = 0.0
    while not trace.step(now, idle=True):
        for _ in range(100):
            [object() for _ in range(100)]
        now += 0.001  # no time goes by, nor does memory grow
        assert now < 14.0, "it ended for another reason"
    trace.end(now, lambda file, line: None)
    assert trace.known["trace"]["cost_seconds"] < 1.0
    assert time.process_time() - begin < 5.0


def test_a_trace_waits_for_the_loops_to_be_idle_but_not_for_long() -> None:
    trace = AllocationTrace(growth.Growth(1.0, 51.0, 10.0, 100.0), {}, 0.0, 1000.0)
    assert not trace.step(2.5, idle=False) and trace._first is None
    assert not trace.step(3.0, idle=False) and trace._first is None
    assert not trace.step(3.6, idle=False) and trace._first is not None
    assert not trace.step(15.1, idle=False)
    assert trace.step(15.2, idle=True)
    trace.end(15.2, lambda file, line: None)


def test_a_library_that_allocates_is_looked_at_with_more_frames() -> None:
    import copy

    trace = AllocationTrace(growth.Growth(1.0, 51.0, 10.0, 100.0), {}, 0.0, 1000.0)
    kept: list[Any] = []
    now = 0.0
    while not trace.step(now, idle=True):
        kept += [copy.deepcopy([[1], [2]]) for _ in range(50)]  # lines of copy.py allocate
        now += 0.5
        assert now < 60.0
    trace.end(now, lambda file, line: None)
    assert trace.known["trace"]["frames"] > 1
    assert trace.known["top"][0][0].startswith(f"{__file__}:")
