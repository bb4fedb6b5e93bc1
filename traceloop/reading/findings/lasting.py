"""Lines about findings that last, which the collector prints while the program runs. The process itself prints stalls.

A leak or a deadlock is reported when it is first found. A full executor is reported when calls waited from one look to
the next. Each is reported again after ``REPEAT_SECONDS`` if it has got worse, and there are at most ``LINES_A_MINUTE``.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

from .model import Finding, Verdict

if TYPE_CHECKING:
    from ..statistics.run import Statistics

#: Time between two looks, s.
LOOK_SECONDS: Final = 5.0
REPEAT_SECONDS: Final = 300.0
LINES_A_MINUTE: Final = 6
_AT_ONCE: Final = frozenset(("deadlock", "timer-leak", "memory-leak", "task-leak"))
_WHEN_IT_GOES_ON: Final = frozenset(("executor-full", "pool-waits-for-itself"))
_MAX_KNOWN: Final = 500


class Lasting:
    """What was reported of one run. For one thread."""

    def __init__(self) -> None:
        # By finding: when it was reported (s), and how bad it was then; and how bad it was at the look before.
        self._told: dict[tuple[str, int, str], tuple[float, str]] = {}
        self._seen: dict[tuple[str, int, str], str] = {}
        self._said: deque[float] = deque(maxlen=LINES_A_MINUTE)
        self._next = 0.0

    def look(self, statistics: Statistics) -> list[str]:
        """The lines to print now: none between two looks. Takes the statistics' lock."""
        now = time.monotonic()
        if now < self._next or not statistics.processes:
            return []
        from .verdict import verdict  # here, since a short program ends before it is asked for

        with statistics.lock:
            judged = verdict(statistics, now)
        # A verdict of a very large process takes its time: no more than a hundredth of the collector's.
        self._next = now + max(LOOK_SECONDS, 100 * (time.monotonic() - now))
        return self.lines(judged, now)

    def lines(self, verdict: Verdict, now: float) -> list[str]:
        """The lines to print of this verdict at ``now`` (s)."""
        out: list[str] = []
        seen: dict[tuple[str, int, str], str] = {}
        for finding in verdict.troubles:
            if finding.kind not in _AT_ONCE and finding.kind not in _WHEN_IT_GOES_ON:
                continue
            # The title may have numbers that change; whose it is does not.
            key = finding.kind, finding.process, finding.who.function if finding.who is not None else ""
            seen[key] = finding.harm
            if self._is_due(key, finding, now):
                self._told[key] = now, finding.harm
                self._said.append(now)
                out.append(f"{finding.kind}: {finding.title}; {finding.harm}")
        self._seen = seen
        if len(self._told) > _MAX_KNOWN:
            self._told.clear()
        return out

    def _is_due(self, key: tuple[str, int, str], finding: Finding, now: float) -> bool:
        if len(self._said) == LINES_A_MINUTE and now - self._said[0] < 60.0:
            return False
        if finding.kind in _WHEN_IT_GOES_ON and self._seen.get(key) in (None, finding.harm):
            return False
        told = self._told.get(key)
        return told is None or (now - told[0] >= REPEAT_SECONDS and told[1] != finding.harm)
