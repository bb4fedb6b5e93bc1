"""Calls that may block, as `--find-blocking` has found them (recording/blocking_calls.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ..decoding.decoded import Decoded
from .parts import Sample

_LIMIT: Final = 2000


class Place(NamedTuple):
    """A call and its place. call: the interpreter's audit event. The other fields describe the frame that called."""

    call: str
    file: str
    line: int
    module: str
    qualname: str


class Calls(NamedTuple):
    """How often a call was made, and how long it took: seconds of calls whose end was seen, and of the longest of them.

    -1 where no end was seen.
    """

    times: int
    seconds: float
    longest_s: float


_NONE = Calls(0, 0.0, -1.0)


class BlockingCallStatistics:
    """A part of a process's statistics. The process writes totals, so only the latest row of a place counts."""

    def __init__(self) -> None:
        self._latest: dict[Place, Calls] = {}
        self._ended: dict[Place, Calls] = {}
        #: Calls at places for which there was no room.
        self.left_out = 0

    def new_process(self) -> None:
        """Another process has the slot."""
        self._ended = self.totals()
        self._latest = {}

    def totals(self) -> dict[Place, Calls]:
        """By place, over all processes that have had the slot."""
        out = dict(self._ended)
        for place, calls in self._latest.items():
            before = out.get(place, _NONE)
            out[place] = Calls(
                before.times + calls.times,
                before.seconds + calls.seconds,
                max(before.longest_s, calls.longest_s),
            )
        return out

    def feed(self, decoded: Decoded) -> None:
        """Takes in one chunk of any ring of the process."""
        for event in decoded.events:
            if event.data.get("kind") == "blocking_calls":
                self._take(event.data)

    def _take(self, data: dict[str, Any]) -> None:
        try:
            self.left_out = int(data["left_out"])
            for call, file, line, module, qualname, count, seconds, longest in data["rows"]:
                place = Place(str(call), str(file), int(line), str(module), str(qualname))
                if place in self._latest or len(self._latest) < _LIMIT:
                    self._latest[place] = Calls(int(count), float(seconds), float(longest))
        except (KeyError, TypeError, ValueError, OverflowError):
            pass  # of another version, or damaged

    def metrics(self) -> Iterator[Sample]:
        """Nothing: places are for people, and too many for labels."""
        return iter(())
