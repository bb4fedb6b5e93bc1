"""Following a ring: from the bytes of its file, or of private memory, to whole batches.

The writer never waits for a reader, so everything here is doubted: a batch is copied first and checked afterwards
(magic number, lengths, checksum, sequence number), and what does not check is either still being written, overwritten,
or damaged. No bytes make a reader raise or loop once it was opened; what it could not read it counts, exactly, since
every batch says how many records were written before it.

A file is read, not mapped: one that is cut short under its readers, by accident or on purpose,
would end them by SIGBUS. It costs the same, since everything is copied anyway.
"""

from __future__ import annotations

import math
import mmap
import os
import zlib
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final, NamedTuple

from ...record import layout
from ...record.files import open_descriptor
from ...record.text import printable
from .choose import native
from .decoded import LoopInfo

_PATTERN: Final = layout.BATCH_MAGIC.to_bytes(4, "little")
_HEAD_SIZE: Final = layout.BATCH.size
_ALIGN: Final = layout.BATCH_ALIGN
_DOUBLE: Final = Struct("<d")
_WORDS: Final = Struct(f"<{layout.WORDS}d")
# Bytes that are searched at a time. Batches begin at multiples of _ALIGN, so none begins in one window and ends its
# magic number in the next.
_WINDOW: Final = 1 << 16
# Bytes that are copied at a time, at most: batches that follow each other together. In a search, of which most places
# turn out to be none, fewer.
_PIECE: Final = 1 << 18
_SEARCHED: Final = 4096
# A batch whose bytes are not all visible yet (the word that announces it may be, on Arm) is asked for again at the
# next reads, this often, before it counts as damaged.
_PATIENCE: Final = 3
# Places that look like a batch and are none, after which a search gives up what there is. A ring that was overwritten
# while it was read has a few; only one that was made to keep its readers busy has many.
_MAX_FALSE_HEADS: Final = 256
_MAX_FALSE_BYTES: Final = 64 << 20
# The largest ring that can be chosen has 4 GiB (parsing.py).
_MAX_CAPACITY: Final = 4 << 30
# Seconds that no clock reaches, and numbers that no double counts exactly: words and times beyond are damage.
_LATEST: Final = 2.0**33
_EXACT: Final = 2.0**53
# No writer writes larger numbers, and those who read these may count them in billionths.
_LARGEST: Final = 2.0**63


class RingError(Exception):
    """These bytes are no ring that this version can read; the text says why, in one line."""


