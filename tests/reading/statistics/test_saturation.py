"""Waits are shared out among what had the workers meanwhile."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceloop.reading.statistics.executors import ExecutorTotals
from traceloop.reading.statistics.saturation import FULL_SECONDS, Saturation


def play(workers: int, calls: list[tuple[float, float, str]]) -> list[tuple[str, float, float, float]]:
    """What a pool does with calls (submit, how long, function): function, submit, start, end."""
    free = [0.0] * workers
    out = []
    for submit, length, function in sorted(calls):
        free.sort()
        start = max(submit, free[0])
        free[0] = start + length
        out.append((function, submit, start, start + length))
    return out


def feed(saturation: Saturation, played: list[tuple[str, float, float, float]], seed: int) -> None:
    """In any order, as rings are read."""
    steps = list(enumerate(played))
    random.Random(seed).shuffle(steps)
    for key, (function, submit, start, end) in steps:
        saturation.started(key, function, submit, start)
        saturation.finished(key, end)
    saturation.settle()


def test_the_slow_function_is_named_and_who_waited_for_it() -> None:
    saturation = Saturation()
    saturation.max_workers = 2
    calls = [(1.0, 1.0, "slow"), (1.0, 1.0, "slow"), (1.1, 0.01, "quick"), (1.2, 0.01, "quick")]
    # Before and after, "often" has the workers much longer, and nobody waits.
    calls += [(10.0 + 2 * number, 1.5, "often") for number in range(20)]
    feed(saturation, play(2, calls), 1)
    assert saturation.waits == 2
    assert saturation.seconds == pytest.approx(0.9)
    assert saturation.longest == pytest.approx(0.9)
    assert saturation.fillers.keys() == {"slow"}
    assert saturation.fillers["slow"].waiters == {"quick": pytest.approx(1.7)}


def test_a_wait_while_workers_are_free_is_not_the_executors() -> None:
    saturation = Saturation()
    saturation.max_workers = 4
    saturation.started(1, "one", 1.0, 1.0)
    saturation.started(2, "late", 1.0, 1.5)  # its thread was slow to start
    saturation.settle()
    assert saturation.waits == 0 and saturation.seconds == 0.0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_call_did_not_wait_for_a_worker_that_it_filled_itself(workers: int) -> None:
    """Its thread was slow to start, and no call had it before."""
    saturation = Saturation()
    saturation.max_workers = workers
    for key in range(workers):
        saturation.started(key, "first", 1.0, 1.02 + key / 100)
        saturation.finished(key, 2.0)
    saturation.started(9, "next", 1.0, 2.0)
    saturation.settle()
    assert (saturation.waits, saturation.seconds) == (1, 1.0)


_CALLS = st.lists(st.tuples(st.floats(1, 3), st.floats(0.001, 0.5), st.sampled_from("abc")), min_size=1, max_size=60)


@given(st.integers(1, 3), _CALLS, st.integers(0, 99))
def test_all_waits_are_shared_out(workers: int, calls: list[tuple[float, float, str]], seed: int) -> None:
    played = play(workers, calls)
    saturation = Saturation()
    saturation.max_workers = workers
    feed(saturation, played, seed)
    waits = [start - submit for _, submit, start, _ in played if start - submit >= FULL_SECONDS]
    assert saturation.waits == len(waits)
    assert sum(filler.seconds for filler in saturation.fillers.values()) == pytest.approx(sum(waits), abs=1e-6)
    for function, filler in saturation.fillers.items():
        assert filler.seconds == pytest.approx(sum(filler.waiters.values()))
        expected = 0.0
        for _, submit, start, _ in played:
            if start - submit >= FULL_SECONDS:
                overlap = {
                    name: sum(max(0.0, min(e, start) - max(s, submit)) for n, _, s, e in played if n == name)
                    for name in "abc"
                }
                expected += overlap[function] / sum(overlap.values()) * (start - submit)
        assert filler.seconds == pytest.approx(expected, abs=1e-6)


def test_workers_that_end_at_once_were_full_before() -> None:
    """As anyio's are: a token that is given back is taken by the next only when the loop comes round to it."""
    saturation = Saturation()
    saturation.max_workers = 10
    for key in range(10):
        saturation.started(key, "report", 1.0, 1.0)
        saturation.finished(key, 1.5)
    for key in range(10, 20):
        saturation.started(key, "quick", 1.1, 1.51 + key / 100)
    saturation.settle()
    assert saturation.waits == 10
    assert saturation.fillers["report"].waiters["quick"] > 0.9 * saturation.fillers["report"].seconds


def test_calls_that_are_read_after_the_end_of_their_executor_do_not_make_it_full():
    """An executor that is gone has no workers; its last calls may be in another ring, which is read later."""
    totals = ExecutorTotals("default")
    totals.max_workers = 3
    totals.started(1, "f", 0.0, 0.5)
    totals.finished(1, 0.6)
    totals.max_workers = 0
    totals.started(2, "f", 1.0, 1.5)
    totals.finished(2, 1.6)
    assert totals.saturation.waits == 0 and not totals.saturation.fillers
