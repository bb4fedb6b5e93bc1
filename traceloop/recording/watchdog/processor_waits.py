"""How long the loops' threads wait for a processor: recorded about once a second while they wait for much of the time.

Stalls and late turns of the watchdog measure that too. But a loop that computes in short callbacks beside busy
processes has neither: the watchdog sleeps nearly all the time, so the kernel lets it run at once. This module compares
the samples that each turn of the watchdog takes anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from .thread_clocks import Sample
from .watched_loop import Watched

# Samples so far apart (s) are compared. A loop that waited for this share of the time between them is recorded.
_LOOK_SECONDS: Final = 1.0
_MUCH: Final = 0.05
# From then on it is recorded at least once in so many s, so that its better times count too.
_AGAIN_SECONDS: Final = 10.0


class ProcessorWaits:
    """Of one process; called by the watchdog, in its thread."""

    def __init__(self, report: Callable[[dict[str, Any], float], bool]) -> None:
        """``report(event, now)`` writes an event, if there may be one more."""
        self._report = report

    def poll(self, loops: Iterable[Watched], now: float, *, ended: bool = False) -> None:
        """Compares the latest samples of the loops with those of a second before. ``ended``: the loops have stopped."""
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
