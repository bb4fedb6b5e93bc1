"""How long the loops' threads wait for a processor: written down about once a second while that is much.

Stalls and a watchdog that comes late are measured as well, but there is neither where a loop computes in short
callbacks beside busy processes: the watchdog sleeps nearly all the time, and the kernel lets it run at once. What is
compared here are the samples that each turn of the watchdog takes anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from .thread_clocks import Sample
from .watched_loop import Watched

# Looks are so far apart, s; a loop that has waited for this share of the time between two is written down.
_LOOK_SECONDS: Final = 1.0
_MUCH: Final = 0.05
# And from then on, so that its better times count too, each time that so many s have passed.
_AGAIN_SECONDS: Final = 10.0


class ProcessorWaits:
    """Of one process; called by the watchdog, in its thread."""

    def __init__(self, report: Callable[[dict[str, Any], float], bool]) -> None:
        """``report(event, now)`` writes an event, if there may be one more."""
        self._report = report

    def poll(self, loops: Iterable[Watched], now: float, *, ended: bool = False) -> None:
        """Compares the latest samples of the loops with those of about a second ago. ``ended``: they run no more."""
        found: list[tuple[int, Sample, Sample]] = []
        for watched in loops:
            if not watched.history:
                continue
            last = watched.history[-1]
            if watched.first is None:
                watched.first = watched.compared = watched.written = last
                continue
            passed = last[0] - watched.compared[0]
            if passed <= 0.0 or (passed < _LOOK_SECONDS and not ended):
                continue
            much = watched.first[3] >= 0.0 and last[3] - watched.compared[3] >= _MUCH * passed
            watched.compared = last
            if much or (
                watched.written is not watched.first and (ended or last[0] - watched.written[0] >= _AGAIN_SECONDS)
            ):
                watched.written = last
                found.append((watched.ring, watched.first, last))
        if found:
            self._report({"kind": "processor", "loops": found}, now)
