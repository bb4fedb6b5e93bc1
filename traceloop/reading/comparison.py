"""Two records compared: what became slower, by callback and by request, and how sure that is.

Two things are compared: what a run usually takes, which is the mean without the longest tenth of the runs (the machine,
or an accident, may have stretched these); and the mean of all. A median would say less: a coroutine's steps are often
of two sorts, one long and one short, and their median is either, by chance.

Runs that follow each other are alike (a full cache, a busy minute), so they are no independent samples. The interval of
each ratio is therefore a bootstrap over blocks of runs in a row: as many blocks as there are are drawn with repetition,
again and again, and 99 in 100 of the ratios that come out lie in the interval. 99 and not 95, since many names are
compared at once. Fewer than ``LEAST_RUNS`` runs on a side give no verdict.

What it cannot know: whether the machine was equally busy. A change that all names share is the machine's, more likely
than not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

from ..record.sites import site_of
from .requests.totals import Request
from .statistics.labels import BoundedLabels

if TYPE_CHECKING:
    from .follower import Chunk

#: Runs on each side below which nothing is said.
LEAST_RUNS: Final = 30
#: A change is worth a verdict from here on, as a ratio.
LEAST_CHANGE: Final = 1.05
#: Names that are compared; the ones that took most time.
MOST_NAMES: Final = 100
_BLOCKS: Final = 64
_DRAWS: Final = 200
# Values that are kept to tell the longest ones: every so manyth of all.
_KEPT: Final = 512
_COVERED: Final = 0.99
_LARGEST: Final = 2.0**33

SLOWER: Final = "slower"
#: What a run usually takes did not grow, the mean did.
SOME_SLOWER: Final = "some runs slower"
FASTER: Final = "faster"
SAME: Final = "same"
UNCLEAR: Final = "unclear"
TOO_FEW: Final = "too few runs"
ONLY_A: Final = "only in A"
ONLY_B: Final = "only in B"


_ORDER: Final = {SLOWER: 0, SOME_SLOWER: 1}


class Blocks:
    """Values in the order in which they came, in 64 to 128 blocks once there are as many. count, total: of all.

    kept: every ``stride``-th of them, 256 to 512 once there are as many.
    """

    __slots__ = ("_in_last", "count", "counts", "kept", "size", "stride", "sums", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        #: Values of a full block; by block, how many there are and their sum.
        self.size = 1
        self.counts: list[int] = []
        self.sums: list[float] = []
        self._in_last = 1
        self.kept: list[float] = []
        self.stride = 1

    def add(self, value: float) -> None:
        """Adds one; what no clock shows is passed over."""
        if not 0.0 <= value < _LARGEST:
            return
        if self.count % self.stride == 0:
            if len(self.kept) == _KEPT:
                del self.kept[1::2]
                self.stride *= 2
            if self.count % self.stride == 0:
                self.kept.append(value)
        self.count += 1
        self.total += value
        if self._in_last < self.size and self.counts:
            self._in_last += 1
            self.counts[-1] += 1
            self.sums[-1] += value
            return
        if len(self.counts) == 2 * _BLOCKS:
            self.counts = [self.counts[at] + self.counts[at + 1] for at in range(0, 2 * _BLOCKS, 2)]
            self.sums = [self.sums[at] + self.sums[at + 1] for at in range(0, 2 * _BLOCKS, 2)]
            self.size *= 2
        self.counts.append(1)
        self.sums.append(value)
        self._in_last = 1

    @property
    def mean(self) -> float:
        """Of all values; 0 where there are none."""
        return self.total / self.count if self.count else 0.0

    @property
    def usual(self) -> float:
        """The mean of the values that are kept, without the longest tenth."""
        return _usual(self.kept) if self.kept else 0.0

    def drawn_usual(self, random: Random) -> float:
        """The same of blocks of values that are kept, drawn with repetition."""
        size = max(1, len(self.kept) // _BLOCKS)
        starts = random.choices(range(len(self.kept) - size + 1), k=len(self.kept) // size)
        return _usual([value for start in starts for value in self.kept[start : start + size]])

    def drawn_mean(self, random: Random) -> float:
        """The mean of as many blocks as there are, drawn with repetition."""
        every = random.choices(range(len(self.counts)), k=len(self.counts))
        return sum([self.sums[at] for at in every]) / sum([self.counts[at] for at in every])


def _usual(values: list[float]) -> float:
    shorter = sorted(values)[: max(1, len(values) * 9 // 10)]
    return sum(shorter) / len(shorter)


class Durations:
    """What one record says: durations of runs by callback, of requests by name, and schedule delays of all runs, s.

    The statistics that read the record have ``take_request`` as a watcher of requests.
    """

    def __init__(self) -> None:
        self.callbacks: dict[str, Blocks] = {}
        self.requests: dict[str, Blocks] = {}
        self.delays = Blocks()
        self._labels, self._names = BoundedLabels(2000), BoundedLabels(200)

    def take(self, chunk: Chunk) -> None:
        """Takes in a chunk of a loop's ring; others say nothing."""
        statistics = chunk.ring.process.statistics
        sites: dict[int, Blocks] = {}
        late = self.delays.add
        for _, start, end, ident, _, delay, _, _, _, _ in chunk.decoded.runs:
            site = site_of(ident)
            blocks = sites.get(site)
            if blocks is None:
                label = self._labels.admit(statistics.sites.label(site))
                blocks = sites[site] = self.callbacks.setdefault(label, Blocks())
            blocks.add(end - start)
            late(delay)

    def take_request(self, request: Request) -> None:
        """Takes in a request that was answered."""
        self.requests.setdefault(self._names.admit(request.name), Blocks()).add(request.seconds)


