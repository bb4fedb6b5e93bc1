"""From when on something is a finding: every threshold of every rule.

docs/findings/README.md shows this table; the alert rules (dashboards/prometheus/rules) share the values that concern
both. Tests compare them. Shares are of 1, times in seconds, rates per second.
"""

from __future__ import annotations

from typing import Final

# How findings rank.
CRITICAL_SHARE: Final = 0.1  # a finding that costs this share of the time observed, or more, is critical
NOTE_SHARE: Final = 0.001  # one that costs less is a note
NOTE_SECONDS: Final = 1.0  # but only if it costs less than this altogether
LEAK_SHARE: Final = 0.1  # what a leak counts as, as a share of the time observed

# A run of one callback.
BLOCKED_SECONDS: Final = 5.0  # one run as long as this is critical (alert: AsyncioLoopBlocked)

# The loop.
SATURATED_UTILIZATION: Final = 0.9  # (alert: AsyncioLoopSaturated)
SATURATED_SECONDS: Final = 1.0  # active for at least this long
DELAY_P99: Final = 0.1  # and one callback in a hundred waited this long (alert: AsyncioScheduleDelayHigh)
CONGESTED_SHARE: Final = 0.02  # of the time spent in long iterations of short callbacks
CONGESTED_SECONDS: Final = 0.3
LONG_RUN: Final = 0.025  # runs of one callback as long as this delay what arrives meanwhile
LONG_SHARE: Final = 0.05  # and are worth a sentence where they take this share of the time observed
LONG_SECONDS: Final = 0.3
SPIN_RATE: Final = 2000.0  # runs of one callback a second
SPIN_SHARE: Final = 0.5  # of all runs of the loop
SPIN_UTILIZATION: Final = 0.98  # its polls do not wait
SPIN_MEAN: Final = 0.0002  # one run of it takes no longer on average
SPIN_SECONDS: Final = 1.0
POLL_LATE_P99: Final = 0.05
POLL_LATE_COUNT: Final = 100

# Executors.
FULL_SHARE: Final = 0.02  # of the time in which calls waited for a worker
FULL_WAITED: Final = 0.5  # seconds that calls waited in all
FULL_LONGEST: Final = 0.1  # and one of them
STUCK_SECONDS: Final = 2.0  # a full executor of which no call ends, while others wait

# Tasks and heaps. (Growth of the timer and the memory heap is detected in the traced process: heaps-and-offloads.md.)
LEAK_TASKS: Final = 100  # tasks alive by which they grew (alert: AsyncioTaskLeak)
LEAK_ENDED_SHARE: Final = 0.1  # at most this share of the tasks made has ended by itself
LEAK_SECONDS: Final = 3.0  # watched for at least this long
LOST_TASKS: Final = 1  # tasks destroyed while pending
SWALLOWED: Final = 1  # coroutines never awaited, exceptions never retrieved, callbacks that failed
SWALLOWED_SHARE: Final = 0.01  # what these count as, as a share of the time observed
CONTENDED_WAITS: Final = 3  # waits at one line for a connection or a lock
CONTENDED_SECONDS: Final = 2.0  # for so long in all
CONTENDED_ROUNDS: Final = 3  # rounds of looks that saw waits too short to be seen for certain; else these do not count
CONTENDED_SHARE: Final = 0.1  # and this share of the time observed
HELD_SECONDS: Final = 5.0  # or one wait for an asyncio.Lock: whoever has it may wait for the waiter
DEADLOCK_SECONDS: Final = 1.0  # tasks that have waited for each other for so long
SWEEPS: Final = 50  # times the timer heap was swept of cancelled timers
SWEEP_RATE: Final = 5.0  # and as many a second
GC_SHARE: Final = 0.05  # of the loop's active time in garbage collections that held it
GC_LONGEST: Final = 0.1  # or one pause
GC_TOTAL: Final = 0.2  # but never less than this in all

# The processor.
STARVED_SHARE: Final = 0.05  # of the time in which the process waited for a processor
STARVED_SECONDS: Final = 0.5
THROTTLED_SHARE: Final = 0.02  # of the time in which the container's CPU limit held it
THROTTLED_SECONDS: Final = 0.2
GIL_SHARE: Final = 0.05  # of the time in which threads of ours waited for the GIL
GIL_SECONDS: Final = 0.5
GIL_RETURNS_SHARE: Final = 0.2  # returns from polls, which wait some milliseconds each, count from this share on

# The network.
PAUSED_SHARE: Final = 0.1  # writing paused by peers that do not read, of the time observed
PAUSED_SECONDS: Final = 1.0
STORM_RATE: Final = 50.0  # new connections, or TLS handshakes, a second
STORM_COUNT: Final = 200
REFUSED: Final = 1

# traceloop itself.
DROPPED_SHARE: Final = 0.001  # of the records (alert: TraceloopRecordsDropped)
UNREADABLE_SHARE: Final = 0.5  # of the records: what is left is no ground for an all-clear


def table() -> dict[str, float]:
    """Every threshold by name."""
    return {name: float(value) for name, value in globals().items() if name.isupper()}
