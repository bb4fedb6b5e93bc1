"""The ring between a writer that never waits and a reader that is slow, late, or looks at damage."""

from __future__ import annotations

import math
import mmap
import os
import random
import struct
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traceloop.reading.decoding import ring_reader
from traceloop.reading.decoding.choose import native
from traceloop.reading.decoding.ring_reader import RingError, RingReader
from traceloop.reading.decoding.stream import LoopStream
from traceloop.record import layout
from traceloop.recording.ring import Ring


def make_ring(path=None, capacity=layout.MIN_CAPACITY):
    return Ring(path, layout.KIND_LOOP, 0, capacity)


def runs(first, count):
    """Records of ``count`` handle runs that carry their own number."""
    records = []
    for number in range(first, first + count):
        records += (float(number), 1.0, 0.0)
    return records


def numbers(batches):
    return [int(value) for batch in batches for value in batch.records[::3]]


def test_what_is_written_is_read_in_order_with_its_text():
    ring = make_ring()
    reader = RingReader(ring.buffer)
    assert reader.read() == []
    ring.write([5.0, layout.R_TASK, 1.0], ["a name\x1f"], 1.5)
    ring.write(runs(1, 3), [], 2.5)
    first, second = reader.read()
    assert layout.unpack_text(first.text) == ["a name?"] and first.written_at == 1.5 and not first.gap
    assert numbers([second]) == [1, 2, 3] and second.records_before == 1
    assert reader.read() == []
    assert (reader.records, reader.dropped) == (4, 0)


def test_a_file_is_followed_while_it_grows(tmp_path):
    path = str(tmp_path / "loop-0.ring")
    ring = make_ring(path)
    reader = RingReader(path)
    for start in range(0, 20_000, 100):
        ring.write(runs(start, 100), [], 0.0)
        assert numbers(reader.read()) == list(range(start, start + 100))
    assert reader.dropped == 0
    assert reader.word(layout.W_RECORDS) == 20_000
    reader.close()
    assert reader.read() == [] and reader.words() == []
    ring.close()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 700), st.booleans(), st.integers(0, 300)), max_size=60))
def test_overwriting_drops_the_oldest_and_counts_them_exactly(steps):
    """Whatever the sizes and however seldom the reader comes: read and dropped add up, and nothing is out of order."""
    ring = make_ring()
    reader = RingReader(ring.buffer)
    written = 0
    got = []
    for count, read, text in steps:
        ring.write(runs(written, count), ["x" * text] if text else [], 0.0)
        written += count
        if read:
            batches = reader.read()
            got += numbers(batches)
            assert reader.records + reader.dropped == written
            assert len(got) == reader.records
    got += numbers(reader.read(final=True))
    assert reader.records + reader.dropped == written
    assert got == sorted(set(got))
    assert set(got) <= set(range(written))
    if written:
        assert got[-1] == written - 1


def test_a_reader_that_comes_late_counts_what_it_missed():
    ring = make_ring()
    for start in range(0, 10_000, 100):
        ring.write(runs(start, 100), [], 0.0)
    reader = RingReader(ring.buffer)
    batches = reader.read()
    assert batches[0].gap and batches[0].dropped == batches[0].records_before > 0
    assert not any(batch.gap for batch in batches[1:])
    assert numbers(batches) == list(range(batches[0].dropped, 10_000))


@pytest.mark.parametrize("window", [16, 4096])
def test_a_search_goes_on_where_its_window_ends(monkeypatch, window):
    monkeypatch.setattr(ring_reader, "_WINDOW", window)
    test_a_reader_that_comes_late_counts_what_it_missed()


def test_a_search_never_looks_behind_the_mapping():
    """Up to 3.11.4 ``mmap.find`` looks at one byte more, which ended the collector (CPython gh-105235)."""

    class Guarded(mmap.mmap):
        def find(self, *arguments):
            raise AssertionError("mmap.find was called")

    ring = make_ring()
    for start in range(0, 10_000, 100):
        ring.write(runs(start, 100), [], 0.0)
    copy = Guarded(-1, len(ring.buffer))
    copy[:] = ring.buffer[:]
    reader = RingReader(copy)
    assert numbers(reader.read())[-1] == 9_999
    reader.close()


