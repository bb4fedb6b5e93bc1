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
from ..record.proc import own_pid, process_start_ticks
from . import failures

_crc32 = zlib.crc32
_head_without_crc = struct.Struct("<QIIQd")
_start_of_head = struct.Struct("<II")
# Little-endian. Where that is the machine's own order, struct copies doubles as they are: 26 instead of 46 ns a record
# on 3.11, 20 instead of 23 on 3.13.
_DOUBLES = "" if sys.byteorder == "little" else "<"

# By the number of doubles that they pack. Shared by all rings: the loop can reach what its ring holds (core/buffer.py).
_packers: dict[int, Callable[..., bytes]] = {}

# The first size of a ring, and the most by which it grows at once: that takes 60 us to 0.5 ms, mostly to clear memory.
FIRST_BYTES = 64 << 10
_MAX_STEP = 256 << 10
# A ring that was not allowed to grow asks again after this time, s.
_ASK_AGAIN_SECONDS = 5.0
# Where a batch has to be split, each item of text is cut to this many characters. Each part must fit into a quarter of
# the smallest ring, or it would be split for ever. A lone surrogate is escaped, and takes 6 bytes.
_SPLIT_TEXT = 1024
_MOST_BYTES_A_CHARACTER = 6
# Linux 5.14 (madvise(2)): gives memory to mapped pages, or fails where a write would end in SIGBUS. It needs neither
# the file's descriptor nor its permissions, which a process may have given up by then.
_MADV_POPULATE_WRITE = 23

# The rings of a fork's parent, which the child keeps alive. A mapping owns a descriptor; freeing the mapping would
# close that number, which may by now belong to a file of the child.
_inherited: list[Ring] = []


