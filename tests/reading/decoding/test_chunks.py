"""A reader that is far behind holds a chunk of the record, not all of it."""

from __future__ import annotations

import pytest

from traceloop.reading.follower import ProcessFollower
from traceloop.reading.new_statistics import new_statistics
from traceloop.reading.site_names import SiteNames
from traceloop.record import layout
from traceloop.record.sites import Site
from traceloop.recording.ring import Ring

RUNS = 40_000


@pytest.mark.parametrize("final", [False, True])
def test_a_backlog_comes_a_chunk_at_a_time(final):
    ring = Ring(None, layout.KIND_LOOP, 0, 8 << 20)
    statistics = new_statistics()
    follower = ProcessFollower(statistics, 1, SiteNames([Site("", "?", "", 0), Site("app", "f", "/app.py", 1)]), {})
    follower.add("loop-0.ring", ring.buffer)
    now = 1000.0
    ring.write([now, layout.R_LOOP, 1.0, now, layout.R_RUN, 0.0], ["MainThread"], now)
    for _ in range(RUNS // 500):
        records = [now, layout.R_SPIN, now]
        for left in range(500, 0, -1):
            records += [now, 1.0, float(left % 2)]
            now += 1e-5
        ring.write(records, [], now)
    ring.write([now, layout.R_END, 1.0], [], now)
    sizes = [sum(len(chunk.decoded.runs) for chunk in chunks) for chunks in follower.chunks(final=final)]
    assert max(sizes) < RUNS / 3 and len(sizes) > 3
    assert sum(sizes) == RUNS
    (loop,) = statistics.loops()
    assert loop.callbacks.runs == RUNS
    assert not any(follower.chunks(final=final))
    for each in follower.rings.values():
        each.reader.close()
    ring.close()
