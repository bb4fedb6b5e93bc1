"""Two records compared: known changes are found, noise is not, and few runs say nothing."""

from __future__ import annotations

from random import Random

import pytest

from traceloop.reading.comparison import (
    FASTER,
    ONLY_B,
    SAME,
    SLOWER,
    SOME_SLOWER,
    TOO_FEW,
    Blocks,
    changes,
    compare,
)


def blocks(values):
    made = Blocks()
    for value in values:
        made.add(value)
    return made


def noisy(seed, count, factor=1.0, tail=0.02):
    """Durations as a loop has them: about 1 ms, and some that were interrupted."""
    random = Random(seed)
    return [
        0.001 * factor * random.lognormvariate(0.0, 0.1) + (0.02 if random.random() < tail else 0.0)
        for _ in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 1000, 100_000])
def test_blocks_hold_everything_in_bounds(count):
    made = blocks([float(number) for number in range(count)])
    assert made.count == count == sum(made.counts)
    assert made.total == sum(made.sums) == count * (count - 1) / 2
    assert len(made.counts) <= 128 and len(made.kept) <= 512
    assert made.kept == [float(number) for number in range(0, count, made.stride)]
    if count:
        assert abs(sorted(made.kept)[len(made.kept) // 2] - count / 2) <= made.stride + 1


def test_what_no_clock_shows_is_passed_over():
    made = blocks([-1.0, float("nan"), float("inf"), 1.0])
    assert (made.count, made.mean) == (1, 1.0)


@pytest.mark.parametrize(("factor", "verdict"), [(1.5, SLOWER), (1.0, SAME), (0.6, FASTER)])
def test_a_known_change(factor, verdict):
    change = compare("app.handler", blocks(noisy(1, 3000)), blocks(noisy(2, 3000, factor)))
    assert change.verdict == verdict
    assert change.usual.low <= factor <= change.usual.high
    assert change == compare("app.handler", blocks(noisy(1, 3000)), blocks(noisy(2, 3000, factor)))


def test_runs_that_became_slower_now_and_then():
    change = compare("app.handler", blocks(noisy(1, 3000)), blocks(noisy(2, 3000, tail=0.08)))
    assert change.verdict == SOME_SLOWER
    assert change.usual.high < 1.1 and change.mean.low > 1.2


def test_steps_of_two_sorts():
    """One long and one short step in turns, as many coroutines have them."""
    before, after = ([0.0002 * factor if at % 2 else 0.000002 for at in range(200)] for factor in (1, 30))
    change = compare("app.handler", blocks(before), blocks(after))
    assert change.verdict == SLOWER and change.usual.low > 10.0


def test_no_verdict_from_ten_runs():
    change = compare("app.handler", blocks(noisy(1, 10)), blocks(noisy(2, 3000, 5.0)))
    assert (change.verdict, change.usual, change.mean) == (TOO_FEW, None, None)


def test_equal_records_seldom_differ():
    """Of a hundred names that did not change, a few at most may be called slower."""
    wrong = sum(
        compare(f"name {seed}", blocks(noisy(seed, 400)), blocks(noisy(seed + 1000, 400))).verdict in (SLOWER, FASTER)
        for seed in range(100)
    )
    assert wrong <= 3


def test_the_worst_comes_first():
    before = {"a": blocks([0.001] * 100), "b": blocks([0.001] * 100), "c": blocks([0.001] * 100)}
    after = {"a": blocks([0.002] * 100), "b": blocks([0.009] * 100), "new": blocks([0.5] * 100)}
    found = changes(before, after)
    assert [each.name for each in found[:2]] == ["b", "a"]
    assert {each.name: each.verdict for each in found}["new"] == ONLY_B
