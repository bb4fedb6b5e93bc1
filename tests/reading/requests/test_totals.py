"""What is kept of the requests of one process: bounded, whatever they are called."""

import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceloop.reading.requests.stretches import PARTS, READY, RUNNING
from traceloop.reading.requests.totals import NAME_LIMIT, SLOWEST, NameTotals, Request, RequestTotals
from traceloop.reading.statistics.histograms import DURATIONS


def bucket_of(seconds):
    return bisect_left(DURATIONS.fine, seconds)


def ran_and_was_ready(running, ready):
    """Seconds in the order of ``PARTS``."""
    return tuple({RUNNING: running, READY: ready}.get(part, 0.0) for part in PARTS)


def test_ten_thousand_names_share_what_there_is_room_for():
    totals = RequestTotals()
    for number in range(10_000):
        name, behind = f"app.f{number}", (READY, f"behind app.f{number}")
        if number % 2:
            totals.add(Request(name, float(number), 1.5, {(RUNNING, ""): 1.0, behind: 0.5}))
        else:
            totals.add_all(name, (1.5, 1.5, 1.5), [(bucket_of(1.5), 1, ran_and_was_ready(1.0, 0.5))], [(behind, 0.5)])
    assert len(totals.by_name) == NAME_LIMIT + 1
    assert sum(each.count for each in totals.by_name.values()) == 10_000
    other = totals.by_name["other"]
    assert other.count == other.durations.count == 10_000 - NAME_LIMIT
    assert other.parts == {RUNNING: 1.0 * other.count, READY: 0.5 * other.count}
    assert len(other.details) <= 202 and sum(other.details.values()) == 0.5 * other.count
    assert sum(other.typical(0.5).values()) == 1.5
    assert len(totals.slowest()) == SLOWEST


def test_requests_that_come_in_sums_count_like_those_told_one_by_one():
    one_by_one, together = RequestTotals(), RequestTotals()
    for ready in (0.25, 0.5):
        parts = {(RUNNING, ""): 0.125, (READY, ""): ready / 2, (READY, "behind app.g"): ready / 2}
        one_by_one.add(Request("app.f", 1.0, 0.125 + ready, parts))
    buckets = [(bucket_of(0.125 + ready), 1, ran_and_was_ready(0.125, ready)) for ready in (0.25, 0.5)]
    together.add_all("app.f", (1.0, 0.375, 0.625), buckets, [((READY, "behind app.g"), 0.375)])
    expected, found = one_by_one.by_name["app.f"], together.by_name["app.f"]
    assert (found.parts, found.details, found.by_duration) == (expected.parts, expected.details, expected.by_duration)
    assert (found.count, found.durations.counts, found.durations.maximum) == (2, expected.durations.counts, 0.625)


@given(st.lists(st.floats(1e-3, 9.0), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99]))
def test_requests_around_a_percentile_took_about_as_long(durations, share):
    totals = NameTotals()
    for each in durations:
        totals.add(Request("app.f", 0.0, each, {(RUNNING, ""): each}))
    wanted = sorted(durations)[math.ceil(share * len(durations) - 1e-9) - 1]
    assert totals.typical(share)[RUNNING] == pytest.approx(wanted, rel=0.21)
