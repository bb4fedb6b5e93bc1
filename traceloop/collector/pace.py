"""How often the collector looks, and how long it waits for others, in seconds."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..reading.follower import Chunk

# A poll costs 1 to 3 ms besides what it reads, because its code has left the processor's caches since the last one.
# With little load, that is most of the collector's cost, so polls are rare then. They must not be too rare either: one
# poll should read no more than a ring holds easily, and no more than is counted quickly, since scrapes wait for it.
MIN_POLL_SECONDS = 0.05
#: The pause while something waits for the next poll: spans to be sent, the copy of a stall's record, a process that is
#: about to end, or a program whose collector is one of its threads.
SOON_SECONDS = 0.2
MAX_POLL_SECONDS = 1.0
# So many records of an aiohttp service are read in 40 ms in plain Python,
_RECORDS = 16_384
# and so many in 6 ms in C.
_RECORDS_IN_C = 65_536
_SHARE_OF_RING = 0.125
_RECORD_BYTES = 24
#: The longest time between two whole polls while no loop runs and no ring has anything new. Where nothing computes, a
#: process's watchdog writes no more often either.
QUIET_SECONDS = 5.0
#: How long the collector waits, after all else has ended, for children that have not recorded anything yet.
EXPECTED_SECONDS = 5.0
#: How long the summary waits for the last spans to arrive, and how long the end of the run does.
FLUSH_SECONDS = 0.5
SHUTDOWN_SECONDS = 5.0
#: After a signal that asks for the end, how long a program that lives on may be idle. A service that is being stopped
#: may wait for its last client; Docker gives it 10 s, and ends it by SIGKILL then.
STOPPING_SECONDS = 10.0
#: A collector that has died is started again, but not more often than this.
RESTART_SECONDS = 60.0


class Pace:
    """When to read next, by how fast the rings have filled.

    A loop that begins to fill its ring faster ends the wait itself: it writes to the pipe ``wake`` whenever it has
    filled a quarter of its ring (`recording.ring`).
    """

    def __init__(
        self, longest: float = MAX_POLL_SECONDS, clock: Callable[[], float] = time.monotonic, *, in_c: bool = False
    ) -> None:
        """``longest``: how long a pause may be, s. ``in_c``: the reader's C half is there."""
        self._longest = longest
        self._clock = clock
        self._read_at = clock()
        self._most = _RECORDS_IN_C if in_c else _RECORDS
        # How much was read since then, of all rings, as a share of what one poll should read.
        self._share = 0.0

    def count(self, chunks: Iterable[Chunk]) -> None:
        """Counts chunks that were read."""
        for chunk in chunks:
            # By the size to which the ring may grow: it grows before it is overwritten. Where it cannot grow, a quarter
            # of its present size is full soon, which wakes us.
            room = chunk.ring.reader.capacity * _SHARE_OF_RING / _RECORD_BYTES
            self._share += chunk.decoded.records / max(1.0, min(self._most, room))

    def pause(self) -> float:
        """How long to wait until the next reading, s. Called once after each reading."""
        now = self._clock()
        passed, self._read_at = now - self._read_at, now
        share, self._share = self._share, 0.0
        if passed >= self._longest * share:
            return self._longest
        return max(MIN_POLL_SECONDS, passed / share)
