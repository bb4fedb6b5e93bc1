"""A slow run is counted once its culprit is known: its stack may be written a moment after its own record was read."""

import json
import time

import pytest

from tests.helpers.waiting import until
from traceloop.core.site_of import site_of
from traceloop.reading.follower import PrivateFollower
from traceloop.reading.stalls import parts as stall_statistics
from traceloop.reading.statistics.run import Statistics
from traceloop.record import layout
from traceloop.recording.process import Process
from traceloop.settings import Settings


def handler():
    pass


class Recorded:
    """A process with one slow run in its record, of which nobody has said anything yet."""

    def __init__(self):
        self.process = Process(Settings(ring_size=1 << 20))
        site = float(self.process.site_log.number(site_of(handler)))
        self.end = time.monotonic()
        self.start = start = self.end - 0.3
        ring = self.process.take_ring()
        ring.words[layout.W_OPEN] = ring.words[layout.W_LOOP] = 1.0
        ring.words[layout.W_THRESHOLD] = 0.1
        records = [start - 1, layout.R_LOOP, 1.0, start - 1, layout.R_RUN, 1.0, start, site, 0.0]
        ring.write([*records, self.end, layout.R_POLL, -1.0], ["MainThread"], self.end)
        self.looked(start)
        self.statistics = Statistics()
        stall_statistics.add_to(self.statistics)
        self.follower = PrivateFollower(self.statistics, self.process)

    def looked(self, when):
        """The watchdog's last turn that is over began then."""
        self.process.open_process_ring().words[layout.W_LOOKED] = when

    def say_stack(self):
        event = {"kind": "stack", "ring": 0, "run": self.start, "at": self.end, "ident": 1.0, "culprit": "app.guilty"}
        event |= {"callback": "app.handler", "suppressed": 0, "before": None, "samples": [], "frames": [], "ready": 0}
        self.process.process_write([self.end, layout.R_EVENT, 1.0], [json.dumps(event)], self.end)

    def counted(self):
        """Culprits of the slow runs that a scrape shows."""
        self.follower.read()
        found = []
        for name, labels, value in self.statistics.samples():
            if name == "asyncio_slow_callbacks_total":
                found += [dict(labels)["culprit"]] * int(value)
            if name == "asyncio_slow_callback_time_seconds_total":
                assert value == pytest.approx(0.3, abs=1e-3)
        return found


def test_a_stack_that_comes_after_its_run():
    recorded = Recorded()
    assert recorded.counted() == []
    recorded.say_stack()
    assert until(recorded.counted) == ["app.guilty"]  # not at once: another one may be on its way, in other code
    assert recorded.counted() == ["app.guilty"]


def test_a_watchdog_that_has_nothing_to_say():
    recorded = Recorded()
    assert recorded.counted() == []
    recorded.looked(time.monotonic())
    assert recorded.counted() == ["unknown"]


def test_a_watchdog_that_is_gone():
    recorded = Recorded()
    assert until(recorded.counted) == ["unknown"]


def test_a_process_that_has_ended():
    recorded = Recorded()
    assert recorded.counted() == []
    recorded.say_stack()
    recorded.follower.end()
    (loop,) = recorded.statistics.processes[0].loops.values()
    assert [culprit for _, culprit in loop.callbacks.slow] == ["app.guilty"]
