"""A loop's last minutes, second by second: how much of each it was active, and its longest iteration."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from math import floor
from operator import sub
from typing import TYPE_CHECKING, Final

from ..decoding.decoded import Decoded
from .parts import Sample

if TYPE_CHECKING:
    from .loop import LoopStatistics
    from .process import ProcessStatistics

#: Seconds that are kept.
KEPT: Final = 600
# A monotonic time (s) beyond this (thirty years) comes from a damaged record.
_LATEST: Final = 1e9


class Second:
    """One second. second: monotonic, whole s. active_s, longest_s: of the iterations that began in it, or lasted."""

    __slots__ = ("active_s", "callbacks", "iterations", "longest_s", "second")

    def __init__(self, second: int) -> None:
        self.second = second
        self.active_s = self.longest_s = 0.0
        self.iterations = self.callbacks = 0


class Timeline:
    """A part of a loop's statistics. seconds: the latest ones, in order, without those in which nothing ran."""

    def __init__(self, process: ProcessStatistics, loop: LoopStatistics) -> None:
        self.seconds: deque[Second] = deque(maxlen=KEPT)

    def feed(self, decoded: Decoded) -> None:
        """Takes in a chunk's iterations, a second's at a time."""
        iterations = decoded.iterations
        number = len(iterations)
        if not number:
            return
        starts, ends, callbacks = iterations.starts, iterations.ends, iterations.callbacks
        first = 0
        while first < number:
            start = starts[first]
            if not 0.0 <= start < _LATEST:
                first += 1
                continue
            second = floor(start)
            upto = max(first + 1, bisect_left(starts, second + 1.0, first))
            self._take(second, starts[first:upto], ends[first:upto], callbacks[first:upto])
            first = upto

    def _take(self, second: int, starts: Sequence[float], ends: Sequence[float], callbacks: Sequence[int]) -> None:
        entry = self._entry(second)
        if entry is None:
            return
        lengths = list(map(sub, ends, starts))
        active = sum(lengths)
        if not (min(lengths) >= 0.0 and active >= 0.0):  # a damaged record: a sum with a NaN is one
            lengths = [max(0.0, length) for length in lengths]
            active = sum(lengths)
        longest = max(lengths)
        entry.iterations += len(lengths)
        entry.callbacks += sum(callbacks)
        entry.longest_s = max(entry.longest_s, longest)
        entry.active_s += active
        end = ends[-1]
        # The last iteration may last beyond this second. The rest of it belongs to the seconds that follow.
        beyond = min(end, _LATEST) - (second + 1.0)
        if beyond > 0.0:
            entry.active_s -= min(beyond, lengths[-1])
            skipped = max(0, floor(beyond) - KEPT)
            for later in range(second + 1 + skipped, floor(end if end < _LATEST else second) + 1):
                following = self._entry(later)
                if following is not None:
                    following.active_s += min(1.0, end - later)
                    following.longest_s = max(following.longest_s, lengths[-1])

    def _entry(self, second: int) -> Second | None:
        """The entry of a second; None for one before the latest (another loop's record, read later)."""
        seconds = self.seconds
        if not seconds or second > seconds[-1].second:
            seconds.append(Second(second))
            return seconds[-1]
        if second == seconds[-1].second:
            return seconds[-1]
        return next((each for each in reversed(seconds) if each.second == second), None)

    def metrics(self) -> Iterator[Sample]:
        """No series."""
        return iter(())


def timeline_of(loop: LoopStatistics) -> Timeline | None:
    """The part of a loop label."""
    return next((part for part in loop.parts if isinstance(part, Timeline)), None)
