"""The C core writes a batch straight into the ring. It must leave what Ring.write leaves, to the byte."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.cores import NATIVE
from traceloop.core.buffer import Record
from traceloop.record import layout
from traceloop.recording.ring import Ring

pytestmark = pytest.mark.skipif(NATIVE is None, reason="the C core was not built")

NAMES = ("", "Task-7", "download", "größer", "a\x1fb", "\ud800", -3, 2**70, 2**63 - 1)
CAPACITY = layout.MIN_CAPACITY

texts = st.lists(st.one_of(st.integers(0, 9), st.sampled_from(NAMES)), max_size=12)
#: Records, text, and how often the batch is written: small ones and such that have to be split, around the ring.
batches = st.lists(st.tuples(st.integers(0, 900), texts, st.integers(1, 9)), max_size=12)


class Side:
    """A ring and the record that is written into it."""

    def __init__(self, record: Any, may_grow: bool) -> None:
        self.record = record
        self.woken = 0
        self.ring = Ring(None, layout.KIND_LOOP, 0, 4 * CAPACITY, lambda size, more: may_grow, self._wake)
        self.at_once = 0

    def _wake(self) -> None:
        self.woken += 1

    def write(self, count: int, text: list[Any], now: float) -> None:
        for number in range(count):
            self.record.add(number + 0.5, layout.R_TASK if number < len(text) else 7.0, now)
        for item in text[:count]:
            self.record.add_text(item)
        if self.record.write_to(self.ring, now):
            self.at_once += 1
        else:
            self.ring.write(*self.record.take(), now)

    def left(self) -> tuple[Any, ...]:
        ring = self.ring
        state = ring._head, ring._sequence, ring._reserved, ring._wake_at, ring.records, ring.words.tolist()
        return *state, self.woken, len(self.record), list(self.record.text), bytes(ring._data)


@given(batches=batches, may_grow=st.booleans())
def test_what_is_left_is_the_same(batches, may_grow):
    sides = Side(NATIVE.Record(), may_grow), Side(Record(), may_grow)
    now = 1.0
    for count, text, times in batches:
        for _ in range(times):
            now += 1.0
            for side in sides:
                side.write(count, text, now)
    assert sides[0].left() == sides[1].left()


def test_the_plain_case_is_written_at_once():
    side = Side(NATIVE.Record(), True)
    for number in range(100):
        side.write(200, [5, 6, "name"], float(number + 1))
    # But where the ring grows, and where readers are woken: at each quarter of it.
    assert side.at_once > 80 and side.woken > 3


def test_a_ring_that_was_left_to_a_parent_is_not_written():
    side = Side(NATIVE.Record(), True)
    side.ring.leave()
    side.write(3, [], 1.0)
    assert not side.at_once and side.ring.records == 0 and not any(side.ring._data)


def test_a_ring_whose_words_are_too_few_is_not_written():
    side = Side(NATIVE.Record(), True)
    side.record.add(1.0, 7.0, 1.0)
    words = memoryview(bytearray(8 * layout.WORDS))
    for count in (0, 1, layout.W_RECORDS):
        side.ring.words = words[: 8 * count].cast("d")
        assert not side.record.write_to(side.ring, 1.0)
    side.ring.words = words[: 8 * (layout.W_RECORDS + 1)].cast("d")
    assert side.record.write_to(side.ring, 1.0) and side.ring.words[layout.W_RECORDS] == 1.0


def test_a_closed_ring_is_refused():
    side = Side(NATIVE.Record(), True)
    side.ring.close()
    with pytest.raises(ValueError, match="released"):
        side.write(3, [], 1.0)
