"""The time of a task, cut into stretches without a gap."""

import math

import pytest

from traceloop.reading.requests.stretches import READY, RUNNING, TIMER, UNKNOWN, Stretches

RUN, WAIT, TURN = (RUNNING, ""), (TIMER, "app.f:1 asyncio.sleep"), (READY, "")


def filled():
    out = Stretches(10.0)
    for until, part in ((11.0, RUN), (13.0, WAIT), (13.0, TURN), (13.5, TURN), (14.0, RUN), (15.0, RUN)):
        out.add(until, part)
    return out


def test_stretches_add_up_and_those_without_length_are_left_out():
    assert filled().sums() == {RUN: 2.5, WAIT: 2.0, TURN: 0.5}
    assert filled().end == 15.0


def test_a_cut_covers_what_was_asked_for_and_says_what_is_not_known():
    assert filled().cut(12.0, 13.25) == [(13.0, WAIT), (13.25, TURN)]
    assert filled().cut(9.0, 10.5) == [(10.0, (UNKNOWN, "")), (10.5, RUN)]
    assert filled().cut(14.5, 16.0) == [(15.0, RUN), (16.0, (UNKNOWN, ""))]
    without_beginning = Stretches(-math.inf)
    without_beginning.add(5.0, WAIT)
    assert without_beginning.cut(1.0, 5.0) == [(5.0, WAIT)]


def test_a_task_of_very_many_steps_keeps_its_sums_in_bounded_memory():
    out = Stretches(0.0)
    for number in range(20_000):
        out.add(number + 0.25, RUN)
        out.add(number + 1.0, WAIT)
    assert len(out.cut(0.0, 20_000.0)) <= 1026
    assert out.sums() == pytest.approx({RUN: 5_000.0, WAIT: 15_000.0})
