"""What is counted by list is what counting run by run would say."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceloop.reading.decoding.decoded import KINDS, TASK, Decoded
from traceloop.reading.decoding.runs import RunRows
from traceloop.reading.site_names import SiteNames
from traceloop.reading.statistics.callbacks import CallbackStatistics
from traceloop.reading.statistics.histograms import Histogram
from traceloop.reading.statistics.labels import BoundedLabels
from traceloop.record.layout import SITE_LIMIT
from traceloop.record.sites import Site

# start, length, site, number of the task (0: none), kind, delay
RUNS = st.lists(
    st.tuples(
        st.floats(1000.0, 1001.0),
        st.one_of(st.floats(0.0, 1e-3), st.floats(0.0, 2.0)),
        st.integers(1, 6),
        st.integers(0, 3),
        st.sampled_from([kind for kind in KINDS if kind != TASK]),
        st.one_of(st.just(-1.0), st.floats(0.0, 0.2)),
    ),
    max_size=60,
)


def statistics_of(chunks):
    sites = SiteNames([Site("application", f"callback_{number}", "/srv/application.py", 1) for number in range(8)])
    statistics = CallbackStatistics(sites, BoundedLabels(5), BoundedLabels(5), lambda label, threshold: threshold)
    for chunk in chunks:
        decoded = Decoded(None)
        decoded.runs = RunRows(chunk)
        statistics.feed(decoded)
        if chunk:
            assert decoded.longest_s == max(run[2] - run[1] for run in chunk)
    return statistics


@given(RUNS, st.integers(1, 20))
def test_chunks_of_any_length_count_the_same(drawn, size):
    runs = []
    for number, (start, length, site, task, kind, delay) in enumerate(drawn, 1):
        ident = float(site + SITE_LIMIT * task)
        runs.append((number, start, start + length, ident, TASK if task else kind, delay, 0, 0, number // 3, 0))
    found = statistics_of([runs[first : first + size] for first in range(0, len(runs), size)])
    assert found.runs == len(runs)
    assert found.slow_runs == sum(run[2] - run[1] >= 0.1 for run in runs)
    for kind in KINDS:
        for family, values in (
            (found.durations, [run[2] - run[1] for run in runs if run[4] == kind]),
            (found.delays, [run[5] for run in runs if run[4] == kind and run[5] >= 0.0]),
        ):
            single = Histogram()
            for value in values:
                single.add(value)
            histogram = family.get(kind, Histogram())
            assert histogram.counts == single.counts and histogram.maximum == single.maximum
            assert histogram.minimum == single.minimum
            assert histogram.sum == pytest.approx(single.sum)
    by_site = Counter(int(run[3]) % SITE_LIMIT for run in runs)
    assert sorted(by_site.values()) == sorted(totals.runs for totals in found.callbacks.values() if totals.runs) or (
        len(by_site) > 5 and sum(totals.runs for totals in found.callbacks.values()) == len(runs)
    )
    assert math.fsum(totals.seconds for totals in found.callbacks.values()) == pytest.approx(
        math.fsum(run[2] - run[1] for run in runs)
    )
    assert max((totals.longest_s for totals in found.callbacks.values()), default=0.0) == max(
        (run[2] - run[1] for run in runs), default=0.0
    )
