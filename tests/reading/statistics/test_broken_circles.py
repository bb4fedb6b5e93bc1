"""Circles of tasks that were found by looks, and that ended before anybody asked."""

import asyncio
import json

import pytest

from tests.helpers.made_statistics import Made
from traceloop.reading.decoding.decoded import Decoded, Standing
from traceloop.reading.decoding.rare_records import RareRecords
from traceloop.reading.statistics.waits import Waits
from traceloop.record import layout
from traceloop.record.layout import SITE_LIMIT

ONE, TWO, SITE = SITE_LIMIT + 7.0, 2 * SITE_LIMIT + 7.0, 7


def looked(*moments, edges=((ONE, TWO), (TWO, ONE))):
    """Waits of which looks at these moments found both tasks."""
    waits = Waits()
    for when in moments:
        standing = [Standing(when, ONE, 1), Standing(when, TWO, 2)]
        waits.look(standing, 1.0, [(when, *edge) for edge in edges])
    return waits


def test_a_circle_that_all_its_tasks_have_left_lasted_while_all_of_them_were_in_it():
    waits = looked(2.0, 3.0)
    waits.step(ONE, 0.5, 4.0, "one")
    assert not waits.circles.broken
    waits.step(TWO, 1.0, 5.0, "two")
    one, two = waits.circles.lasted(3.0)[0]
    assert (one.name, one.chain, one.since, one.until, one.awaits, one.destroyed) == ("one", 1, 0.5, 4.0, (TWO,), False)
    assert (two.name, two.awaits) == ("two", (ONE,))
    assert not waits.circles.lasted(3.1)
    assert ONE not in waits.circles and not waits.circles.destroyed(SITE)


def test_steps_before_it_began_do_not_end_it():
    waits = looked(2.0)
    waits.circles.left(ONE, "one", 0.0, 1.0)
    waits.circles.left(ONE, "one", 1.0, 4.0)
    waits.circles.left(TWO, "two", 1.5, 4.0)
    assert waits.circles.lasted(2.5)


def test_a_task_that_had_gone_on_before_the_other_was_seen_makes_it_none():
    waits = Waits()
    waits.look([Standing(1.0, ONE, 1)], 1.0, [(1.0, ONE, TWO)])
    waits.look([Standing(5.0, TWO, 2)], 1.0, [(5.0, TWO, ONE)])  # the first has not been looked at since
    waits.circles.left(ONE, "one", 0.0, 3.0)
    waits.circles.left(ONE, "one", 6.0, 9.0)
    assert TWO not in waits.circles and not waits.circles.broken


def test_one_that_ends_before_the_next_look_of_the_same_record_is_found():
    """A record is read at once after the run: its last look says nothing of what was before."""
    waits = Waits()
    standing = [Standing(when, ident, 1) for when in (1.0, 3.0) for ident in (ONE, TWO)]
    waits.look(standing, 1.0, [(1.0, ONE, TWO), (1.0, TWO, ONE), (3.0, ONE, 9.0)])
    assert ONE in waits.circles and TWO in waits.circles


@pytest.mark.parametrize("found", [1.9, 2.2])
@pytest.mark.parametrize("destroyed", [False, True])
def test_one_that_no_look_was_made_at_again_is_found(found, destroyed):
    """Looks are as long apart as that is measured, or one goes on a moment later; then the loop sleeps."""
    waits = looked(1.0, edges=())
    waits.look([Standing(1.0, 3.0, 1)], 1.0, [(1.0, 3.0, 5.0)])
    if found > 2.0:
        waits.look([Standing(2.0, 3.0, 1)], 1.0, [(2.0, 3.0, 5.0)])
    waits.look([Standing(found, each, 1) for each in (ONE, TWO)], 1.0, [(found, ONE, TWO), (found, TWO, ONE)])
    for ident in (ONE, TWO):
        waits.seek_before(ident, 6.0)
        if destroyed:
            waits.circles.left(ident, "", 1.5, 6.0, destroyed=True)
        else:
            waits.step(ident, 1.5, 6.0)
    (circle,) = waits.circles.lasted(4.5)
    assert [(each.ident, each.destroyed) for each in circle] == [(ONE, destroyed), (TWO, destroyed)]


