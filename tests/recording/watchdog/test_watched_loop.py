"""What the watchdog remembers of a loop, and the budget of its events."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceloop.record import layout
from traceloop.recording.watchdog.stacks import Run
from traceloop.recording.watchdog.watched_loop import StoppedLoops, TokenBucket, Watched, begin_stall


def watched_loop(loop: Any = None, ring: int = 0) -> Watched:
    return Watched(loop, ring, memoryview(bytearray(8 * layout.WORDS)).cast("d"), 0.1)


@pytest.mark.parametrize("later", [0, 10, 1000])
def test_a_run_is_measured_from_before_it_began_however_long_it_is(later: int) -> None:
    watched = watched_loop()
    for _ in range(20):
        before = watched.sample()
    start = monotonic()
    for _ in range(later):
        watched.sample()
    stall = begin_stall(watched, Run(start, 1.0, [], [], None), 0.1, 0.1)
    assert stall.before is not None and stall.before[0] <= start
    assert len(watched.history) <= 32
    if later <= 10:  # the latest of those before it
        assert stall.before == before
        assert len(stall.samples) == later


def test_a_loop_that_runs_again_before_the_next_turn_is_as_one_that_slept() -> None:
    stopped, loop = StoppedLoops(), object()
    seen = watched_loop(loop, 3)
    sample = seen.sample()
    stopped.append(seen)
    assert stopped.take_back(loop, 3) is seen and seen.history == [sample]
    assert stopped.take_all() == []


def test_what_another_thread_ring_or_loop_left_is_not_taken_back() -> None:
    stopped, loop = StoppedLoops(), object()
    seen = watched_loop(loop, 3)
    assert stopped.take_back(loop, 3) is None
    stopped.append(seen)
    assert stopped.take_back(object(), 3) is None
    assert stopped.take_back(loop, 4) is None
    others: list[Watched | None] = []
    thread = threading.Thread(target=lambda: others.append(stopped.take_back(loop, 3)))
    thread.start()
    thread.join()
    later = watched_loop(object(), 5)
    stopped.append(later)
    assert others == [None] and stopped.take_back(loop, 3) is None
    assert stopped.take_all() == [seen, later] and not stopped


def test_as_many_as_a_minute_has_come_at_once_and_then_at_its_pace() -> None:
    bucket = TokenBucket(60)
    assert [bucket.take(1000.0) for _ in range(61)] == [True] * 60 + [False]
    assert [bucket.take(1000.5 + second) for second in range(4)] == [False, True, True, True]
    assert not bucket.take(1003.6)


def test_what_was_not_used_does_not_add_up() -> None:
    bucket = TokenBucket(3)
    assert sum(bucket.take(1000.0) for _ in range(9)) == 3
    assert sum(bucket.take(9000.0) for _ in range(9)) == 3


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(1)
    assert bucket.take(1000.0)
    assert not bucket.take(10.0)
    assert not bucket.take(60.0)


@given(st.integers(1, 100), st.lists(st.floats(0.0, 30.0), max_size=300))
def test_no_minute_has_more_than_twice_its_number(per_minute: int, gaps: list[float]) -> None:
    bucket = TokenBucket(per_minute)
    now, taken = 100.0, []
    for gap in gaps:
        now += gap
        if bucket.take(now):
            taken.append(now)
    for begin in taken:
        # What was saved, and what a minute brings.
        assert sum(begin <= each < begin + 60.0 for each in taken) <= 2 * per_minute
