"""The time of a task, cut into stretches without a gap."""

import math

import pytest

from traceloop.reading.requests.stretches import READY, RUNNING, TIMER, UNKNOWN, Stretches, Turn

RUN, WAIT, TURN = (RUNNING, ""), (TIMER, "app.f:1 asyncio.sleep"), (READY, "")


def who(number, ident):
    return f"run {number}"


def filled():
    out = Stretches(10.0, who)
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
    without_beginning = Stretches(-math.inf, who)
    without_beginning.add(5.0, WAIT)
    assert without_beginning.cut(1.0, 5.0) == [(5.0, WAIT)]


def test_a_task_of_very_many_steps_keeps_its_sums_in_bounded_memory():
    out = Stretches(0.0, who)
    for number in range(20_000):
        out.add(number + 0.25, RUN)
        out.add(number + 1.0, WAIT)
    assert len(out.cut(0.0, 20_000.0)) <= 1026
    assert out.sums() == pytest.approx({RUN: 5_000.0, WAIT: 15_000.0})
    # Who waited for the task all the while is told the same: nothing of it is unknown.
    other = Stretches(0.0, who)
    for until, part in out.cut(0.0, 20_000.0):
        other.add(until, part)
    assert other.sums() == pytest.approx({RUN: 5_000.0, WAIT: 15_000.0})


def test_of_very_many_parts_their_kinds_are_kept():
    out = Stretches(-math.inf, who)
    for number in range(5_000):
        out.add(number + 1.0, (TIMER, f"line {number}"))
    assert len(out.cut(-math.inf, 5_000.0)) <= 1025
    sums = out.sums()
    assert sum(sums.values()) == 4_999.0  # of the first one nobody knows when it began
    assert sums[TIMER, ""] >= 3_900.0 and sums[TIMER, "line 4999"] == 1.0


def test_who_ran_meanwhile_is_told_by_run_and_adds_up_to_the_turn():
    out = Stretches(1.0, who)
    out.add(2.0, Turn(READY, "", [(9, 1.75, 2.0, 5.0), (8, 1.25, 1.5, 6.0), (7, 0.5, 1.125, 7.0)]))
    out.add(3.0, RUN)
    assert out.sums() == {
        RUN: 1.0,
        TURN: 0.375,
        (READY, "behind run 9"): 0.25,
        (READY, "behind run 8"): 0.25,
        (READY, "behind run 7"): 0.125,
    }
    part = Stretches(1.375, who)
    for until, what in out.cut(1.375, 1.875):
        part.add(until, what)
    assert part.sums() == {TURN: 0.25, (READY, "behind run 9"): 0.125, (READY, "behind run 8"): 0.125}


def test_what_nobody_asks_for_any_more_is_dropped():
    out = filled()
    out.forget_before(13.2)
    assert out.cut(13.0, 15.0) == [(13.5, TURN), (15.0, RUN)]
    assert out.sums() == {TURN: 0.5, RUN: 1.5}