@pytest.mark.parametrize("edges", [(), ((ONE, TWO),), ((ONE, 9.0), (TWO, 9.0))])
def test_tasks_that_wait_in_a_row_are_in_none(edges):
    assert ONE not in looked(2.0, edges=edges).circles


def waits_for_locks():
    waits = Waits()
    for number in (1, 2):
        frames = [["app.py", number, "app", "work"], [asyncio.locks.__file__, 9, "asyncio.locks", "Lock.acquire"]]
        waits.chains.define(number, json.dumps([frames, "asyncio.Future"]))
    return waits


@pytest.mark.parametrize(("looks", "is_one"), [((1.0,), False), ((1.0, 4.0), True)])
def test_a_lock_that_may_have_changed_hands_before_its_holder_waited_makes_no_circle(looks, is_one):
    """One look at many tasks lasts: the first was looked at when the second still had its lock, and did not wait."""
    waits = waits_for_locks()
    for when in looks:
        waits.look([Standing(when, ONE, 1)], 1.0, [(when, ONE, TWO)])
        waits.look([Standing(when + 2.0, TWO, 2)], 1.0, [(when + 2.0, TWO, ONE)])
    assert ONE in waits.circles and TWO in waits.circles
    waits.circles.left(ONE, "one", 0.0, 9.0)
    waits.circles.left(TWO, "two", 2.0, 9.0)
    assert bool(waits.circles.lasted(1.0)) is is_one


def test_the_destroyed_are_counted_by_coroutine():
    waits = looked(2.0)
    waits.circles.left(ONE, "one", 0.5, 2.0, destroyed=True)
    waits.circles.left(TWO, "two", 0.5, 2.5, destroyed=True)
    assert waits.circles.destroyed(SITE) == 2 and not waits.circles.destroyed(8)


def test_as_many_are_remembered_as_there_is_room_for():
    waits = Waits()
    for number in range(1, 1201, 2):
        pair = [number * SITE_LIMIT + 7.0, (number + 1) * SITE_LIMIT + 7.0]
        when = float(number)
        waits.look([Standing(when, each, 1) for each in pair], 1.0, [(when, *pair), (when, *pair[::-1])])
    assert len(waits.circles.waiting) <= 1000
    for number in range(1, 1201):
        ident = number * SITE_LIMIT + 7.0
        if ident in waits.circles:
            waits.circles.left(ident, "", 0.0, 3000.0)
    assert len(waits.circles.broken) <= 20


def test_a_look_may_go_on_in_the_next_chunk():
    process = Made().process
    records = [
        (2.0, layout.R_LOOK, 1.0), (ONE, layout.R_AWAIT, 1.0), (ONE, layout.R_AWAITED, TWO),
        (TWO, layout.R_AWAIT, 2.0), (TWO, layout.R_AWAITED, ONE),
    ]  # fmt: skip
    for size in range(1, len(records) + 1):
        process.waits.new_process()
        rare = RareRecords()
        for first in range(0, len(records), size):
            decoded = Decoded(None)
            for record in records[first : first + size]:
                rare.take(*record, iter(()), decoded, (0, 0.0), 0, 0)
            process.feed(decoded, None)
        assert process.waits.looks.keys() == {ONE, TWO}
        assert process.waits.awaited == {ONE: {TWO: None}, TWO: {ONE: None}}


def test_a_look_whose_beginning_is_missing_is_not_taken_for_the_one_before():
    rare, decoded = RareRecords(), Decoded(None)
    for record in ((2.0, layout.R_LOOK, 1.0), (ONE, layout.R_AWAIT, 1.0)):
        rare.take(*record, iter(()), decoded, (0, 0.0), 0, 0)
    rare.lose_place()
    for record in ((TWO, layout.R_AWAIT, 1.0), (TWO, layout.R_AWAITED, ONE)):
        rare.take(*record, iter(()), decoded, (0, 0.0), 0, 0)
    assert decoded.standing == [Standing(2.0, ONE, 1)] and not decoded.awaited
