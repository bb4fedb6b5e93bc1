"""Of each rule that has a threshold: at half of it nothing is found, at double of it there is one finding."""

from __future__ import annotations

import pytest

from tests.helpers import made_troubles
from tests.helpers.made_statistics import WATCH, Made
from traceloop.reading.findings import thresholds as limits
from traceloop.reading.findings.verdict import verdict
from traceloop.reading.stalls.index import Congestion
from traceloop.reading.stalls.parts import stalls_of
from traceloop.record import layout

# What ``Made`` has observed, s.
OBSERVED = 100.0


def waiting_for_a_processor(made, times):
    made.waited((1.0, 0.0, 0.0, 0.0, 0), (99.0, 50.0, 50.0, times * limits.STARVED_SHARE * OBSERVED, 0))


def throttled(made, times):
    made.events({"kind": "throttled", "held": [[10.0, 11.0, 15, times * limits.THROTTLED_SHARE * OBSERVED]]})


def gil(made, times):
    made.loop.poll_delays.add_all([0.1] * round(times * 10 * limits.GIL_SHARE * OBSERVED))
    made.late("gil", times * 2 * limits.GIL_SHARE * OBSERVED)


def congested(made, times):
    made.ran("app.prices.parse", 100_000, 0.9)
    each = stalls_of(made.process).index.congestion[0] = Congestion()
    each.seconds = times * limits.CONGESTED_SHARE * OBSERVED
    each.iterations, each.longest, each.callbacks = round(each.seconds / 0.2), 0.3, 900


def saturated(made, times):
    made.loop.active_s, made.loop.idle_s = 95.0, 5.0
    made.ran("app.prices.load", 900, 85.0, times * limits.DELAY_P99)


def spinning(made, times):
    runs = round(times * limits.SPIN_RATE * OBSERVED)
    made.loop.active_s, made.loop.idle_s, made.loop.iterations = 99.5, 0.5, runs
    made.ran("app.jobs.Worker.watch", runs, runs * 1e-5)


def garbage(made, times):
    made.loop.active_s, made.loop.idle_s = 50.0, 50.0
    made.collected(*[times * limits.GC_LONGEST] * 5)


def executor(made, times):
    made_troubles.full_executor(made, seconds=times * limits.FULL_SHARE * OBSERVED)


def tasks(made, times):
    number = round(times * limits.LEAK_TASKS)
    made_troubles.feed_tasks(
        made, [made_troubles.task(n, WATCH, n * 0.2, 60.0, layout.OUTCOME_CANCELLED) for n in range(number)]
    )


RULES = {
    "processor-starved": waiting_for_a_processor,
    "container-throttled": throttled,
    "gil-contention": gil,
    "congested": congested,
    "loop-saturated": saturated,
    "spin": spinning,
    "gc-pauses": garbage,
    "executor-full": executor,
    "task-leak": tasks,
    "poll-late": lambda made, times: made.loop.poll_delays.add_all([times * limits.POLL_LATE_P99] * 200),
    "slow-peer": lambda made, times: made.counter(layout.W_PAUSED_SECONDS, times * limits.PAUSED_SHARE * OBSERVED),
    "connection-storm": lambda made, times: made.counter(layout.W_ACCEPTED, times * limits.STORM_RATE * OBSERVED),
    "cancelled-timers": lambda made, times: made.counter(layout.W_COMPACTIONS, times * limits.SWEEP_RATE * OBSERVED),
    "data-dropped": lambda made, times: made.process.count_records(0, 10_000, round(times * 10)),
}


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize(("times", "found"), [(0.5, False), (2.0, True)])
def test_half_and_double(kind, times, found):
    made = Made()
    RULES[kind](made, times)
    assert [each for each, _ in made.kinds()] == ([kind] if found else [])


@pytest.mark.parametrize(
    ("kind", "seconds"), [("deadlock", limits.DEADLOCK_SECONDS), ("waiting", limits.HELD_SECONDS)]
)
def test_half_and_double_of_a_wait_that_lasts(kind, seconds):
    for times, found in ((0.5, False), (2.0, True)):
        made = Made(active=1.0, idle=9.0)
        made_troubles.TROUBLES[kind](made)
        # They have waited since second 1.
        kinds = [each.kind for each in verdict(made.statistics, 1.0 + times * seconds).findings]
        assert kinds == ([kind] if found else []), times
