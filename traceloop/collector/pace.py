"""How often the collector looks, and how long it waits for others, in seconds."""

from __future__ import annotations

# A poll costs 0.4 to 0.8 ms besides what it reads: every 20 ms that was 0.5 us a handle at 50,000 of them a second. A
# ring holds seconds of them.
MIN_POLL_SECONDS = 0.05
MAX_POLL_SECONDS = 0.2
#: While no loop runs and no ring has anything new, a whole poll comes no later than this.
QUIET_SECONDS = 1.0
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