def test_the_ring_holds_nearly_its_capacity():
    ring = make_ring()
    for start in range(0, 50_000, 100):
        ring.write(runs(start, 100), [], 0.0)
    reader = RingReader(ring.buffer)
    reader.read()
    assert reader.records * 24 > layout.MIN_CAPACITY * 0.9


def test_a_batch_is_damaged_and_the_next_ones_are_read():
    ring = make_ring()
    reader = RingReader(ring.buffer)
    for start in range(0, 300, 100):
        ring.write(runs(start, 100), [], 0.0)
    ring.buffer[layout.DATA_OFFSET + 200] ^= 0xFF
    for _ in range(5):  # it may be unfinished: only after some looks is it given up
        batches = reader.read()
        if batches:
            break
    assert numbers(batches) == list(range(100, 300))
    assert reader.dropped == 100 and batches[0].gap


def test_a_batch_that_is_not_all_there_yet_is_waited_for():
    ring = make_ring()
    reader = RingReader(ring.buffer)
    ring.write(runs(0, 100), [], 0.0)
    spot = layout.DATA_OFFSET + 200
    ring.buffer[spot] ^= 0xFF
    assert reader.read() == []
    ring.buffer[spot] ^= 0xFF
    assert numbers(reader.read()) == list(range(100))
    assert reader.dropped == 0


def test_the_end_of_a_crashed_ring_is_counted_even_where_it_cannot_be_read():
    ring = make_ring()
    ring.write(runs(0, 100), [], 0.0)
    ring.write(runs(100, 50), [], 0.0)
    at = layout.DATA_OFFSET + layout.BATCH.size + 2400 + 8
    ring.buffer[at + 100] ^= 0xFF
    reader = RingReader(ring.buffer)
    assert numbers(reader.read(final=True)) == list(range(100))
    assert reader.dropped == 50


def header(magic=layout.MAGIC, version=layout.VERSION, kind=layout.KIND_LOOP, capacity=layout.MIN_CAPACITY):
    return layout.HEADER.pack(magic, version, kind, capacity, 1, 0, 1, 1, 1)


SIZE = layout.DATA_OFFSET + layout.MIN_CAPACITY


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short"),
        (header(), "too short"),
        (bytes(SIZE), "not a ring"),
        (header(version=layout.VERSION + 1).ljust(SIZE, b"\0"), f"version {layout.VERSION + 1}"),
        (header(kind=9).ljust(SIZE, b"\0"), "unknown kind"),
        (header(capacity=1 << 40).ljust(SIZE, b"\0"), "do not fit"),
        (header(capacity=12345).ljust(SIZE, b"\0"), "do not fit"),
    ],
)
def test_what_is_no_ring_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "x.ring"
    path.write_bytes(content)
    with pytest.raises(RingError, match=message) as caught:
        RingReader(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=60)
@given(st.data())
def test_no_bytes_crash_or_hang_a_reader(data):
    """Damage at random places of a ring in use, the words that say where the head is among them."""
    ring = make_ring()
    reader = RingReader(ring.buffer)
    stream = LoopStream()
    written = 0
    for _ in range(data.draw(st.integers(1, 6))):
        for _ in range(data.draw(st.integers(0, 12))):
            count = data.draw(st.integers(0, 400))
            ring.write(runs(written, count), [], 0.0)
            written += count
        for _ in range(data.draw(st.integers(0, 5))):
            place = data.draw(st.integers(layout.WORDS_OFFSET, SIZE - 8))
            ring.buffer[place : place + 8] = data.draw(st.binary(min_size=8, max_size=8))
        if data.draw(st.booleans()):
            ring.words[layout.W_HEAD] = data.draw(st.floats())
        stream.feed(reader.read(final=data.draw(st.booleans())))
    stream.finish()


KINDS = [getattr(layout, name) for name in dir(layout) if name.startswith("R_")]
DOUBLES = st.one_of(st.floats(), st.integers(-5, 5).map(float), st.sampled_from([1e300, -1e300, 2.0**53, 1e15]))
TRIPLES = st.lists(st.tuples(DOUBLES, st.one_of(st.sampled_from(KINDS), DOUBLES), DOUBLES), max_size=40)


