"""Waits from looks and steps: what is exact, what is an estimate, and what no look has seen."""

import asyncio
import json
from pathlib import Path

import pytest

from traceloop.reading.decoding.decoded import Standing
from traceloop.reading.statistics import wait_kinds
from traceloop.reading.statistics.waits import OTHER, UNKNOWN, AwaitPlace, Waits, WaitTotals, place_of
from traceloop.record.layout import SITE_LIMIT

TASK = 5 * SITE_LIMIT + 7.0
APPLICATION = ("/srv/app/views.py", 12, "app.views", "show")
LIBRARY = ("/srv/venv/lib/python3.11/site-packages/pool/core.py", 80, "pool.core", "Pool.acquire")
PUBLIC = ("/v/lib/python3.11/site-packages/anyio/to_thread.py", 63, "anyio.to_thread", "run_sync")
PRIVATE = ("/v/lib/python3.11/site-packages/anyio/_asyncio.py", 2779, "anyio._backends._asyncio", "Backend.run")
PLACE = AwaitPlace("/srv/app/views.py", 12, "app.views.show", "pool.core.Pool.acquire", wait_kinds.POOL)


def _asyncio_frame(module: str, qualname: str) -> tuple[str, int, str, str]:
    return str(Path(asyncio.__file__).with_name(f"{module}.py")), 1, f"asyncio.{module}", qualname


def waits() -> Waits:
    out = Waits()
    out.chains.define(1, json.dumps([[APPLICATION, LIBRARY], "_asyncio.Future"]))
    return out


@pytest.mark.parametrize(
    ("frames", "place"),
    [
        ([APPLICATION, LIBRARY], PLACE),
        ([LIBRARY, APPLICATION], AwaitPlace("/srv/app/views.py", 12, "app.views.show", "a future")),
        ([LIBRARY], AwaitPlace(LIBRARY[0], 80, "pool.core.Pool.acquire", "a future")),
        (
            [LIBRARY, PUBLIC, PRIVATE, PRIVATE],
            AwaitPlace(LIBRARY[0], 80, "pool.core.Pool.acquire", "anyio.to_thread.run_sync"),
        ),
        ([PRIVATE], AwaitPlace(PRIVATE[0], 2779, "anyio._backends._asyncio.Backend.run", "a future")),
        ([], UNKNOWN),
        (
            [APPLICATION, _asyncio_frame("locks", "_Mixin.__aenter__"), _asyncio_frame("locks", "Lock.acquire")],
            AwaitPlace("/srv/app/views.py", 12, "app.views.show", "asyncio.Lock.acquire", wait_kinds.LOCK),
        ),
        (
            [APPLICATION, _asyncio_frame("tasks", "wait"), _asyncio_frame("tasks", "_wait")],
            AwaitPlace("/srv/app/views.py", 12, "app.views.show", "asyncio.wait", wait_kinds.TASK),
        ),
    ],
)
def test_the_place_is_the_innermost_line_of_the_application(frames, place):
    assert place_of(frames, "_asyncio.Future") == place


def test_a_long_wait_counts_exactly():
    found = waits()
    found.look([Standing(11.0, TASK, 1), Standing(12.0, TASK, 1)], 1.0)
    found.step(TASK, 10.5, 12.75)
    totals = found.totals[7, PLACE]
    assert (totals.count, totals.exact_s, totals.estimated_s(), totals.longest_s) == (1, 2.25, 0.0, 2.25)
    assert not found.looks


def test_the_time_in_which_the_loop_was_late_is_no_wait():
    found = waits()
    found.look([Standing(11.0, TASK, 1), Standing(12.0, TASK, 1)], 1.0)
    found.step(TASK, 10.5, 13.0, woken=11.75)
    assert (found.totals[7, PLACE].exact_s, found.totals[7, PLACE].longest_s) == (1.25, 1.25)
    assert not found.looks  # the task has gone on since
    # Seen only while it was ready: as short waits are seen by chance, it would count for too much.
    found.look([Standing(14.0, TASK, 1)], 1.0)
    found.step(TASK, 13.5, 15.0, woken=13.75)
    assert found.totals[7, PLACE].count == 1 and not found.looks


def test_a_short_wait_that_was_seen_stands_for_the_time_between_looks():
    found = waits()
    found.look([Standing(11.0, TASK, 1)], 3.0)
    found.step(TASK, 10.9, 11.1)
    totals = found.totals[7, PLACE]
    assert (totals.count, totals.exact_s, totals.estimated_s()) == (1, 0.0, 3.0)


@pytest.mark.parametrize(
    ("seen_at", "ended", "counted"),
    [(10.01, 10.4, 2 * 0.4), (10.01, 10.02, 0.2), (10.01, 20.0, 2 * 1.01), (12.0, 12.25, 2 * 0.25), (12.0, 20.0, 2.0)],
)
def test_short_waits_stand_for_no_more_than_their_loop_has_lasted(seen_at, ended, counted):
    totals = WaitTotals()
    for _ in range(2):
        totals.add(0.1, 1.0, seen_at, began=10.0)
    assert totals.estimated_s(ended) == pytest.approx(counted)
    totals.end_loop(10.0, ended)
    assert totals.estimated_s() == pytest.approx(counted)
    assert totals.estimated_s() == totals.estimated_s(ended - 0.1)


