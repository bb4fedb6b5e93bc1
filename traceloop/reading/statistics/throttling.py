"""How long a container's CPU limit has throttled a process, as its watchdog read it from the control group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ...record.throttles import Held
from ..decoding.decoded import Decoded
from .parts import Sample

_MAX_HELD: Final = 4096
_LATEST: Final = 2.0**33


class Throttling:
    """A part of a process's statistics. periods, seconds: of all processes that had the slot.

    The limit applies to periods of 0.1 s (usually). The seconds are added up over all processors on which the group was
    throttled.
    """

    def __init__(self) -> None:
        self.periods = 0
        self.seconds = 0.0
        # Whether a limit ever applied. If not, there are no series.
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
    """The entries of an event; none where it is damaged."""
    out: list[Held] = []
    try:
        for begin, end, periods, seconds in data["held"][:_MAX_HELD]:
            if 0.0 <= begin <= end < _LATEST and 0 <= periods < _LATEST and 0.0 <= seconds < _LATEST:
                out.append(Held(float(begin), float(end), int(periods), float(seconds)))
    except (KeyError, TypeError, ValueError):
        return []
    return out