@settings(max_examples=150)
@given(st.lists(st.tuples(TRIPLES, st.lists(st.text(max_size=20), max_size=4), DOUBLES), max_size=6))
def test_no_records_crash_or_hang_a_decoder(parts):
    """Batches with a right checksum and senseless contents."""
    ring = make_ring()
    reader = RingReader(ring.buffer)
    stream = LoopStream()
    runs_read = 0
    for triples, text, now in parts:
        ring.write([value for triple in triples for value in triple], text, now)
        for decoded in stream.feed(reader.read()):
            assert all(len(run) == 10 for run in decoded.runs)
            runs_read += len(decoded.runs)
        assert runs_read <= sum(len(triples) for triples, _, _ in parts)
    stream.finish()


def test_a_ring_that_is_cut_short_under_its_reader_ends_nobody(tmp_path):
    """Mapped, it would: by SIGBUS."""
    ring = make_ring(str(tmp_path / "loop-0.ring"))
    for start in range(0, 1000, 100):
        ring.write(runs(start, 100), [], 0.0)
    reader = RingReader(tmp_path / "loop-0.ring")
    assert numbers(reader.read(limit=100)) == list(range(100))
    os.truncate(tmp_path / "loop-0.ring", layout.DATA_OFFSET + 4096)
    for _ in range(5):
        reader.read(final=True)
    os.truncate(tmp_path / "loop-0.ring", 100)
    assert reader.read(final=True) == [] and reader.words() == [] and reader.owner() is None
    assert reader.word(layout.W_HEAD) == 0.0
    reader.close()
    assert math.isnan(reader.word(layout.W_HEAD))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, -1e300, 2.0**53])
def test_a_word_that_no_writer_writes_is_none(value):
    ring = make_ring()
    reader = RingReader(ring.buffer)
    ring.words[layout.W_TIMERS] = 5.0
    for index in (layout.W_TASKS_CREATED, layout.W_RUNNING, layout.W_HEAD):
        ring.words[index] = value
        assert reader.word(index) == reader.words()[index] == 0.0
    assert reader.words()[layout.W_TIMERS] == 5.0
    ring.words[layout.W_THRESHOLD] = math.inf  # nothing is slow
    assert reader.word(layout.W_THRESHOLD) == reader.words()[layout.W_THRESHOLD] == math.inf


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, -1e300, 2.0**63])
def test_a_record_that_is_no_number_is_passed_over_and_the_others_are_read(value, native):
    """A program may set a timer for NaN. And a forged time, in nanoseconds, would be more than there are numbers."""
    ring = make_ring()
    ring.write([*runs(0, 5), value, layout.R_TIMER, 0.0, *runs(5, 5)], [], 0.0)
    reader = RingReader(ring.buffer)
    if not native:
        reader._in_range = None
    assert numbers(reader.read()) == list(range(10))


def test_both_checksums_are_the_same():
    checksum = getattr(native(), "checksum", None)
    if checksum is None:
        pytest.skip("the reader's extension is not there")
    data = random.Random(3).randbytes(1000)
    for start in range(20):
        for end in range(start, 1000, 7):
            part = memoryview(data)[start:end]
            assert checksum(part) == zlib.crc32(part)


def test_many_false_heads_are_given_up_soon(tmp_path):
    """A ring that is nothing but what looks like the heads of large batches."""
    size = 64 << 20
    path = tmp_path / "loop-0.ring"
    head = layout.BATCH.pack(layout.BATCH_MAGIC, 1, 1 << 40, (size // 4 - 64) // 24 * 3, 0, 0, 1.0)
    assert len(head) <= 48
    with open(path, "wb") as file:
        file.write(header(capacity=size).ljust(layout.WORDS_OFFSET, b"\0"))
        file.write(struct.pack("<d", float(size)).ljust(layout.DATA_OFFSET - layout.WORDS_OFFSET, b"\0"))
        file.write(head.ljust(48, b"\0") * (size // 48))
        file.truncate(layout.DATA_OFFSET + size)
    reader = RingReader(path)
    begun = time.process_time()
    assert reader.read(final=True) == []
    assert time.process_time() - begun < 20
    assert reader.behind == 0
