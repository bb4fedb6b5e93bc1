"""Following a ring: from the bytes of a mapped file, or of private memory, to whole batches.

The writer never waits for a reader, so everything here is doubted: a batch is copied first and checked afterwards
(magic number, lengths, checksum, sequence number), and what does not check is either still being written, overwritten,
or damaged. No bytes make a reader raise or loop once it was opened; what it could not read it counts, exactly, since
every batch says how many records were written before it.
"""

from __future__ import annotations

import mmap
import os
import zlib
from typing import Any, NamedTuple

from ...record import layout
from ...record.text import printable
from .decoded import LoopInfo

_PATTERN = layout.BATCH_MAGIC.to_bytes(4, "little")
_HEAD_SIZE = layout.BATCH.size
_ALIGN = layout.BATCH_ALIGN
# Bytes that are searched at a time, in a copy: up to 3.11.4 ``mmap.find`` also looks at the byte behind the mapping,
# where the process ends if nothing is mapped there (CPython gh-105235). Batches begin at multiples of _ALIGN, so none
# begins in one window and ends its magic number in the next.
_WINDOW = 1 << 16
# A batch whose bytes are not all visible yet (the word that announces it may be, on Arm) is asked for again at the
# next reads, this often, before it counts as damaged.
_PATIENCE = 3


class RingError(Exception):
    """These bytes are no ring that this version can read; the text says why, in one line."""


class Batch(NamedTuple):
    """One batch of records.

    records: doubles, three for each record. text: the items that some of them own, in order.
    records_before: records written before this batch, ever. written_at: the writer's clock, s.
    dropped: records that were overwritten or damaged between the batch read before and this one.
    gap: this batch does not follow on the one read before, so what is known of the queue does not hold.
    doubles: the records as they lie in memory, a third of what the list takes; None where they are not at hand.
    """

    sequence: int
    records: list[float]
    text: list[str]
    records_before: int
    written_at: float
    dropped: int
    gap: bool
    doubles: memoryview[float] | None = None