class Ring:
    """A ring that this process writes. Not thread-safe: one thread writes, or the caller holds a lock.

    ``words`` is a memoryview of doubles over the always-current words (``layout.W_*``).
    ``path`` is None for private memory, which only threads of this process can read.
    """

    __slots__ = (
        "_align",
        "_ask_at",
        "_capacity",
        "_data",
        "_head",
        "_map",
        "_may_grow",
        "_pid",
        "_reserved",
        "_sequence",
        "_wake",
        "_wake_at",
        "number",
        "path",
        "records",
        "words",
    )

    def __init__(
        self,
        path: str | None,
        kind: int,
        number: int,
        capacity: int = layout.DEFAULT_CAPACITY,
        may_grow: Callable[[int, int], bool] | None = None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        """Makes the file at ``path`` (it must not exist), or takes private memory where ``path`` is None.

        ``wake``: called whenever a quarter of the ring has been written. A reader may sleep for longer than it takes to
        fill the ring at full speed (0.13 s); woken like this, it loses nothing.

        ``may_grow(size, more)``: whether the ring may grow by ``more`` bytes to ``size`` bytes of data; None: always.

        Memory is reserved before it is written, because a write to a hole of a full tmpfs ends the process with SIGBUS.
        At first there is room for ``FIRST_BYTES``. Raises OSError where the file cannot be made or there is no room.
        """
        capacity = max(layout.MIN_CAPACITY, capacity - capacity % 4096)
        size = layout.DATA_OFFSET + capacity
        first = min(capacity, FIRST_BYTES)
        self.path = path
        if path is None:
            self._map = mmap.mmap(-1, size)
        else:
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
            try:
                fd = os.open(path, flags, 0o600)
            except FileExistsError:  # left when a signal's handler raised while it was made
                os.unlink(path)
                fd = os.open(path, flags, 0o600)
            try:
                os.ftruncate(fd, size)
                _reserve(fd, 0, layout.DATA_OFFSET + first)
                self._map = _mapped(fd, size)
            except BaseException:
                os.unlink(path)
                raise
            finally:
                os.close(fd)
        self.number = number
        self._pid = own_pid()
        self._capacity = capacity
        self._reserved = first
        self._may_grow = may_grow
        self._ask_at = 0.0
        self._wake = wake
        self._wake_at = first // 4
        self._head = 0
        self._sequence = 0
        self.records = 0
        view = memoryview(self._map)
        words_end = layout.WORDS_OFFSET + 8 * layout.WORDS
        self.words = view[layout.WORDS_OFFSET : words_end].cast("d")
        self._data = view[layout.DATA_OFFSET :]
        self.words[layout.W_RESERVED] = first
        layout.HEADER.pack_into(
            self._map,
            0,
            layout.MAGIC,
            layout.VERSION,
            kind,
            capacity,
            own_pid(),
            number,
            process_start_ticks(),
            time.monotonic_ns(),
            time.time_ns(),
        )

    @property
    def capacity(self) -> int:
        """Bytes of batches that the ring can hold at its present size; a record has 24."""
        return self._reserved

    @property
    def mapped(self) -> int:
        """Bytes of address space that it takes."""
        return layout.DATA_OFFSET + self._capacity

    @property
    def size(self) -> int:
        """Bytes of memory that it takes."""
        return layout.DATA_OFFSET + self._reserved

    def tell_owner(self, number: int, since: float, thread: str) -> None:
        """A loop takes the ring; ``since`` (monotonic s) is not later than its first batch."""
        name = thread.encode("utf-8", "backslashreplace")[:256]
        layout.OWNER.pack_into(self._map, layout.OWNER_OFFSET, number, since, name)

    def write(self, records: list[float] | memoryview[float], text: list[str], now: float) -> None:
        """Appends one batch of whole records (triples, at most 1/4 of the capacity; a longer list is split).

        Text belongs, in order, to the records whose kind is in ``layout.TEXT_KINDS`` and to runs that are a
        task's first step. ``now``: monotonic s. Does nothing in the child of a fork, where the ring is the parent's.

        Its plain case has a twin in C, which reads and leaves the same attributes: core/native/batch.c.
        """
        if own_pid() != self._pid:
            return
        count = len(records)
        block = layout.pack_text(text) if text else b""
        while self._reserved < 32 * count or self._reserved < 4 * len(block):
            if not self._grow():
                break
        limit = self._reserved // 32 // 3 * 3
        if count > limit or len(block) > self._reserved // 4:
            self._write_split(records, text, now, limit)
            return
        body = self._pack(records)
        length = layout.BATCH.size + len(body) + len(block)
        length += -length % layout.BATCH_ALIGN
        tail = _head_without_crc.pack(self._sequence, count, len(block), self.records, now)
        crc = _crc32(body, _crc32(tail))
        if block:
            crc = _crc32(block, crc)
        head = self._head
        offset = head % self._capacity
        while offset + length > self._reserved:
            if not self._grow():
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
        if self._head >= self._wake_at:
            self._wake_at = self._head + self._reserved // 4
            if self._wake is not None:
                self._wake()

    def _pack(self, records: list[float] | memoryview[float]) -> bytes:
        if isinstance(records, memoryview):  # the C core's: packed already, a view of the bytes
            packed = records.obj
            return packed if type(packed) is bytes and len(packed) == records.nbytes else records.tobytes()
        count = len(records)
        pack = _packers.get(count)
        if pack is None:
            pack = _packers[count] = struct.Struct(f"{_DOUBLES}{count}d").pack
            if len(_packers) > 2048:
                _packers.clear()
        return pack(*records)

    def _write_split(self, records: list[float] | memoryview[float], text: list[str], now: float, limit: int) -> None:
        # Rare: an oversized batch. Text is given to the records that own it, so that each part can be read alone.
        texts = iter(text)
        part: list[float] = []
        part_text: list[str] = []
        size = 0
        for index in range(0, len(records), 3):
            triple = records[index : index + 3]
            if triple[1] in layout.TEXT_KINDS or (triple[1] > 0.0 and triple[2] >= layout.FIRST):
                item = next(texts, "")[:_SPLIT_TEXT]
                part_text.append(item)
                size += _MOST_BYTES_A_CHARACTER * len(item) + 1
            part += triple
            if len(part) >= limit or size > self._reserved // 8:
                self.write(part, part_text, now)
                part, part_text, size = [], [], 0
        if part:
            self.write(part, part_text, now)

    def _grow(self) -> bool:
        """Takes more memory. False where the ring has its full size, or may not grow now."""
        reserved = self._reserved
        more = min(reserved, _MAX_STEP, self._capacity - reserved)
        if more <= 0 or (self._ask_at and time.monotonic() < self._ask_at):
            return False
        if (self._may_grow is None or self._may_grow(reserved + more, more)) and self._take_memory(reserved, more):
            self._reserved = reserved + more
            self.words[layout.W_RESERVED] = self._reserved
            self._ask_at = 0.0
            return True
        self._ask_at = time.monotonic() + _ASK_AGAIN_SECONDS
        return False

    def _take_memory(self, offset: int, size: int) -> bool:
        if self.path is None:
            return True
        try:
            self._map.madvise(_MADV_POPULATE_WRITE, layout.DATA_OFFSET + offset, size)
            return True
        except (OSError, AttributeError, ValueError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                failures.pass_on(error)
                return False
        # An older kernel, or another system.
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                _reserve(fd, layout.DATA_OFFSET + offset, size)
            finally:
                os.close(fd)
        except OSError as error:
            failures.pass_on(error)
            return False
        return True

    def leave(self) -> None:
        """Called in the child of a fork, where the ring is the parent's: what is written from now on is discarded."""
        _inherited.append(self)
        self._pid = 0
        self.words = memoryview(bytearray(8 * layout.WORDS)).cast("d")

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
        except BufferError:  # a reader of this process still uses the mapping, which is freed with the last reference
            pass


def _reserve(fd: int, offset: int, size: int) -> None:
    # macOS has no such call.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, offset, size)


def _mapped(fd: int, size: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, trackfd=False)
    return mmap.mmap(fd, size)


def make_ring(
    directory: str | None,
    name: str,
    kind: int,
    number: int,
    capacity: int,
    may_grow: Callable[[int, int], bool] | None = None,
    wake: Callable[[], None] | None = None,
) -> tuple[Ring, str | None]:
    """A ring in ``directory``, or in private memory where there is no directory or no room in it.

    It is mapped at ``capacity``; where that is too much for the address space or a limit on files, at a quarter or a
    sixteenth of it. Returns the ring and, where it is less than what was asked, one line that says why.
    """
    problem: OSError | None = None
    if directory is not None:
        if may_grow is None or may_grow(FIRST_BYTES, FIRST_BYTES):
            for size in (capacity, capacity // 4, capacity // 16):
                try:
                    return Ring(os.path.join(directory, name), kind, number, size, may_grow, wake), None
                except OSError as error:
                    failures.pass_on(error)
                    problem = error
                    if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT):
                        break
            reason = problem.strerror if problem is not None else "unknown"
        else:
            reason = "the shared memory that is left is the program's"
        where = "recording into private memory, which the collector cannot see"
        notice = f"no ring can be made in {directory} ({reason}); {where}"
    else:
        notice = None
    for size in (capacity, capacity // 16, 0):
        try:
            return Ring(None, kind, number, size, may_grow, wake), notice
        except OSError as error:
            problem = error
    assert problem is not None
    raise problem
