"""The last minutes of a loop, second by second."""

from __future__ import annotations

import math

import pytest

from traceloop.reading.decoding.decoded import Decoded
from traceloop.reading.decoding.runs import Iteration, IterationRows
from traceloop.reading.statistics.timeline import KEPT, Timeline


def fed(*iterations):
    timeline = Timeline(None, None)
    decoded = Decoded(None)
    decoded.iterations = IterationRows(
        Iteration(n, start, end, 2, 0.0, -1.0) for n, (start, end) in enumerate(iterations)
    )
    timeline.feed(decoded)
    return timeline


def seconds(timeline):
    return {each.second: pytest.approx(each.active_s) for each in timeline.seconds}


def test_iterations_go_to_the_second_in_which_they_begin():
    timeline = fed((10.1, 10.2), (10.5, 10.6), (12.0, 12.3))
    assert seconds(timeline) == {10: 0.2, 12: 0.3}
    assert [(each.callbacks, each.iterations) for each in timeline.seconds] == [(4, 2), (2, 1)]


def test_a_long_one_is_shared_out():
    timeline = fed((10.5, 13.25), (13.5, 13.6))
    assert seconds(timeline) == {10: 0.5, 11: 1.0, 12: 1.0, 13: 0.35}
    assert [each.longest_s for each in timeline.seconds] == [2.75] * 4


def test_a_chunk_of_an_earlier_time_and_damage_change_nothing():
    timeline = fed((10.5, 10.6))
    decoded = Decoded(None)
    decoded.iterations = IterationRows(
        (
            Iteration(1, 3.0, 3.5, 1, 0.0, -1.0),
            Iteration(2, math.nan, 3.5, 1, 0.0, -1.0),
            Iteration(3, 1e300, math.inf, 1, 0.0, -1.0),
        )
    )
    timeline.feed(decoded)
    assert seconds(timeline) == {10: 0.1}


def test_it_stays_bounded():
    assert len(fed(*((float(n), n + 0.1) for n in range(2000))).seconds) == KEPT
    assert len(fed((10.0, 9e8)).seconds) <= KEPT
    assert len(fed((10.0, math.inf)).seconds) <= KEPT
