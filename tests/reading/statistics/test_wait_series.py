"""Waits as series: bounded, never falling, and with the waits that still last."""

import json

from traceloop.reading.decoding.decoded import Standing
from traceloop.reading.site_names import SiteNames
from traceloop.reading.statistics.labels import BoundedLabels
from traceloop.reading.statistics.wait_series import PLACE_LIMIT, WaitSeries
from traceloop.reading.statistics.waits import Waits
from traceloop.record.layout import SITE_LIMIT
from traceloop.record.sites import Site

SITES = SiteNames([Site("", "", "", 0), Site("app", "work", "/srv/app.py", 3)])


class Loop:
    """What a loop's tasks say of those that stand: as ``TaskStatistics.standing`` does."""

    def __init__(self, standing):
        self.tasks = self
        self._standing = standing

    def standing(self):
        return iter(self._standing)


def series(standing=()):
    waits = Waits()
    for number in range(1, 300):
        frames = [("/srv/app.py", number, "app", f"f{number}")]
        waits.chains.define(number, json.dumps([frames, "_asyncio.Future"]))
    return waits, WaitSeries(waits, lambda: [Loop(standing)], lambda: SITES, BoundedLabels(200))


def values(found, name):
    return {dict(sample.labels)["site"]: sample.value for sample in found.metrics() if sample.name == name}


def wait(waits, chain, seconds, ident=SITE_LIMIT + 1.0):
    waits.look([Standing(10.0, ident, chain)], 1.0)
    waits.step(ident, 9.0, 9.0 + seconds)


def test_waits_that_are_over_and_waits_that_last():
    waits, found = series([(1, 2, 100.0), (1, 2, 101.0)])
    wait(waits, 1, 5.0)
    found_now = {each.place.line: each for each in found.most(103.0)}
    assert (found_now[1].seconds, found_now[1].waits, found_now[1].now) == (5.0, 1, 0)
    assert (found_now[2].seconds, found_now[2].waits, found_now[2].now) == (5.0, 2, 2)
    assert [each.seconds for each in found.most(103.0, running=False)] == [5.0]


def test_a_wait_too_short_to_be_exact_is_not_counted_before_it_is_over():
    _, found = series([(1, 2, 100.0)])
    (each,) = found.most(100.5)
    assert (each.seconds, each.now) == (0.0, 1)


def test_sites_are_bounded_and_nothing_is_lost():
    waits, found = series()
    for chain in range(1, 300):
        wait(waits, chain, 2.0)
    seconds = values(found, "asyncio_task_waiting_seconds_total")
    assert len(seconds) == PLACE_LIMIT + 1
    assert sum(seconds.values()) == 2.0 * 299


def test_counters_go_on_when_the_slot_has_another_process():
    waits, found = series()
    wait(waits, 1, 4.0)
    before = values(found, "asyncio_task_waiting_seconds_total")
    found.new_process()
    waits.new_process()
    assert values(found, "asyncio_task_waiting_seconds_total") == before == {"app.f1:1 a future": 4.0}
    waits.chains.define(1, json.dumps([[("/srv/app.py", 1, "app", "f1")], "_asyncio.Future"]))
    wait(waits, 1, 3.0)
    assert values(found, "asyncio_task_waiting_seconds_total") == {"app.f1:1 a future": 7.0}
    assert set(values(found, "asyncio_task_waiting").values()) == {0}
