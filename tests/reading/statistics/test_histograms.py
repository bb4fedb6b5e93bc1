"""Histograms and labels against simple models."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceloop.reading.statistics.histograms import COUNT_BOUNDS, COUNTS, DURATION_BOUNDS, DURATIONS, Histogram
from traceloop.reading.statistics.labels import OTHER, BoundedLabels, LabelSlots, NumberSlots

VALUES = st.lists(
    st.one_of(st.floats(0, 20), st.floats(0, 1e-4), st.sampled_from(DURATION_BOUNDS), st.integers(0, 20_000).map(float))
)


def test_the_published_bounds_are_the_contracts():
    assert len(DURATION_BOUNDS) == 19
    assert DURATION_BOUNDS[:4] == (1e-5, 2.5e-5, 5e-5, 1e-4)
    assert DURATION_BOUNDS[-4:] == (1.0, 2.5, 5.0, 10.0)


@pytest.mark.parametrize(("bounds", "published"), [(DURATIONS, DURATION_BOUNDS), (COUNTS, COUNT_BOUNDS)])
@given(values=VALUES)
def test_buckets_are_what_counting_would_say(bounds, published, values):
    histogram = Histogram(bounds)
    histogram.add_all(values)
    single = Histogram(bounds)
    for value in values:
        single.add(value)
    expected = [sum(value <= bound for value in values) for bound in published] + [len(values)]
    assert histogram.cumulative() == single.cumulative() == expected
    assert histogram.count == len(values)
    assert histogram.sum == pytest.approx(sum(values))
    assert histogram.maximum == max(values, default=0.0)
    assert histogram.minimum == single.minimum == min(values, default=0.0)


@given(st.lists(st.floats(2e-6, 9.9), min_size=1), st.floats(0, 1))
def test_a_quantile_is_within_a_fine_bucket_of_the_true_one(values, share):
    histogram = Histogram()
    histogram.add_all(values)
    ordered = sorted(values)
    found = histogram.quantile(share)
    assert ordered[0] <= found <= ordered[-1]
    rank = min(len(values) - 1, max(0, -int(-share * len(values) // 1) - 1))
    # Fine buckets are five to a step, and five to the decade below the first published bound.
    assert ordered[rank] / 1.6 <= found <= ordered[rank] * 1.6


@given(st.lists(VALUES, max_size=4))
def test_merged_histograms_are_those_of_all_values(groups):
    histograms = []
    for group in groups:
        histograms.append(Histogram())
        histograms[-1].add_all(group)
    merged = Histogram().merge(histograms)
    whole = Histogram()
    whole.add_all([value for group in groups for value in group])
    assert merged.counts == whole.counts and merged.maximum == whole.maximum and merged.minimum == whole.minimum


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("number", [1, 7])
def test_a_quantile_of_values_that_are_alike_is_that_value(share, number):
    histogram = Histogram()
    histogram.add_all([0.2] * number)
    counted = Histogram.of(DURATIONS, histogram.counts, histogram.sum, 0.2, {})
    again = Histogram()
    again.add_counted((histogram.counts, histogram.sum, 0.2, 0.2))
    for each in (histogram, counted, again, Histogram().merge([histogram, Histogram()])):
        assert each.quantile(share) == pytest.approx(0.2)


@given(st.lists(st.floats(1e-6, 20), min_size=1))
def test_the_minimum_of_values_counted_elsewhere_is_never_above_them(values):
    histogram = Histogram()
    histogram.add_all(values)
    counted = Histogram.of(DURATIONS, histogram.counts, histogram.sum, histogram.maximum, {})
    assert counted.minimum <= min(values) * (1 + 1e-9)


@given(st.lists(st.integers(0, 30)))
def test_admission_is_for_good(names):
    labels = BoundedLabels(10)
    first = {}
    for name in map(str, names):
        found = labels.admit(name)
        assert found == first.setdefault(name, found)
        assert found in (name, OTHER)
    assert len(set(first.values()) - {OTHER}) <= 10


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5))))
def test_numbers_of_the_living_are_unique_and_small(steps):
    slots = NumberSlots()
    living = []
    for take, which in steps:
        if take:
            number = slots.take()
            assert number not in living and number <= len(living)
            living.append(number)
        elif living:
            slots.free(living.pop(which % len(living)))


def test_two_that_were_there_at_once_get_two_numbers_though_one_is_known_to_have_gone():
    slots = NumberSlots(limit=3)
    assert slots.take(since=1.0) == 0
    slots.free(0, at=9.0)
    assert slots.take(since=2.0) == 1
    slots.free(1, at=5.0)
    assert slots.take(since=6.0) == 1  # the one before it had gone by then
    slots.free(1, at=7.0)
    assert slots.take(since=9.0) == 0
    slots.free(0, at=11.0)
    assert slots.take() == 0  # nobody knows since when


def test_times_that_overlap_without_end_do_not_take_numbers_without_end():
    slots = NumberSlots(limit=3)
    taken = []
    for _ in range(10):
        taken.append(slots.take(since=1.0))
        slots.free(taken[-1], at=9.0)
    assert taken == [0, 1, 2] + [3] * 7


def test_threads_that_are_numbered_on_and_on_share_a_few_labels():
    slots = LabelSlots()
    labels = set()
    for number in range(1000):
        label = slots.take(f"Thread-{number} (serve)")
        labels.add(label)
        slots.free(label)
    assert len(labels) == 8


def test_a_name_comes_back_to_its_label_and_two_at_once_get_two():
    slots = LabelSlots()
    assert [slots.take("main"), slots.take("main")] == ["main", "main-2"]
    slots.free("main", at=10.0)
    assert slots.take("main", since=5.0) == "main-3"  # it was there before the other had gone
    assert slots.take("main", since=10.0) == "main"
