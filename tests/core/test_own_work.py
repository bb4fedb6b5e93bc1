"""The loop's own work, where it is long: told as what it is, live and afterwards, and as nobody else's."""

from __future__ import annotations

import pytest

from tests.helpers.cores import CORES
from tests.helpers.made_statistics import Made
from tests.helpers.observed import observe, program
from traceloop.exporters.spans.own_work import own_work_span
from traceloop.exporters.text.report import report
from traceloop.reading.decoding.decoded import Decoded, Event, LoopInfo
from traceloop.reading.findings.verdict import verdict
from traceloop.reading.site_names import SiteNames
from traceloop.reading.statistics.own_work import own_work_of
from traceloop.record.sites import OWN_WORK, UNKNOWN_SITE

DUE = OWN_WORK[0].label

# As many timers as any machine needs more than a hundredth of a second for: the core in C some 0.04 s.
PROGRAM = """
async def main():
    gc.disable()
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 0.01
    def expire():
        pass
    due = loop.time()
    for n in range(150_000):
        loop.call_at(due - n, expire)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
run(main())
"""


@pytest.fixture(scope="module", params=sorted(CORES))
def seen(request, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("own_work")
    options = {"OTEL_PYTHON_TRACELOOP_CORE": request.param, "OTEL_PYTHON_TRACELOOP_RING_SIZE": "32M"}
    return observe(tmp_path, program(tmp_path, PROGRAM), **options)


def test_long_work_of_the_loop_itself_is_a_slow_callback_of_its_own(seen):
    both = {"callback": DUE, "culprit": DUE}
    assert seen.metric("asyncio_slow_callbacks_total", **both) == 1
    assert seen.metric("asyncio_slow_callback_time_seconds_total", **both) >= 0.01
    assert seen.metric("asyncio_slow_callbacks_total") == seen.metric("asyncio_eventloop_slow_callbacks_total")
    assert "the loop itself (timers that fell due)" in report(seen.statistics, width=200, full=True)


def test_its_time_is_no_callbacks_and_not_idle(seen):
    """No run of ``expire`` is as long as the move of all of them, and nobody polls meanwhile."""
    own = seen.loop.callbacks.slow[DUE, DUE].seconds
    assert seen.loop.active_s >= 0.99 * (own + sum(each.seconds for each in seen.loop.callbacks.callbacks.values()))


@pytest.mark.parametrize(
    ("number", "title"),
    [(0, "timers that fell due"), (1, "cancelled timers"), (2, "descriptors that became ready")],
)
def test_the_finding_says_how_many_there_were_and_the_span_does(number, title):
    case = Made()
    sites = case.process.sites = SiteNames([UNKNOWN_SITE, *OWN_WORK])
    decoded = Decoded(LoopInfo(1, "MainThread", 0.0))
    data = {"kind": "own_work", "ident": number + 1, "start": 5.0, "end": 5.4, "count": 300_000}
    decoded.events = [Event(5.4, 1, data)]
    case.process.feed(decoded, case.loop)
    (found,) = verdict(case.statistics, 10.0).findings
    assert found.title == f"The loop itself is held by {title}: 300,000 at once"
    assert found.harm == "400 ms once"
    span = own_work_span(decoded.events[0], sites, "MainThread", 0)
    assert span[0].name == OWN_WORK[number].label
    assert span[4:6] == (5_000_000_000, 5_400_000_000)
    assert span[-1].attributes == {"asyncio.eventloop.work.count": 300_000, "thread.name": "MainThread"}


DAMAGE = ({"ident": 77}, {"start": "x"}, {"end": 4.0}, {"count": -1}, {"start": float("nan")})


@pytest.mark.parametrize("change", DAMAGE)
def test_a_damaged_event_is_none(change):
    data = {"kind": "own_work", "ident": 1, "start": 5.0, "end": 5.4, "count": 3}
    sites = SiteNames([UNKNOWN_SITE, *OWN_WORK])
    assert own_work_of(data, sites) is not None
    assert own_work_of({**data, **change}, sites) is None
