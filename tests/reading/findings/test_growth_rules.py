"""The rules on tasks, timers and memory that grow, on statistics made in memory."""

from __future__ import annotations

import math
import re

import pytest

from tests.helpers.made_statistics import LOAD, WATCH, Made
from tests.helpers.made_troubles import feed_tasks, grown, task
from traceloop.reading.decoding.decoded import Decoded
from traceloop.reading.findings.model import NOTE
from traceloop.reading.findings.tasks import growth
from traceloop.reading.findings.trends import trends_of
from traceloop.reading.findings.verdict import verdict
from traceloop.record import layout


def test_leaked_tasks_are_found_after_all_were_cancelled_at_the_end():
    made = Made()
    cancelled = layout.OUTCOME_CANCELLED
    feed_tasks(made, [task(n, WATCH, n * 0.02, 60.0, cancelled) for n in range(2000)])
    found = made.one("task-leak")
    assert found.title == "Tasks of app/jobs.py:12 in Worker.watch are made and never end"
    assert "2,000 of them made by app.prices.parse" in found.evidence
    (per_hour,) = re.findall(r"about ([\d,]+) more each hour", found.harm)
    assert int(per_hour.replace(",", "")) > 100_000 and not per_hour.replace(",", "").rstrip("0")[2:]  # two digits


@pytest.mark.parametrize("life", [0.5, 10.0])
def test_many_tasks_that_end_are_no_leak(life):
    made = Made()
    feed_tasks(made, [task(n, WATCH, n * 0.02, n * 0.02 + life) for n in range(2000)])
    assert made.kinds() == []


def test_a_crowd_that_stays_is_no_leak():
    made = Made()
    feed_tasks(made, [task(n, WATCH, 0.5 + n * 1e-4, 100.0, layout.OUTCOME_CANCELLED) for n in range(2000)])
    assert made.kinds() == []


@pytest.mark.parametrize(
    ("series", "grown"),
    [
        ([10 * n for n in range(40)], 390),
        ([10 * n for n in range(40)] + [0], 390),
        ([0, 500] + [500] * 38, 0),
        ([n % 10 for n in range(40)], 0),
        ([min(n, 20) * 10 for n in range(80)], 0),
        ([], 0),
        ([1, 2, 3], 0),
    ],
)
def test_growth(series, grown):
    assert growth(series) == grown


def test_a_series_of_any_length_stays_bounded():
    made = Made()
    feed_tasks(made, [task(n, WATCH, n * 3600.0) for n in range(50)])
    trends = trends_of(made.loop)
    assert all(len(series) <= 128 for series in trends.series.values())
    assert max(trends.series[int(WATCH)]) >= 45


def test_a_task_of_one_step_is_alive_no_longer_than_its_step():
    made = Made()
    feed_tasks(made, [task(n, WATCH, n * 0.1, n * 0.1) for n in range(100)])
    assert set(trends_of(made.loop).series[int(WATCH)]) == {0}


def test_points_lie_where_they_do_however_the_record_is_cut():
    # Tasks of 1 s begin every 0.1 s, and a first one stays: ten or eleven are alive.
    tasks = [task(0, WATCH, 0.05), *(task(n, WATCH, n * 0.1, n * 0.1 + 1.0) for n in range(1, 200))]
    whole = Made()
    feed_tasks(whole, tasks)
    series = trends_of(whole.loop).series[int(WATCH)]
    assert len(series) > 60 and set(series[8:-8]) <= {10, 11, 12}
    for chunk_seconds in (0.1, 0.7, 5.0):
        made = Made()
        for number in range(int(21.0 / chunk_seconds) + 1):
            begin, end = number * chunk_seconds, (number + 1) * chunk_seconds
            decoded = Decoded(None)
            decoded.tasks = [each for each, _, _ in tasks if begin <= each.start < end]
            decoded.finished = [
                (each.ident, outcome, over, 0)
                for each, over, outcome in tasks
                if over is not None and begin <= over < end
            ]
            for part in made.loop.parts:
                part.feed(decoded)
        assert trends_of(made.loop).series[int(WATCH)] == series


def test_a_damaged_record_with_times_that_are_none():
    made = Made()
    feed_tasks(made, [task(1, WATCH, 1.0), task(2, WATCH, math.inf), task(3, WATCH, math.nan), task(4, WATCH, 1e300)])
    verdict(made.statistics)


def test_lost_tasks():
    made = Made()
    totals = made.loop.tasks._known.totals(int(WATCH))
    totals.count = 5
    assert made.kinds() == []
    totals.abandoned, totals.creators = 2, {int(LOAD): 5}
    found = made.one("lost-tasks")
    assert found.harm.startswith("2 of 5 tasks") and found.evidence == ("5 made by app.prices.load",)


def test_tasks_that_were_left_when_the_loop_stopped_are_a_note():
    made = Made()
    totals = made.loop.tasks._known.totals(int(WATCH))
    totals.count, totals.abandoned, totals.left = 5, 3, 3
    found = made.one("lost-tasks")
    assert (found.detail, found.severity) == ("left", NOTE)
    totals.abandoned = 4
    assert made.kinds() == [("lost-tasks", ""), ("lost-tasks", "left")]


def test_timer_leak_names_who_sets_them():
    made = Made()
    made.events(grown("timer", 0, 2500, top=[["app.prices.parse", 2400]], created=[["app.prices.load:35", 2400]]))
    found = made.one("timer-leak")
    assert found.title == "app/prices.py:35 in load sets more and more timers for app.prices.parse"
    assert found.cost_s == pytest.approx(10.0)


def test_memory_leak_names_the_line_where_it_was_traced():
    made = Made()
    made.events(grown("memory", 10_000, 90_000, unit="blocks"))
    assert "--memory-trace" in made.one("memory-leak").remedy
    more = {"top": [["/srv/shop/app/prices.py:35", 9_000_000]], "callbacks": [["app.prices.load", 9_000_000]]}
    made.events(grown("memory", 90_000, 200_000, unit="blocks", trace={"seconds": 15.0}, **more))
    found = made.one("memory-leak")
    assert found.title == "Memory grows: most of it is allocated at /srv/shop/app/prices.py:35"
    assert (found.who.function, found.who.line) == ("app.prices.load", 35)
