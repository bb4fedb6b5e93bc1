"""Growth is found in samples of a leak, and in none of a healthy twin, bursts included: ten minutes in no time."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceloop.recording.heaps.growth_rules import Growth, MemoryGrowth, Rises, Stays, SteadyClock, TimerGrowth

TEN_MINUTES = 600
MIB = 1 << 20


def detections(
    detector: TimerGrowth | MemoryGrowth, level: Callable[[float], float], seconds: int = TEN_MINUTES
) -> list[Growth]:
    """Feeds ``level(t)`` once a second, with the unsteadiness of a thread that wakes about then."""
    chance = random.Random(1)
    found = []
    for second in range(seconds):
        now = second + chance.random() * 0.1
        growth = detector.sample(5000.0 + now, level(now))
        if growth is not None:
            found.append(growth)
    return found


# -- timers


def test_one_timer_a_request_at_100_a_second_is_found_within_30_seconds() -> None:
    found = detections(TimerGrowth(), lambda now: 100 * now, 60)
    assert found and found[0].end - 5000 <= 27
    assert found[0].before == 0 and found[0].after >= 1200


def test_a_slow_leak_is_found_too() -> None:
    found = detections(TimerGrowth(), lambda now: 5 * now)
    assert 1 <= len(found) <= 3


def test_a_leak_is_told_at_ever_greater_steps() -> None:
    found = detections(TimerGrowth(), lambda now: 100 * now)
    assert 3 <= len(found) <= 12
    for before, after in itertools.pairwise(found):
        assert after.after > 1.2 * before.after


def test_twenty_thousand_at_once_are_growth() -> None:
    found = detections(TimerGrowth(), lambda now: 20_000 if now > 3 else 0)
    assert len(found) == 1
    assert found[0].before == 0 and found[0].after == 20_000
    assert found[0].end - 5000 < 30


def test_twenty_thousand_set_before_the_first_sample_are_growth() -> None:
    assert len(detections(TimerGrowth(), lambda now: 20_000)) == 1


@pytest.mark.parametrize("count", [0, 10, 1000])
def test_a_steady_number_is_none(count: int) -> None:
    chance = random.Random(count)
    assert detections(TimerGrowth(), lambda now: count * (0.9 + 0.2 * chance.random())) == []


@pytest.mark.parametrize(("lasts", "every"), [(1, 5), (5, 12), (10, 60), (18, 90)])
def test_bursts_that_go_are_none(lasts: int, every: int) -> None:
    assert detections(TimerGrowth(), lambda now: 300 + (20_000 if now % every < lasts and now > every else 0)) == []


def test_a_burst_that_ebbs_away_is_none() -> None:
    assert detections(TimerGrowth(), lambda now: 30_000 * math.exp(-(now % 60) / 3)) == []


def test_load_that_goes_up_and_down_is_none() -> None:
    assert detections(TimerGrowth(), lambda now: 600 + 500 * math.sin(now / 30)) == []


def test_what_came_down_may_grow_anew() -> None:
    def level(now: float) -> float:
        return 20_000 if 10 < now < 100 or now > 300 else 100

    assert len(detections(TimerGrowth(), level)) == 2


@given(st.lists(st.integers(0, 1199), max_size=200), st.integers(0, 1000))
def test_nothing_below_the_margin_is_growth(levels: list[int], seconds: int) -> None:
    detector = TimerGrowth()
    assert all(detector.sample(seconds + now, level) is None for now, level in enumerate(levels))


@given(st.integers(2500, 10**7), st.integers(0, 30), st.integers(0, 900))
def test_what_stays_well_above_is_always_found_once(level: int, rises_in: int, before: int) -> None:
    detector = TimerGrowth()
    found = []
    for now in range(120):
        share = min(1.0, (now - 5) / rises_in if rises_in else 1.0) if now > 5 else 0.0
        growth = detector.sample(now, before + level * share)
        if growth is not None:
            found.append(growth)
    assert found
    assert found[-1].after >= 0.5 * level


def test_a_burst_that_a_blocked_loop_cannot_end_is_none() -> None:
    detector, clock = TimerGrowth(), SteadyClock(2.0)
    now = 1000.0
    found = []

    def look(level: int, seconds: float = 1.0, *, blocked: bool = False) -> None:
        nonlocal now
        now += seconds
        moment = clock.advance(now, still=blocked)
        if not blocked and (growth := detector.sample(moment, level)) is not None:
            found.append(clock.translate(growth))

    for _ in range(30):
        look(0)
    for _ in range(5):
        look(20_000)
    for _ in range(30):
        look(20_000, blocked=True)
    look(20_000, 40.0)  # and nobody came by for a while
    for _ in range(5):
        look(20_000)
    for _ in range(30):
        look(0)
    assert found == []
    for _ in range(30):
        look(20_000)
    assert len(found) == 1
    assert now - 12 < found[0].end < now and 19 < found[0].end - found[0].start < 25


# -- memory


@pytest.mark.parametrize(("bytes_a_second", "within"), [(450_000, 130), (MIB, 70), (7 * MIB, 22), (20 * MIB, 22)])
def test_a_memory_leak_is_found_within_a_minute_or_two(bytes_a_second: int, within: int) -> None:
    def level(now: float) -> float:
        start = min(now, 5) * 12 * MIB  # imports
        return start + bytes_a_second * now + (now % 3) * MIB / 2

    found = detections(MemoryGrowth(16 * MIB, 32 * MIB), level)
    assert found and found[0].end - 5000 < within
    assert len(found) < 12


def test_a_slow_memory_leak_is_found_in_some_minutes() -> None:
    found = detections(MemoryGrowth(16 * MIB, 32 * MIB), lambda now: 60 * MIB + 120_000 * now)
    assert found and found[0].end - 5000 < 420


def _sawtooth(now: float) -> float:
    return 100 * MIB + (now % 25) * MIB


def _bursts(now: float) -> float:
    return (100 + (200 if now % 40 < 10 else 0)) * MIB


def _fragmented(now: float) -> float:
    """Each burst leaves some memory that the allocator does not give back, up to a plateau."""
    return (100 + 30 * (1 - 0.5 ** (now // 60)) + (80 if now % 60 < 5 else 0)) * MIB


def _filling_cache(now: float) -> float:
    return (60 + 20 * min(1.0, now / 50)) * MIB


def _left_full_of_holes(now: float) -> float:
    """As a service with bursts of 100,000 objects beside a cache was seen to do."""
    return (43 + min(20.0, now / 18) + (30 if now % 30 < 6 else 0)) * MIB


def _warming(now: float) -> float:
    return (40 + 60 * (1 - math.exp(-now / 4))) * MIB


def _noisy(now: float) -> float:
    return 200 * MIB + random.Random(int(now)).random() * 20 * MIB


@pytest.mark.parametrize(
    "level", [_sawtooth, _bursts, _fragmented, _left_full_of_holes, _filling_cache, _warming, _noisy]
)
def test_healthy_memory_is_silent(level: Callable[[float], float]) -> None:
    assert detections(MemoryGrowth(16 * MIB, 32 * MIB), level) == []


# -- the two rules


def feed(rule: Stays | Rises, values: list[float], step: float = 1.0) -> list[tuple[float, Growth]]:
    """What a rule says of one value each ``step`` seconds: when, and the detection."""
    found = []
    for place, value in enumerate(values):
        growth = rule.sample(100.0 + place * step, value)
        if growth is not None:
            found.append((place * step, growth))
    return found


def test_stays_speaks_when_the_number_was_above_its_margin_for_the_whole_window() -> None:
    ((when, growth),) = feed(Stays(10.0, 5.0, 0.0), [0.0] * 5 + [6.0] * 30)
    assert when == 15.0
    assert growth == Growth(105.0, 115.0, 0.0, 6.0)


def test_stays_does_not_speak_of_a_burst_nor_of_the_margin_itself() -> None:
    assert feed(Stays(10.0, 5.0, 0.0), ([0.0] + [60.0] * 9) * 5) == []
    assert feed(Stays(10.0, 5.0, 0.0), [0.0] + [5.0] * 60) == []


def test_stays_has_a_margin_that_grows_with_the_level_it_has_spoken_of() -> None:
    rule = Stays(10.0, 5.0, 0.5)
    found = feed(rule, [0.0] + [100.0] * 20 + [149.0] * 20 + [151.0] * 20)
    assert [(growth.before, growth.after) for _, growth in found] == [(0.0, 100.0), (100.0, 151.0)]


def test_stays_follows_the_number_down_and_speaks_anew() -> None:
    found = feed(Stays(10.0, 5.0, 0.5), [0.0] + [100.0] * 20 + [0.0] * 20 + [100.0] * 20)
    assert [(growth.before, growth.after) for _, growth in found] == [(0.0, 100.0), (0.0, 100.0)]


def test_stays_takes_the_highest_sample_while_it_settles_for_its_level() -> None:
    assert feed(Stays(10.0, 5.0, 0.0, settle=9.0), [50.0, 80.0] * 5 + [84.0] * 40) == []
    assert len(feed(Stays(10.0, 5.0, 0.0, settle=9.0), [50.0, 80.0] * 5 + [90.0] * 40)) == 1


def test_rises_speaks_of_parts_that_lie_each_above_the_one_before() -> None:
    ((_, growth),) = feed(Rises(4, 5.0, 10.0, 0.0, wholly=True), [float(second) for second in range(24)])
    assert growth.start == 100.0 and growth.before == 0.0
    assert growth.after - growth.before >= 10.0


def test_rises_does_not_speak_of_less_than_its_least_nor_of_what_slows_down() -> None:
    assert feed(Rises(4, 5.0, 40.0, 0.0, wholly=True), [float(second) for second in range(40)]) == []
    assert feed(Rises(4, 5.0, 10.0, 0.0, wholly=True), [100.0 * (1 - math.exp(-t / 4)) for t in range(60)]) == []


def test_rises_takes_a_sawtooth_by_its_lowest_points_unless_parts_must_lie_wholly_above() -> None:
    sawtooth = [2.0 * second + 40.0 * (second % 5) for second in range(41)]
    assert feed(Rises(4, 5.0, 10.0, 0.0, wholly=False), sawtooth)
    assert feed(Rises(4, 5.0, 10.0, 0.0, wholly=True), sawtooth) == []


def test_rises_wants_twice_as_much_while_the_program_warms_up() -> None:
    line = [float(second) for second in range(21)]
    assert feed(Rises(4, 5.0, 10.0, 0.0, wholly=True, warming=60.0), line) == []
    assert len(feed(Rises(4, 5.0, 10.0, 0.0, wholly=True), line)) == 1


def test_rises_wants_a_part_of_the_number_where_that_is_more() -> None:
    line = [1000.0 + second for second in range(21)]
    assert feed(Rises(4, 5.0, 10.0, 0.1, wholly=True), line) == []
    assert len(feed(Rises(4, 5.0, 10.0, 0.01, wholly=True), line)) == 1
