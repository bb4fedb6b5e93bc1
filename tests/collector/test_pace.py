"""How often the collector reads: by how fast the rings fill."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from traceloop.collector.pace import MAX_POLL_SECONDS, MIN_POLL_SECONDS, Pace
from traceloop.record import files, layout
from traceloop.recording.ring import FIRST_BYTES, Ring


def pause_after(seconds, *rings):
    """``rings``: their capacity in bytes, and records read."""
    now = [100.0]
    pace = Pace(clock=lambda: now[0])
    pace.count(
        SimpleNamespace(
            ring=SimpleNamespace(reader=SimpleNamespace(capacity=room)), decoded=SimpleNamespace(records=records)
        )
        for room, records in rings
    )
    now[0] += seconds
    return pace.pause()


@pytest.mark.parametrize(
    ("seconds", "rings", "pause"),
    [
        (0.2, (), MAX_POLL_SECONDS),
        (0.2, [(8 << 20, 100)], MAX_POLL_SECONDS),
        (0.1, [(8 << 20, 16_384)], 0.1),
        (0.1, [(8 << 20, 8_192), (8 << 20, 8_192)], 0.1),
        (0.2, [(8 << 20, 8_192)], 0.4),
        (0.2, [(8 << 20, 300_000)], MIN_POLL_SECONDS),
        # An eighth of a small ring.
        (0.1, [(192_000, 1_000)], 0.1),
        (0.0, [(0, 1)], MIN_POLL_SECONDS),
    ],
)
def test_a_poll_comes_when_an_eighth_of_a_ring_has_filled(seconds, rings, pause):
    assert pause_after(seconds, *rings) == pytest.approx(pause)


def test_a_ring_wakes_its_reader_at_each_quarter(tmp_path):
    woken = []
    ring = Ring(str(tmp_path / "ring"), layout.KIND_LOOP, 0, FIRST_BYTES, wake=lambda: woken.append(ring.records))
    for _ in range(400):
        ring.write([1.0, layout.R_MEMORY, 0.0] * 100, [], 1.0)
    # Four times a turn of the ring, which has 2,700 records, but for the batch with which each quarter ends.
    assert 40_000 / (FIRST_BYTES / 24 / 4) * 0.8 <= len(woken) <= 40_000 / (FIRST_BYTES / 24 / 4) + 1
    ring.close()


def test_to_wake_a_reader_that_is_not_there_does_nothing(tmp_path):
    files.wake_reader(str(tmp_path))