class RingReader:
    """Reads one ring from its oldest whole batch on. For one thread; any number of readers may follow one ring.

    ``source``: a path, or a buffer such as ``Ring.buffer``. Raises RingError for what is no ring of this version,
    OSError where the file cannot be opened.
    """

    def __init__(self, source: str | os.PathLike[str] | mmap.mmap | bytes | bytearray | memoryview) -> None:
        self._map: mmap.mmap | None = None
        buffer: Any
        if isinstance(source, str | os.PathLike):
            self.path: str | None = os.fspath(source)
            with open(source, "rb") as file:
                if os.fstat(file.fileno()).st_size < layout.DATA_OFFSET + layout.MIN_CAPACITY:
                    raise RingError(f"{self.path}: too short for a ring")
                buffer = self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        else:
            self.path = None
            buffer = source
        try:
            self._open(buffer)
        except BaseException:
            self.close()
            raise

    _view: memoryview | None = None
    _words: memoryview[float] | None = None
    _data: memoryview | None = None

    def _open(self, buffer: Any) -> None:
        name = self.path or "private ring"
        self._view = view = memoryview(buffer)
        if len(view) < layout.DATA_OFFSET + layout.MIN_CAPACITY:
            raise RingError(f"{name}: too short for a ring")
        header = layout.HEADER.unpack_from(view, 0)
        magic, version, self.kind, capacity, self.pid, self.number, self.start_ticks, mono, real = header
        if magic != layout.MAGIC:
            raise RingError(f"{name}: not a ring (it does not begin with {layout.MAGIC.decode()})")
        if version != layout.VERSION:
            raise RingError(f"{name}: a ring of version {version}; this traceloop reads version {layout.VERSION}")
        if self.kind not in (layout.KIND_LOOP, layout.KIND_PROCESS):
            raise RingError(f"{name}: a ring of unknown kind {self.kind}")
        if capacity % 4096 or not layout.MIN_CAPACITY <= capacity <= len(view) - layout.DATA_OFFSET:
            raise RingError(f"{name}: {capacity} bytes of data do not fit into a file of {len(view)}")
        #: Wall clock minus monotonic clock when the ring was made, ns.
        self.clock_offset_ns: int = real - mono
        self.capacity: int = capacity
        self._words = view[layout.WORDS_OFFSET : layout.WORDS_OFFSET + 8 * layout.WORDS].cast("d")
        self._data = view[layout.DATA_OFFSET : layout.DATA_OFFSET + capacity]
        self._position = 0
        self._sequence = 0
        self._misses = 0
        self._resume = 0
        #: Records read, and records dropped, up to the last batch read.
        self.records = 0
        self.dropped = 0

    def word(self, index: int) -> float:
        """One of the always-current words (``layout.W_*``); NaN once the reader was closed."""
        words = self._words
        return words[index] if words is not None else float("nan")

    def words(self) -> list[float]:
        """All words at once; empty once the reader was closed."""
        words = self._words
        return list(words) if words is not None else []

    def owner(self) -> LoopInfo | None:
        """The loop that took the ring last; None where none did, or once the reader was closed."""
        view = self._view
        if view is None or self.kind != layout.KIND_LOOP:
            return None
        number, since, name = layout.OWNER.unpack_from(view, layout.OWNER_OFFSET)
        if not 1.0 <= number < 2.0**53:
            return None
        return LoopInfo(int(number), printable(name.rstrip(b"\0").decode("utf-8", "replace")), since)

    @property
    def behind(self) -> int:
        """Bytes written and not yet read."""
        return max(0, self._head() - self._position)

    def read(self, *, final: bool = False, limit: int = 1 << 20) -> list[Batch]:
        """The batches written since the last call, oldest first; empty where there are none.

        ``final``: the writer has gone; a batch that does not check is damaged, not unfinished, and what the writer
        counted but left unreadable is added to ``dropped``. ``limit``: doubles after which the call returns, to be
        called again.
        """
        batches: list[Batch] = []
        if self._data is None:
            return batches
        taken = 0
        while taken < limit:
            head = self._head()
            if self._position >= head:
                break
            batch = self._next(head, final)
            if batch is None:
                break
            batches.append(batch)
            taken += len(batch.records) + 16
        if final and taken < limit:
            written = self.word(layout.W_RECORDS)
            if written < 2.0**53 and written > self.records + self.dropped:
                self.dropped = int(written) - self.records
        return batches

    def close(self) -> None:
        """Lets go of the memory."""
        for view in (self._words, self._data, self._view):
            if view is not None:
                view.release()
        self._words = self._data = self._view = None
        if self._map is not None:
            self._map.close()
            self._map = None

    def _head(self) -> int:
        head = self.word(layout.W_HEAD)
        # Not NaN, not beyond what a double counts exactly, aligned: else it is not a head that a writer wrote.
        if not 0.0 <= head <= 2.0**53:
            return 0
        position = int(head)
        return position - position % _ALIGN

    def _reserved(self) -> int:
        """Bytes of the data that have memory behind them. To look beyond takes memory, of a full file system even from
        a reader: it would be ended by SIGBUS.
        """
        reserved = self.word(layout.W_RESERVED)
        return int(reserved) if 0.0 < reserved < self.capacity else self.capacity

    def _next(self, head: int, final: bool) -> Batch | None:
        """The next batch before ``head``, None where there is none (yet)."""
        position = self._position
        capacity = self.capacity
        if head - position <= capacity:
            found = self._check(position, head)
            if found is not None and found[0].sequence == self._sequence:
                return self._accept(found, position)
            # A batch that would not have fitted before the end of the data starts again at its beginning.
            start_over = position + capacity - position % capacity
            if start_over < head:
                found = self._check(start_over, head)
                if found is not None and found[0].sequence == self._sequence:
                    return self._accept(found, start_over)
            if not final and head - position <= capacity and self._head() - position <= capacity:
                self._misses += 1
                if self._misses < _PATIENCE:
                    return None
        self._misses = 0
        return self._search()

    def _search(self) -> Batch | None:
        """The oldest whole batch that is still there, after an overrun or damage."""
        # The writer may be overwriting what is looked at: the oldest place that can be whole is asked for anew.
        while True:
            head = self._head()
            position = max(self._position, self._resume, head - self.capacity)
            position += -position % _ALIGN
            if position >= head:
                return None
            place = self._find(position, head)
            if place < 0:
                # Nothing up to the head: what comes after it will be looked at, and this not again.
                self._resume = head
                self._position = max(self._position, head)
                return None
            found = self._check(place, head)
            if found is not None and found[0].sequence >= self._sequence:
                return self._accept(found, place)
            self._resume = place + _ALIGN

    def _find(self, position: int, head: int) -> int:
        """The first place from ``position`` on where a batch may begin, -1 where there is none before ``head``."""
        capacity = self.capacity
        data = self._data
        assert data is not None
        reserved = self._reserved()
        while position < head:
            offset = position % capacity
            if offset >= reserved:
                position += capacity - offset
                continue
            size = min(reserved - offset, head - position, _WINDOW)
            at = bytes(data[offset : offset + size]).find(_PATTERN)
            if at < 0:
                position += size
            elif at % _ALIGN == 0:
                return position + at
            else:
                position += at + _ALIGN - at % _ALIGN
        return -1

    def _check(self, position: int, head: int) -> tuple[Batch, int] | None:
        """A copy of the batch at ``position``, and its size, if it is whole; else None."""
        data = self._data
        assert data is not None
        offset = position % self.capacity
        room = min(self._reserved() - offset, head - position)
        if room < _HEAD_SIZE:
            return None
        start = bytes(data[offset : offset + _HEAD_SIZE])
        magic, crc, sequence, count, text_size, before, now = layout.BATCH.unpack(start)
        body = _HEAD_SIZE + 8 * count
        size = body + text_size
        if magic != layout.BATCH_MAGIC or size > room or count % 3:
            return None
        copy = bytes(data[offset : offset + size])
        view = memoryview(copy)
        # Of the copy throughout: what was looked at before may have changed since.
        if copy[:_HEAD_SIZE] != start or zlib.crc32(view[layout.BATCH_CRC_START :]) != crc:
            return None
        doubles = view[_HEAD_SIZE:body].cast("d")
        text = layout.unpack_text(copy[body:]) if text_size else []
        return Batch(sequence, list(doubles), text, before, now, 0, False, doubles), size + -size % _ALIGN

    def _accept(self, found: tuple[Batch, int], position: int) -> Batch:
        batch, size = found
        gap = batch.sequence != self._sequence
        dropped = max(0, batch.records_before - self.records - self.dropped)
        self.dropped += dropped
        self.records += len(batch.records) // 3
        self._sequence = batch.sequence + 1
        self._position = position + size
        self._misses = 0
        return batch._replace(dropped=dropped, gap=True) if gap or dropped else batch
