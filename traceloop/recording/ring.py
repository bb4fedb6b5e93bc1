"""The writing side of a ring: a mapped file, or private memory where there is no run directory or no room."""

from __future__ import annotations

import errno
import mmap
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable

from ..record import layout
from ..record.proc import process_start_ticks

_crc32 = zlib.crc32
_head_without_crc = struct.Struct("<QIIQd")
_start_of_head = struct.Struct("<II")
# Little-endian. Where that is the machine's own order, struct copies doubles as they are: 26 instead of 46 ns a record
# on 3.11, 20 instead of 23 on 3.13.
_DOUBLES = "" if sys.byteorder == "little" else "<"


class Ring:
    """A ring that this process writes. Not thread-safe: one thread writes, or the caller holds a lock.

    ``words`` is a memoryview of doubles over the always-current words (``layout.W_*``).
    ``path`` is None for private memory, which only threads of this process can read.
    """

    __slots__ = (
        "_align",
        "_capacity",
        "_data",
        "_head",
        "_map",
        "_packers",
        "_sequence",
        "path",
        "records",
        "words",
    )

    def __init__(self, path: str | None, kind: int, number: int, capacity: int = layout.DEFAULT_CAPACITY) -> None:
        """Makes the file at ``path`` (it must not exist), or takes private memory where ``path`` is None.

        The space is reserved at once (posix_fallocate): writing to a hole of a full tmpfs would end the process
        with SIGBUS. Raises OSError where the file cannot be made or there is no room.
        """
        capacity = max(layout.MIN_CAPACITY, capacity - capacity % 4096)
        size = layout.DATA_OFFSET + capacity
        self.path = path
        if path is None:
            self._map = mmap.mmap(-1, size)
        else:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                _reserve(fd, size)
                self._map = mmap.mmap(fd, size)
            except BaseException:
                os.unlink(path)
                raise
            finally:
                os.close(fd)
        self._capacity = capacity
        self._head = 0
        self._sequence = 0
        self.records = 0
        self._packers: dict[int, Callable[..., bytes]] = {}
        view = memoryview(self._map)
        words_end = layout.WORDS_OFFSET + 8 * layout.WORDS
        self.words = view[layout.WORDS_OFFSET : words_end].cast("d")
        self._data = view[layout.DATA_OFFSET :]
        layout.HEADER.pack_into(
            self._map,
            0,
            layout.MAGIC,
            layout.VERSION,
            kind,
            capacity,
            os.getpid(),
            number,
            process_start_ticks(),
            time.monotonic_ns(),
            time.time_ns(),
        )

    @property
    def capacity(self) -> int:
        """Bytes of batches that it holds; a record has 24."""
        return self._capacity

    def tell_owner(self, number: int, since: float, thread: str) -> None:
        """A loop takes the ring; ``since`` (monotonic s) is not later than its first batch."""
        name = thread.encode("utf-8", "backslashreplace")[:256]
        layout.OWNER.pack_into(self._map, layout.OWNER_OFFSET, number, since, name)

    def write(self, records: list[float], text: list[str], now: float) -> None:
        """Appends one batch of whole records (triples, at most 1/4 of the capacity; a longer list is split).

        Text belongs, in order, to the records whose kind is in ``layout.TEXT_KINDS`` and to runs that are a
        task's first step. ``now``: the clock, s.
        """
        count = len(records)
        limit = self._capacity // 32 // 3 * 3
        block = layout.pack_text(text) if text else b""
        if count > limit or len(block) > self._capacity // 4:
            self._write_split(records, text, now, limit)
            return
        pack = self._packers.get(count)
        if pack is None:
            pack = self._packers[count] = struct.Struct(f"{_DOUBLES}{count}d").pack
            if len(self._packers) > 2048:
                self._packers.clear()
        body = pack(*records)
        length = layout.BATCH.size + len(body) + len(block)
        length += -length % layout.BATCH_ALIGN
        tail = _head_without_crc.pack(self._sequence, count, len(block), self.records, now)
        crc = _crc32(body, _crc32(tail))
        if block:
            crc = _crc32(block, crc)
        head = self._head
        offset = head % self._capacity
        if offset + length > self._capacity:
            head += self._capacity - offset
            offset = 0
        self._data[offset : offset + layout.BATCH.size] = _start_of_head.pack(layout.BATCH_MAGIC, crc) + tail
        offset += layout.BATCH.size
        end = offset + len(body)
        self._data[offset:end] = body
        if block:
            self._data[end : end + len(block)] = block
        self._head = head + length
        self._sequence += 1
        self.records += count // 3
        words = self.words
        words[layout.W_RECORDS] = self.records
        words[layout.W_HEAD] = self._head

    def _write_split(self, records: list[float], text: list[str], now: float, limit: int) -> None:
        # Rare: an oversized batch. Text is given to the records that own it, so that each part can be read alone.
        texts = iter(text)
        part: list[float] = []
        part_text: list[str] = []
        size = 0
        for index in range(0, len(records), 3):
            triple = records[index : index + 3]
            if triple[1] in layout.TEXT_KINDS or (triple[1] > 0.0 and triple[2] >= layout.FIRST):
                item = next(texts, "")[:4096]
                part_text.append(item)
                size += 4 * len(item)
            part += triple
            if len(part) >= limit or size > self._capacity // 8:
                self.write(part, part_text, now)
                part, part_text, size = [], [], 0
        if part:
            self.write(part, part_text, now)

    @property
    def buffer(self) -> mmap.mmap:
        """The whole ring, for a reader in this process."""
        return self._map

    def close(self) -> None:
        """Unmaps the ring; the file, if there is one, stays for its readers."""
        self.words.release()
        self._data.release()
        try:
            self._map.close()
        except BufferError:  # a reader of this process still looks at it; the last one out frees it
            pass


def _reserve(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:  # macOS
        os.ftruncate(fd, size)


def make_ring(directory: str | None, name: str, kind: int, number: int, capacity: int) -> tuple[Ring, str | None]:
    """The largest ring that can be had: ``capacity`` in ``directory``, then a quarter and a sixteenth of it, then
    private memory.

    Returns the ring and, where it is less than what was asked, one line that says why.
    """
    if directory is None:
        return Ring(None, kind, number, capacity), None
    problem: OSError | None = None
    for size in (capacity, capacity // 4, capacity // 16):
        try:
            ring = Ring(os.path.join(directory, name), kind, number, size)
        except OSError as error:
            problem = error
            if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT):
                break
        else:
            if problem is None:
                return ring, None
            return ring, f"no room for a ring of {capacity} bytes in {directory}; using {size}"
    reason = problem.strerror if problem is not None else "unknown"
    return (
        Ring(None, kind, number, capacity),
        f"no ring can be made in {directory} ({reason}); recording into private memory, which the collector cannot see",
    )
