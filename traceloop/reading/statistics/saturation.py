"""A full executor: which functions had its workers while other calls waited for one.

A wait is shared out among the functions that ran meanwhile, in proportion to their time on workers. Submits, starts and
ends come through different rings, in no certain order. So waits are kept for a while and shared out together once the
runs around them are known, at the latest when the numbers are read.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from math import inf
from typing import Final, NamedTuple

# A shorter wait, s, is that for a thread's start or for the GIL, and no sign of a full executor.
FULL_SECONDS: Final = 0.005
_MAX_WAITS: Final = 5000
_MAX_RUNS: Final = 20_000
_KEPT_SECONDS: Final = 60.0
_MAX_WAITERS: Final = 200


class OffloadRun(NamedTuple):
    """One call: start and end (monotonic s), function."""

    start: float
    end: float
    function: str


class Filler:
    """A function that had workers while other calls waited. seconds: for which they waited because of it, added up.

    waiters: the same seconds by waiting function.
    """

    __slots__ = ("seconds", "waiters")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.waiters: dict[str, float] = {}


class _Sums:
    """Integrals over the number of runs of one function, from their starts and ends."""

    def __init__(self, runs: list[OffloadRun]) -> None:
        self.starts = sorted(run.start for run in runs)
        self.ends = sorted(run.end for run in runs)
        self._start_sums = [0.0, *accumulate(self.starts)]
        self._end_sums = [0.0, *accumulate(self.ends)]

    def until(self, moment: float) -> float:
        """Worker time up to ``moment``, s."""
        begun, over = bisect_left(self.starts, moment), bisect_left(self.ends, moment)
        return begun * moment - self._start_sums[begun] - (over * moment - self._end_sums[over])

    def times_of(self, number: int) -> tuple[list[float], list[float]]:
        """The times in which at least ``number`` ran: their beginnings and ends (monotonic s)."""
        begins: list[float] = []
        ends: list[float] = []
        running = 0
        # Where one run ends at the moment at which another starts, the number must not fall in between.
        for moment, change in sorted([(start, -1) for start in self.starts] + [(end, 1) for end in self.ends]):
            running -= change
            if running >= number and change < 0 and len(begins) == len(ends):
                begins.append(moment)
            elif running < number and len(begins) > len(ends):
                ends.append(moment)
        ends += [inf] * (len(begins) - len(ends))
        return begins, ends


class Saturation:
    """The waits for workers of one executor. ``max_workers``: 0 where not known; every long enough wait counts then."""

    def __init__(self) -> None:
        self.max_workers = 0
        #: Seconds in which at least one call waited for a worker, of the calls that have started by now.
        self.seconds = 0.0
        #: Calls that waited, and the longest wait, s.
        self.waits = 0
        self.longest = 0.0
        self.fillers: dict[str, Filler] = {}
        self._until = 0.0
        self._waits: list[OffloadRun] = []
        self._runs: list[OffloadRun] = []
        self._open: dict[int, tuple[float, str]] = {}

    def started(self, key: int, function: str, submit: float, start: float) -> None:
        """A call of ``function`` started; ``key`` until its end."""
        self._open[key] = start, function
        if start - submit >= FULL_SECONDS:
            self._waits.append(OffloadRun(submit, start, function))
            if len(self._waits) >= _MAX_WAITS:
                self.settle()

    def gave_up(self, function: str, submit: float, end: float) -> None:
        """A call of ``function`` was given up before it started."""
        if end - submit >= FULL_SECONDS:
            self._waits.append(OffloadRun(submit, end, function))
            if len(self._waits) >= _MAX_WAITS:
                self.settle()

    def finished(self, key: int, end: float) -> None:
        """A call ended, at ``end`` (monotonic s)."""
        known = self._open.pop(key, None)
        if known is not None:
            self._runs.append(OffloadRun(known[0], end, known[1]))
            if len(self._runs) > 2 * _MAX_RUNS:
                self.settle()
                del self._runs[:-_MAX_RUNS]

    def forget(self, key: int) -> None:
        """The end of a call will never be known."""
        self._open.pop(key, None)

    def settle(self) -> None:
        """Shares out the waits that are known."""
        waits, self._waits = self._waits, []
        if waits:
            latest = max(wait.end for wait in waits)
            runs = self._runs + [OffloadRun(start, latest + 1.0, function) for start, function in self._open.values()]
            by_function: dict[str, list[OffloadRun]] = {}
            for run in runs:
                by_function.setdefault(run.function, []).append(run)
            every = _Sums(runs)
            sums = {function: _Sums(each) for function, each in by_function.items()}
            begins, ends = every.times_of(self.max_workers)
            for wait in sorted(waits):
                # The executor was full at some moment of the wait. At its end other workers may be free as well. What
                # was full from that end on only, the call itself filled: its worker's thread was slow to start.
                last = bisect_left(begins, wait.end) - 1
                if last >= 0 and ends[last] >= wait.start:
                    self._share(wait, every, sums)
            self._runs = [run for run in self._runs if run.end > latest - _KEPT_SECONDS]

    def _share(self, wait: OffloadRun, every: _Sums, sums: dict[str, _Sums]) -> None:
        begin, end, waiter = wait
        self.waits += 1
        self.longest = max(self.longest, end - begin)
        self.seconds += max(0.0, end - max(begin, self._until))
        self._until = max(self._until, end)
        whole = every.until(end) - every.until(begin)
        if whole <= 0.0:
            return
        for function, each in sums.items():
            share = (each.until(end) - each.until(begin)) / whole * (end - begin)
            if share <= 0.0:
                continue
            filler = self.fillers.get(function)
            if filler is None:
                filler = self.fillers[function] = Filler()
            filler.seconds += share
            if waiter in filler.waiters or len(filler.waiters) < _MAX_WAITERS:
                filler.waiters[waiter] = filler.waiters.get(waiter, 0.0) + share