class Batch(NamedTuple):
    """One batch of records.

    records: doubles, three for each record; a list in plain Python. text: the items that some of them own, in order, as
    ``layout.unpack_text`` takes them.
    records_before: records written before this batch, ever. written_at: the writer's clock, s.
    dropped: records that were overwritten or damaged between the batch read before and this one.
    gap: this batch does not follow on the one read before, so what is known of the queue does not hold.
    doubles: the records as they lie in memory, a third of what the list takes; None where they are not at hand.
    """

    sequence: int
    records: Sequence[float]
    text: bytes
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
        #: Bytes from an offset on; fewer where there are no more, none once the reader was closed.
        self._bytes: Callable[[int, int], bytes]
        self._release: Callable[[], None]
        #: Of the file; -1 for a buffer, and once the reader was closed.
        self.descriptor = -1
        if isinstance(source, str | os.PathLike):
            self.path: str | None = os.fspath(source)
            self.descriptor = descriptor = open_descriptor(source)
            size = os.fstat(descriptor).st_size
            self._bytes = lambda offset, size: os.pread(descriptor, size, offset)
            self._release = lambda: os.close(descriptor)
        else:
            self.path = None
            view = memoryview(source)
            size = len(view)
            self._bytes = lambda offset, size: bytes(view[offset : offset + size])
            self._release = view.release
        try:
            self._open(size)
        except BaseException:
            self.close()
            raise

    def _open(self, size: int) -> None:
        name = self.path or "private ring"
        start = self._bytes(0, layout.HEADER.size)
        if size < layout.DATA_OFFSET + layout.MIN_CAPACITY or len(start) < layout.HEADER.size:
            raise RingError(f"{name}: too short for a ring")
        magic, version, self.kind, capacity, self.pid, self.number, self.start_ticks, mono, real = (
            layout.HEADER.unpack(start)
        )
        if magic != layout.MAGIC:
            raise RingError(f"{name}: not a ring (it does not begin with {layout.MAGIC.decode()})")
        if version != layout.VERSION:
            raise RingError(f"{name}: a ring of version {version}; this traceloop reads version {layout.VERSION}")
        if self.kind not in (layout.KIND_LOOP, layout.KIND_PROCESS):
            raise RingError(f"{name}: a ring of unknown kind {self.kind}")
        if capacity % 4096 or not layout.MIN_CAPACITY <= capacity <= min(size - layout.DATA_OFFSET, _MAX_CAPACITY):
            raise RingError(f"{name}: {capacity} bytes of data do not fit into a file of {size}")
        if mono >= _LATEST * 1e9 or real >= _LATEST * 1e9:
            raise RingError(f"{name}: made at a time that no clock has shown")
        # Whether all of a batch's doubles are below _LARGEST; None in plain Python.
        self._in_range: Callable[[object], bool] | None = getattr(native(), "in_range", None)
        self._checksum: Callable[[memoryview], int] = getattr(native(), "checksum", zlib.crc32)
        #: Wall clock minus monotonic clock when the ring was made, ns.
        self.clock_offset_ns: int = real - mono
        self.capacity: int = capacity
        self._position = 0
        # As ``room`` was after the head was read. Both are asked for once for all batches before that head.
        self._room = 0
        self._sequence = 0
        self._misses = 0
        self._resume = 0
        # What ``read`` has copied last, from this offset of the data on, and how many bytes it copies at a time.
        self._copied = b""
        self._copied_from = 0
        self._piece = _PIECE
        # Bytes that were checked in a search.
        self._checked = 0
        #: Records read, and records dropped, up to the last batch read.
        self.records = 0
        self.dropped = 0
        #: Of the dropped ones, those that had been overwritten before the first batch was read.
        self.overwritten = 0

    def word(self, index: int) -> float:
        """One of the always-current words (``layout.W_*``); NaN once the reader was closed, 0 for what is no number
        that a writer writes.
        """
        if self._closed:
            return math.nan
        data = self._bytes(layout.WORDS_OFFSET + 8 * index, 8)
        return _sane(_DOUBLE.unpack(data)[0], index) if len(data) == 8 else 0.0

    def words(self) -> list[float]:
        """All words at once; empty once the reader was closed."""
        data = b"" if self._closed else self._bytes(layout.WORDS_OFFSET, _WORDS.size)
        if len(data) < _WORDS.size:
            return []
        words = list(_WORDS.unpack(data))
        if not 0.0 <= math.fsum(map(abs, words)) < _EXACT:
            words = [_sane(word, index) for index, word in enumerate(words)]
        return words

    _closed = False

    def owner(self) -> LoopInfo | None:
        """The loop that took the ring last; None where none did, or once the reader was closed."""
        data = b"" if self._closed else self._bytes(layout.OWNER_OFFSET, layout.OWNER.size)
        if len(data) < layout.OWNER.size or self.kind != layout.KIND_LOOP:
            return None
        number, since, name = layout.OWNER.unpack(data)
        if not (1.0 <= number < _EXACT and 0.0 <= since < _LATEST):
            return None
        return LoopInfo(int(number), printable(name.rstrip(b"\0").decode("utf-8", "replace")), since)

    @property
    def position(self) -> int:
        """Up to where it was read, in bytes ever written."""
        return self._position

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
        if self._closed:
            return batches
        self._piece = max(_SEARCHED, min(8 * limit, _PIECE))
        taken = head = 0
        while taken < limit:
            if self._position >= head:
                head = self._head()
                self._room = self.room
                if self._position >= head:
                    break
            batch = self._next(head, final)
            if batch is None:
                break
            batches.append(batch)
            taken += len(batch.records) + 16
        self._copied = b""
        if final and taken < limit:
            written = self.word(layout.W_RECORDS)
            if written > self.records + self.dropped:
                self.dropped = int(written) - self.records
        return batches

    def close(self) -> None:
        """Lets go of the file, or the memory."""
        if not self._closed:
            self._closed = True
            self.descriptor = -1
            self._release()

    def __del__(self) -> None:
        if hasattr(self, "_release"):
            self.close()

    def _head(self) -> int:
        head = self.word(layout.W_HEAD)
        # Not NaN, not beyond what a double counts exactly, aligned: else it is not a head that a writer wrote.
        position = int(head) if head > 0.0 else 0
        return position - position % _ALIGN

    @property
    def room(self) -> int:
        """Bytes of the data that have memory behind them; beyond there is nothing."""
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
        self._checked = 0
        self._piece = _SEARCHED
        for _ in range(_MAX_FALSE_HEADS):
            if self._checked > _MAX_FALSE_BYTES:
                break
            head = self._head()
            self._room = self.room
            position = max(self._position, self._resume, head - self.capacity)
            position += -position % _ALIGN
            if position >= head:
                return None
            place = self._find(position, head)
            if place < 0:
                break
            self._copied = b""
            found = self._check(place, head)
            if found is not None and found[0].sequence >= self._sequence:
                return self._accept(found, place)
            self._resume = place + _ALIGN
        head = self._head()
        # Nothing up to the head: what comes after it will be looked at, and this not again.
        self._resume = head
        self._position = max(self._position, head)
        return None

    def _find(self, position: int, head: int) -> int:
        """The first place from ``position`` on where a batch may begin, -1 where there is none before ``head``."""
        capacity = self.capacity
        reserved = self.room
        while position < head:
            offset = position % capacity
            if offset >= reserved:
                position += capacity - offset
                continue
            size = min(reserved - offset, head - position, _WINDOW)
            window = self._bytes(layout.DATA_OFFSET + offset, size)
            if not window:  # the file has been cut short
                return -1
            at = window.find(_PATTERN)
            if at < 0:
                position += size
            elif at % _ALIGN == 0:
                return position + at
            else:
                position += at + _ALIGN - at % _ALIGN
        return -1

    def _copy(self, offset: int, room: int) -> memoryview:
        """What there is from ``offset`` of the data on, ``room`` bytes at most; as it was when it was copied."""
        start = offset - self._copied_from
        if start < 0 or start + _HEAD_SIZE > len(self._copied):
            self._copied_from, start = offset, 0
            self._copied = self._bytes(layout.DATA_OFFSET + offset, min(room, self._piece))
        return memoryview(self._copied)[start : start + room]

    def _check(self, position: int, head: int) -> tuple[Batch, int] | None:
        """A copy of the batch at ``position``, and its size, if it is whole; else None."""
        offset = position % self.capacity
        room = min(self._room - offset, head - position)
        if room < _HEAD_SIZE:
            return None
        copy = self._copy(offset, room)
        if len(copy) < _HEAD_SIZE:
            return None
        magic, crc, sequence, count, text_size, before, now = layout.BATCH.unpack_from(copy)
        body = _HEAD_SIZE + 8 * count
        size = body + text_size
        # No writer makes a batch of more than half a ring.
        if magic != layout.BATCH_MAGIC or size > room or size > self.capacity // 2 + _HEAD_SIZE or count % 3:
            return None
        if size > len(copy):
            copy = memoryview(self._bytes(layout.DATA_OFFSET + offset, size))
            if len(copy) < size:
                return None
        self._checked += size
        view = copy[:size]
        if self._checksum(view[layout.BATCH_CRC_START :]) != crc:
            return None
        # The checksum guards against accidents, not against a forged record.
        if not (0.0 <= now < _LATEST and before < _EXACT):
            return None
        doubles: memoryview[float] | None = view[_HEAD_SIZE:body].cast("d")
        text = bytes(view[body:])
        if self._in_range is not None and self._in_range(doubles):
            return Batch(sequence, doubles, text, before, now, 0, False, doubles), size + -size % _ALIGN  # type: ignore[arg-type]
        records = list(doubles)  # type: ignore[arg-type]
        if not math.hypot(*records) < _LARGEST:  # a quarter of what `min` and `max` take
            # A timer may have been set for NaN: that record is passed over, not the whole batch.
            triples = zip(*[iter(records)] * 3, strict=True)
            records = [value for triple in triples if all(abs(each) < _LARGEST for each in triple) for value in triple]
            doubles = None
        return Batch(sequence, records, text, before, now, 0, False, doubles), size + -size % _ALIGN

    def _accept(self, found: tuple[Batch, int], position: int) -> Batch:
        batch, size = found
        gap = batch.sequence != self._sequence
        dropped = max(0, batch.records_before - self.records - self.dropped)
        if not self.records and not self.dropped:
            # The oldest whole batch begins soon after the place that is overwritten next; else what lies there is
            # damaged.
            oldest = self._head() - self.capacity
            if oldest > 0 and position <= oldest + self.capacity // 2 + _HEAD_SIZE:
                self.overwritten = dropped
        self.dropped += dropped
        self.records += len(batch.records) // 3
        self._sequence = batch.sequence + 1
        self._position = position + size
        self._misses = 0
        return batch._replace(dropped=dropped, gap=True) if gap or dropped else batch


def _sane(word: float, index: int) -> float:
    """The word, or 0 for what no writer writes there. A threshold may be infinite: nothing is slow."""
    if -_EXACT < word < _EXACT or (word == math.inf and index == layout.W_THRESHOLD):
        return word
    return 0.0
