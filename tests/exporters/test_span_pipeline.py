"""The whole way from a ring's bytes to a request, with records that make sense and with ones that do not."""

import random
import time

import pytest

from tests.helpers.otlp_receiver import Receiver
from traceloop.exporters.span_pipeline import make_pipeline
from traceloop.reading.follower import ProcessFollower
from traceloop.reading.new_statistics import make_statistics
from traceloop.reading.site_names import SiteNames
from traceloop.record import layout
from traceloop.record.sites import Site
from traceloop.recording.ring import Ring
from traceloop.settings import Settings

KINDS = [value for name, value in vars(layout).items() if name.startswith("R_")]
ODD = (0.0, -1.0, 1e300, -1e300, float("inf"), float("nan"), 2.0**53, 65536.0, 1e-9)
GROWTH = '{"kind":"growth","heap":"timer","start":1e999,"end":1,"before":1,"after":2}'


class Way:
    def __init__(self, url):
        self.settings = Settings(otlp_endpoint=url)
        self.statistics = make_statistics(self.settings)
        self.pipeline = make_pipeline(self.settings, self.statistics, lambda line: None, {})
        self.ring = Ring(None, layout.KIND_LOOP, 0, 1 << 20)
        sites = SiteNames([Site("", "unknown", "", 0)] + [Site("app", f"f{n}", "/app.py", n) for n in range(1, 9)])
        self.follower = ProcessFollower(self.statistics, 1, sites, {"pid": 1})
        self.follower.add("loop-0.ring", self.ring.buffer)

    def write(self, records, text=()):
        self.ring.write(records, list(text), time.monotonic())
        self.pipeline.take(self.follower.read(), time.monotonic())

    def end(self):
        self.pipeline.take(self.follower.end(), time.monotonic())
        self.pipeline.end_process(self.follower)
        self.pipeline.shutdown(10)
        self.ring.close()


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


def test_runs_become_spans(receiver):
    way = Way(receiver.url)
    now = time.monotonic()
    records = [now, layout.R_LOOP, 1.0, now, layout.R_RUN, 0.0]
    for number in range(500):
        records += [now, layout.R_SPIN, now, now, float(1 + number % 8), 1.0]
        now += 1e-5
    way.write([*records, now, layout.R_END, 1.0], ["MainThread"])
    way.end()
    spans = receiver.spans()
    assert len(spans) == 500
    assert {span.name for span in spans} == {f"app.f{n}" for n in range(1, 9)}


@pytest.mark.parametrize("seed", range(6))
def test_no_records_crash_it(receiver, seed):
    generator = random.Random(seed)
    way = Way(receiver.url)
    for _ in range(60):
        records, text = [], []
        for _ in range(generator.randrange(1, 60)):
            ident = generator.choice((*KINDS, 3.0, 4.0, 65536.0 * 3 + 2, 2.0**53, 1e-9))
            sane = time.monotonic() + generator.random()
            records += [
                generator.choice((sane, sane, float(generator.randrange(5)), generator.choice(ODD))),
                ident,
                generator.choice((0.0, 1.0, float(generator.randrange(9)), layout.OUTCOME, generator.choice(ODD))),
            ]
            if ident in layout.TEXT_KINDS:
                text.append(generator.choice(("", "x", "{}", "a b c", GROWTH)))
        way.write(records, text)
    way.end()
    sent = way.pipeline.sinks[0].exported.sent
    assert len(receiver.spans()) == sent
