"""Two records compared: what became slower, by callback and by request, and how sure that is.

Two things are compared: what a run usually takes, which is the mean without the longest tenth of the runs (the machine,
or an accident, may have stretched these); and the mean of all. A median would say less: a coroutine's steps are often
of two sorts, one long and one short, and their median is either, by chance.

Runs that follow each other are alike (a full cache, a busy minute), so they are no independent samples. The interval of
each ratio is therefore a bootstrap over sixteenths of the record: as many stretches of runs in a row are drawn with
repetition, again and again, and 99 in 100 of the ratios that come out lie in the interval. 99 and not 95, since many
names are compared at once; it is widened a little, since sixteen are few. Fewer than ``LEAST_RUNS`` runs on a side give
no verdict.

No interval within a record tells how a second run of the same code would have differed: the machine may have been
busier. The other callbacks tell. What they share is the machine's, more likely than not, and by how much they disagree
is what two runs of the same code differ by. So a name is slower only where its interval is beyond both what it was and
what the others became (``shared.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

from ..record.sites import site_of
from .requests.totals import Request
from .shared import ALONE, Became, Interval, Shift, shared_by
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
# Stretches of a record that are drawn: long ones, since a busy second is in many runs.
_STRETCHES: Final = 16
# Sixteen are few: Student's t to the normal distribution, times sqrt(16/15).
_FEW: Final = 1.18
_DRAWS: Final = 200
# Values that are kept to tell the longest ones: every so manyth of all.
_KEPT: Final = 512
_COVERED: Final = 0.99
_LARGEST: Final = 2.0**33
# A thread that waits for a processor waits about as long (s) and then runs about as long.
_SLICE: Final = 0.003

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
        """The same of stretches of values that are kept, drawn with repetition."""
        size = max(1, len(self.kept) // _STRETCHES)
        starts = random.choices(range(len(self.kept) - size + 1), k=len(self.kept) // size)
        return _usual([value for start in starts for value in self.kept[start : start + size]])

    def drawn_mean(self, random: Random) -> float:
        """The mean of stretches of blocks, drawn with repetition."""
        size = max(1, len(self.counts) // _STRETCHES)
        starts = random.choices(range(len(self.counts) - size + 1), k=len(self.counts) // size)
        every = [at for start in starts for at in range(start, start + size)]
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
        #: Share of the time in which the loops had work that they waited for a processor, as far as that was measured.
        self.waits = 0.0
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


def compare(name: str, a: Blocks, b: Blocks, usually: Shift = ALONE, on_average: Shift = ALONE) -> Change:
    """Compares one name with itself and with what the other callbacks became: ``usually``, ``on_average``.

    The same records give the same answer: what is drawn is drawn by the name.
    """
    out = Change(name, a.count, b.count, a.usual, b.usual, a.mean, b.mean, None, None, TOO_FEW)
    if not a.count or not b.count:
        return out._replace(verdict=ONLY_B if b.count else ONLY_A)
    if not _is_enough(a, b):
        return out
    random = Random(name)
    usual = _interval(b.usual / a.usual, lambda: b.drawn_usual(random) / (a.drawn_usual(random) or 1e-9))
    mean = _interval(b.mean / a.mean, lambda: b.drawn_mean(random) / (a.drawn_mean(random) or 1e-9))
    is_longer = mean.low > LEAST_CHANGE * max(1.0, on_average.high)
    if usual.low > LEAST_CHANGE * max(1.0, usually.high):
        verdict = SLOWER
    elif usual.high < min(1.0, usually.low) / LEAST_CHANGE and not is_longer:
        verdict = FASTER
    elif is_longer:
        verdict = SOME_SLOWER
    elif usual.low > 1.0 / LEAST_CHANGE and usual.high < LEAST_CHANGE:
        verdict = SAME
    else:
        verdict = UNCLEAR
    return out._replace(usual=usual, mean=mean, verdict=verdict)


def _is_enough(a: Blocks, b: Blocks) -> bool:
    return min(a.count, b.count) >= LEAST_RUNS and min(a.usual, a.mean, b.usual, b.mean) > 0.0


def _interval(ratio: float, draw: Callable[[], float]) -> Interval:
    ratios = sorted(draw() for _ in range(_DRAWS))
    beyond = round((1.0 - _COVERED) / 2.0 * _DRAWS)
    low, high = ratios[beyond], ratios[-1 - beyond]
    if low <= 0.0:
        return Interval(ratio, 0.0, high)
    return Interval(ratio, low * min(1.0, low / ratio) ** (_FEW - 1.0), high * max(1.0, high / ratio) ** (_FEW - 1.0))


def changes(
    a: Mapping[str, Blocks],
    b: Mapping[str, Blocks],
    shifts_of: Callable[[str, Blocks, Blocks], tuple[Shift, Shift]] = lambda *_: (ALONE, ALONE),
) -> list[Change]:
    """The names of both that took most time, the ones that became slower first, by what that added.

    shifts_of: what the others of a name became, usually and on average.
    """
    nothing = Blocks()
    pairs = {name: (a.get(name, nothing), b.get(name, nothing)) for name in {*a, *b}}
    most = sorted(pairs.items(), key=lambda item: (-(item[1][0].total + item[1][1].total), item[0]))[:MOST_NAMES]
    found = [compare(name, *pair, *shifts_of(name, *pair)) for name, pair in most]
    return sorted(found, key=lambda each: (_ORDER.get(each.verdict, 2), -abs(each.added_s), each.name))


class Comparison(NamedTuple):
    """Two records compared. shift: what the callbacks became, all alike; waits: as ``Durations.waits``, of A and B."""

    requests: list[Change]
    callbacks: list[Change]
    schedule_delay: list[Change]
    shift: Shift
    waits: tuple[float, float]


def compare_records(a: Durations, b: Durations) -> Comparison:
    """Compares all of both: the names that took most time, the ones that became slower first, by what that added."""
    waits = a.waits, b.waits
    both = {name: (a.callbacks[name], b.callbacks[name]) for name in a.callbacks.keys() & b.callbacks.keys()}
    both = {name: pair for name, pair in both.items() if _is_enough(*pair)}
    least = {name: min(before.count, after.count) for name, (before, after) in both.items()}
    usual = {name: Became(after.usual / before.usual, least[name]) for name, (before, after) in both.items()}
    mean = {name: Became(after.mean / before.mean, least[name]) for name, (before, after) in both.items()}

    def shifts_of(name: str, before: Blocks, after: Blocks, power: float = 1.0) -> tuple[Shift, Shift]:
        # Short runs seldom wait: those that do are in the longest tenth.
        waited = waits if power > 1.0 or max(before.usual, after.usual) >= _SLICE else (0.0, 0.0)
        return shared_by(usual, waited, name).raised(power), shared_by(mean, waits, name).raised(power)

    delays = {"all callbacks": a.delays}, {"all callbacks": b.delays}
    return Comparison(
        changes(a.requests, b.requests, shifts_of),
        changes(a.callbacks, b.callbacks, shifts_of),
        # Who waits waits for several runs, and for the processor before each of them: delays grow faster than runs.
        changes(*delays, partial(shifts_of, power=2.0)),
        shared_by(usual, (0.0, 0.0)),
        waits,
    )
