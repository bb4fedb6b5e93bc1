"""The budget of the watchdog's events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from traceloop.recording.watchdog.watched_loop import TokenBucket


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