class Interval(NamedTuple):
    """A ratio, B to A, and between what it lies."""

    ratio: float
    low: float
    high: float

    @property
    def is_above(self) -> bool:
        """Whether it is large enough to be reported."""
        return self.low > LEAST_CHANGE

    @property
    def is_below(self) -> bool:
        """The same of smaller."""
        return self.high < 1.0 / LEAST_CHANGE


class Change(NamedTuple):
    """One name in two records: runs, what a run usually takes and the mean (s) of each. usual, mean: B's to A's, None
    where there is no verdict. added_s: by how much B's runs took longer than as many usually take in A.
    """

    name: str
    runs_a: int
    runs_b: int
    usual_a: float
    usual_b: float
    mean_a: float
    mean_b: float
    usual: Interval | None
    mean: Interval | None
    verdict: str

    @property
    def added_s(self) -> float:
        """Seconds; below 0 where it became faster."""
        return (self.usual_b - self.usual_a) * self.runs_b


def compare(name: str, a: Blocks, b: Blocks) -> Change:
    """Compares one name. The same records give the same answer: what is drawn is drawn by the name."""
    out = Change(name, a.count, b.count, a.usual, b.usual, a.mean, b.mean, None, None, TOO_FEW)
    if not a.count or not b.count:
        return out._replace(verdict=ONLY_B if b.count else ONLY_A)
    if min(a.count, b.count) < LEAST_RUNS or not a.usual or not a.mean:
        return out
    random = Random(name)
    usual = _interval(b.usual / a.usual, lambda: b.drawn_usual(random) / (a.drawn_usual(random) or 1e-9))
    mean = _interval(b.mean / a.mean, lambda: b.drawn_mean(random) / (a.drawn_mean(random) or 1e-9))
    if usual.is_above:
        verdict = SLOWER
    elif usual.is_below and not mean.is_above:
        verdict = FASTER
    elif mean.is_above:
        verdict = SOME_SLOWER
    elif usual.low > 1.0 / LEAST_CHANGE and usual.high < LEAST_CHANGE:
        verdict = SAME
    else:
        verdict = UNCLEAR
    return out._replace(usual=usual, mean=mean, verdict=verdict)


def _interval(ratio: float, draw: Callable[[], float]) -> Interval:
    ratios = sorted(draw() for _ in range(_DRAWS))
    beyond = round((1.0 - _COVERED) / 2.0 * _DRAWS)
    return Interval(ratio, ratios[beyond], ratios[-1 - beyond])


def changes(a: Mapping[str, Blocks], b: Mapping[str, Blocks]) -> list[Change]:
    """The names of both that took most time, the ones that became slower first, by what that added."""
    nothing = Blocks()
    pairs = {name: (a.get(name, nothing), b.get(name, nothing)) for name in {*a, *b}}
    most = sorted(pairs.items(), key=lambda item: (-(item[1][0].total + item[1][1].total), item[0]))[:MOST_NAMES]
    return sorted(_compared(dict(most)), key=lambda each: (_ORDER.get(each.verdict, 2), -abs(each.added_s), each.name))


def _compared(pairs: Mapping[str, tuple[Blocks, Blocks]]) -> Iterator[Change]:
    for name, (before, after) in pairs.items():
        yield compare(name, before, after)
