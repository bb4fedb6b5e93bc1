"""Rings grow as they fill, where they may; readers follow them byte for byte, and touch no memory that is not there."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traceloop.reading.decoding.ring_reader import RingReader
from traceloop.record import layout
from traceloop.recording.ring import FIRST_BYTES, Ring
from traceloop.recording.space import Space, _Group

CAPACITY = 1 << 20


def batch(number: int, records: int) -> list[float]:
    return [float(number), 5.0, 0.0] * records


def fill(ring: Ring, sizes: list[int]) -> None:
    for number, records in enumerate(sizes):
        ring.write(batch(number, records), [], float(number))


def test_a_ring_that_is_little_used_takes_little_memory(tmp_path):
    ring = Ring(str(tmp_path / "ring"), layout.KIND_LOOP, 0, 8 << 20)
    fill(ring, [3] * 10)
    assert os.stat(ring.path).st_blocks * 512 <= layout.DATA_OFFSET + FIRST_BYTES + 4096
    assert ring.size == layout.DATA_OFFSET + FIRST_BYTES


def test_a_ring_grows_to_its_capacity_and_loses_nothing(tmp_path):
    ring = Ring(str(tmp_path / "ring"), layout.KIND_LOOP, 0, CAPACITY)
    reader = RingReader(ring.path)
    sizes = [400] * (CAPACITY // 24 // 400 - 5)
    fill(ring, sizes)
    assert ring.size == layout.DATA_OFFSET + CAPACITY
    assert [len(each.records) // 3 for each in reader.read(limit=1 << 30)] == sizes
    assert reader.dropped == 0


@settings(max_examples=60)
@given(
    steps=st.lists(st.tuples(st.integers(1, 900), st.booleans()), min_size=1, max_size=120),
    allowed=st.integers(FIRST_BYTES, CAPACITY),
)
def test_where_a_ring_may_not_grow_it_starts_over_and_every_record_is_read_or_counted(steps, allowed):
    ring = Ring(None, layout.KIND_LOOP, 0, CAPACITY, lambda size, more: size <= allowed)
    reader = RingReader(ring.buffer)
    written = 0
    read: list[float] = []
    for number, (records, look) in enumerate(steps):
        ring.write(batch(number, records), [], 0.0)
        written += records
        if look:
            for each in reader.read(limit=1 << 30):
                read += each.records[::3]
    for each in reader.read(final=True, limit=1 << 30):
        read += each.records[::3]
    assert ring.size <= layout.DATA_OFFSET + max(allowed, FIRST_BYTES)
    assert len(read) + reader.dropped == written
    assert read == sorted(read)


def test_a_reader_that_lost_its_place_takes_no_memory_by_looking(tmp_path):
    ring = Ring(str(tmp_path / "ring"), layout.KIND_LOOP, 0, 8 << 20, lambda size, more: False)
    reader = RingReader(ring.path)
    fill(ring, [500] * 400)  # around many times
    before = os.stat(ring.path).st_blocks
    assert reader.read(limit=1 << 30)
    assert reader.dropped
    assert os.stat(ring.path).st_blocks == before


def test_a_ring_asks_for_more_again_after_a_while(monkeypatch):
    answers = iter([False, True, True])
    asked = []

    def may_grow(size: int, more: int) -> bool:
        asked.append((size, more))
        return next(answers)

    clock = [1000.0]
    monkeypatch.setattr("traceloop.recording.ring.time.monotonic", lambda: clock[0])
    ring = Ring(None, layout.KIND_LOOP, 0, CAPACITY, may_grow)
    fill(ring, [600] * 20)
    assert asked == [(2 * FIRST_BYTES, FIRST_BYTES)]
    clock[0] += 60.0
    fill(ring, [600] * 12)
    assert asked[1:] and ring.capacity > FIRST_BYTES


def test_rings_of_a_run_leave_half_of_what_is_free(tmp_path, monkeypatch):
    """Twenty processes that all take what they may, in a file system of 64 MB."""
    size, mib = 64 << 20, 1 << 20
    rings: list[int] = []
    space = Space(str(tmp_path))
    monkeypatch.setattr(space, "_in_memory", lambda used: float("inf"))
    monkeypatch.setattr(space, "_used", lambda: sum(rings))
    monkeypatch.setattr(space, "_in_file_system", lambda used, share: share * size)
    for _ in range(20):
        assert space.allows(FIRST_BYTES, FIRST_BYTES, 0), "a process that comes late gets something too"
        rings.append(FIRST_BYTES)
        while rings[-1] < 8 * mib and space.allows(rings[-1] + FIRST_BYTES, FIRST_BYTES, 0):
            rings[-1] += FIRST_BYTES
    assert rings[0] == 8 * mib
    assert sum(rings) <= size / 2
    assert rings == sorted(rings, reverse=True)
    assert rings[5] <= 2 * mib


@pytest.mark.parametrize(
    ("limit", "usage", "stat", "prefix", "available"),
    [
        ("max", "5", "", "", float("inf")),
        ("1000000", "400000", "inactive_file 100000\nactive_file 50000\nshmem 7\n", "", 750000),
        ("1000", "4000", "", "", 0),
        ("9223372036854771712", "5", "", "total_", float("inf")),
        ("1000000", "400000", "inactive_file 1\ntotal_inactive_file 2\n", "total_", 600002),
    ],
)
def test_what_a_control_group_leaves(tmp_path, limit, usage, stat, prefix, available):
    (tmp_path / "limit").write_text(limit + "\n")
    (tmp_path / "usage").write_text(usage + "\n")
    (tmp_path / "memory.stat").write_text(stat)
    assert _Group(str(tmp_path), "limit", "usage", prefix).available() == available


def test_memory_of_the_machine_is_known_here():
    assert 0 < Space(None)._in_memory(0) < float("inf")


def test_a_ring_is_mapped_smaller_where_the_address_space_is_limited(monkeypatch):
    resource = pytest.importorskip("resource")
    space = Space(None)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (512 << 20, 512 << 20))
    assert space.mappable(8 << 20, 0) == 8 << 20
    assert space.mappable(8 << 20, 60 << 20) == 1 << 20
    assert space.mappable(8 << 20, 100 << 20) == 0
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, 0))
    assert space.mappable(8 << 20, 1 << 40) == 8 << 20


@pytest.mark.parametrize("character", ["x", "\U0001f600", "\ud800"], ids=["ascii", "emoji", "surrogate"])
def test_long_names_are_written_where_a_ring_may_not_grow(character):
    ring = Ring(None, layout.KIND_LOOP, 0, CAPACITY, lambda size, more: False)
    reader = RingReader(ring.buffer)
    names = [character * 3000] * 4
    ring.write([value for number in range(4) for value in (float(number), layout.R_LOOP, 1.0)], names, 0.0)
    records = [value for each in reader.read(final=True, limit=1 << 30) for value in each.records[::3]]
    assert records == [0.0, 1.0, 2.0, 3.0]
    assert reader.dropped == 0