def test_loops_that_end_have_their_own_looks():
    totals = WaitTotals()
    for began in range(40):  # forty loops of 50 ms, each looked at once
        totals.add(0.05, 1.0, 0.06 * began + 0.01, began=0.06 * began)
        totals.end_loop(0.06 * began, 0.06 * began + 0.05)
    totals.add(0.2, 1.0, 100.0, began=50.0)
    totals.end_loop(51.0, 100.1)  # another loop
    assert totals.estimated_s() == pytest.approx(40 * 0.05 + 1.0)


def test_looks_that_may_still_stand_for_less_are_bounded_and_no_fewer():
    totals = WaitTotals()
    for number in range(1000):  # a record may say that a look at all tasks takes a week
        totals.add(0.01, 600_000.0, 10.0 + number, began=0.0)
        if number == 199:
            assert totals.estimated_s(10.0) == pytest.approx(sum(10.0 + each for each in range(200)))
    assert len(totals._latest) <= 257


def test_estimates_are_right_on_average():
    found = waits()
    step = 0.0
    for _ in range(2000):  # waits of 0.1 s with 0.03 s of steps between them, looked at once a second
        before, step = step + 0.03, step + 0.13
        looks = [Standing(float(when), TASK, 1) for when in range(int(before) + 1, int(step) + 1)]
        found.look([each for each in looks if before <= each.when < step], 1.0)
        if TASK in found.looks:
            found.step(TASK, before, step)
    assert found.totals[7, PLACE].estimated_s() == pytest.approx(2000 * 0.1, rel=0.05)


def test_a_look_before_or_after_the_wait_is_not_of_it():
    found = waits()
    found.look([Standing(9.0, TASK, 1), Standing(20.0, TASK, 1)], 1.0)
    found.step(TASK, 10.0, 15.0)
    assert not found.totals
    assert list(found.looks[TASK]) == [20.0, 1.0]  # of a wait whose end has not been read


def test_a_task_that_stands_for_hours_is_remembered_in_little():
    found = waits()
    for second in range(10_000):
        found.look([Standing(float(second), TASK, 1)], 1.0)
    assert len(found.looks[TASK]) < 300
    found.step(TASK, 0.0, 10_000.0)
    assert found.totals[7, PLACE].exact_s == 10_000.0


def test_places_are_bounded():
    found = waits()
    for number in range(2, 3000):
        frames = [("/srv/app/x.py", number, "app", "f")]
        found.chains.define(number, json.dumps([frames, "F"]))
        found.look([Standing(1.0, TASK, number)], 1.0)
        found.step(TASK, 0.0, 2.0)
    assert len(found.totals) <= 1001
    assert found.totals[0, OTHER].exact_s > 0.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "null",
        '[[["a", "b", "c", "d"]], "F"]',
        "[1, 2]",
        "[" * 5000,
        '[[["f"]], "F"]',
        '[{}, "F"]',
        *(f'[[["f", 1, "m", "q"]], "F", {call}]' for call in ("null", "1", "[]", "{}", '["default"]', '["x", {}, 1]')),
    ],
)
def test_a_damaged_chain_is_passed_over(text):
    found = waits()
    found.chains.define(9, text)
    assert found.chains.place(9) == UNKNOWN


def test_whom_a_task_waits_for_is_what_the_last_look_says():
    found = waits()
    found.look([Standing(1.0, TASK, 1)], 1.0, [(1.0, TASK, 8.0), (1.0, TASK, 9.0), (1.0, TASK, 8.0)])
    assert list(found.awaited[TASK]) == [8.0, 9.0]
    found.look([Standing(2.0, TASK, 1)], 1.0, [(2.0, TASK, 9.0)])
    assert list(found.awaited[TASK]) == [9.0]
    found.forget(TASK)
    assert not found.awaited and not found.looks


def test_waiting_now_is_told_by_place():
    now = waits().waiting_now([(7, 1, 10.0), (7, 1, 12.0), (8, 99, 13.0)], 14.0)
    assert now == {(7, PLACE): (2, 6.0, 4.0), (8, UNKNOWN): (1, 1.0, 1.0)}


def test_short_waits_that_one_look_saw_are_one_round():
    totals = WaitTotals()
    for seen_at in (1.0, 1.0, 1.05, 2.0, 2.0, 4.0):
        totals.add(0.3, 1.0, seen_at)
    totals.add(2.5, 1.0, 9.0)  # so long that it is seen for certain
    assert (totals.count, totals.rounds) == (7, 3)
    assert (totals.estimated_s(), totals.exact_s, totals.longest_s) == (6.0, 2.5, 2.5)


def test_of_too_many_tasks_the_oldest_looks_are_forgotten(monkeypatch):
    monkeypatch.setattr("traceloop.reading.statistics.waits._MAX_TASKS", 160)
    found = waits()
    for number in range(1, 1001):
        found.look([Standing(float(number), float(number), 1)], 1.0)
        assert len(found.looks) <= 160
    assert list(found.looks)[-150:] == [float(number) for number in range(851, 1001)]
