"""How often the collector looks, and how long it waits for others, in seconds."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..reading.follower import Chunk

# A poll costs 0.5 to 1 ms besides what it reads, and most of what a service of little load costs is this. What is read
# at once may be no more than a ring holds well, nor than takes long to count: scrapes wait for it.
MIN_POLL_SECONDS = 0.05
MAX_POLL_SECONDS = 0.2
_RECORDS = 16_384
_SHARE_OF_RING = 0.125
_RECORD_BYTES = 24
#: While no loop runs and no ring has anything new, a whole poll comes no later than this.
QUIET_SECONDS = 2.0
#: How long children that record nothing yet are waited for after all else is over.
EXPECTED_SECONDS = 5.0
#: After how long the metrics are served even without a scrape.
UNASKED_SECONDS = 1.0
#: How long the summary is held up for the last spans to arrive, and how long the end of the run is.
FLUSH_SECONDS = 0.5
SHUTDOWN_SECONDS = 5.0
#: After a signal that asks for the end, how long a program that lives on may be idle. A service that is being stopped
#: may wait for its last client; Docker gives it 10 s, and ends it by SIGKILL then.
STOPPING_SECONDS = 10.0
#: A collector that has died is started again, but not more often than this.
RESTART_SECONDS = 60.0


class Pace:
    """When to read next, by how fast the rings have filled. A loop that begins to fill its ring faster than that ends
    the wait by itself (`recording.ring`: it writes to the pipe ``wake`` whenever it has filled a quarter of its ring).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read_at = clock()
        # What was read since then, as a share of what is to be read at once, of all rings together.
        self._share = 0.0

    def count(self, chunks: Iterable[Chunk]) -> None:
        """These were read."""
        for chunk in chunks:
            room = chunk.ring.reader.room * _SHARE_OF_RING / _RECORD_BYTES
            self._share += chunk.decoded.records / max(1.0, min(_RECORDS, room))

    def pause(self) -> float:
        """How long to wait until the next reading, s; to be asked once after each."""
        now = self._clock()
        passed, self._read_at = now - self._read_at, now
        share, self._share = self._share, 0.0
        if passed >= MAX_POLL_SECONDS * share:
            return MAX_POLL_SECONDS
        return max(MIN_POLL_SECONDS, passed / share)
