"""How long a container's CPU limit has held a process: what its watchdog read in its control group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ...record.throttles import Held
from ..decoding.decoded import Decoded
from .parts import Sample

_MAX_HELD: Final = 4096
_LATEST: Final = 2.0**33


class Throttling:
    """A part of a process's statistics. periods, seconds: over all processes that had the slot. A period is the 0.1 s
    (mostly) for which the limit is counted; seconds are of all processors on which the group was held.
    """

    def __init__(self) -> None:
        self.periods = 0
        self.seconds = 0.0
        # Whether a limit was ever met: else there are no series.
        self._met = False

    def feed(self, decoded: Decoded) -> None:
        """Takes in what the watchdog wrote down."""
        for event in decoded.events:
            if event.data.get("kind") == "throttled":
                for _, _, periods, seconds in held_of(event.data):
                    self._met = True
                    self.periods += periods
                    self.seconds += seconds

    def metrics(self) -> Iterator[Sample]:
        """The series as they stand, without the label ``process``; none of a process that no limit has held."""
        if self._met:
            yield Sample("process_cpu_throttled_seconds_total", (), self.seconds)


def held_of(data: Any) -> list[Held]:
    """What an event has; nothing of a damaged one."""
    out: list[Held] = []
    try:
        for begin, end, periods, seconds in data["held"][:_MAX_HELD]:
            if 0.0 <= begin <= end < _LATEST and 0 <= periods < _LATEST and 0.0 <= seconds < _LATEST:
                out.append(Held(float(begin), float(end), int(periods), float(seconds)))
    except (KeyError, TypeError, ValueError):
        return []
    return out
