"""Why a handle run was slow, from the measurements around it.

The watchdog measures (``Sample``) at moments of its own, not at the run's start and end. So each part of the run's time
lies between two bounds. They are some tens of milliseconds apart at each end, which is little for a run that is worth
asking about. Reports show the middle of the bounds. Where the bounds do not decide the cause, they call it a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

CPU: Final = "cpu"
GC: Final = "gc"
GIL: Final = "gil"
OFF_CPU: Final = "off_cpu"
#: The process or the machine was stopped. No code is to blame, and the run does not count as a slow callback.
SUSPENDED: Final = "suspended"

#: Clock, CPU time of the loop's thread, CPU time of the process, time waited for a processor (all s), and how often the
#: thread was put on a processor.
Sample = Sequence[float]

# A thread that waits for the GIL wakes every switch interval (5 ms) to ask for it; a thread that sleeps, or waits for a
# lock or the network, does not. This is half of that rate, since other threads may have the processor in between.
_GIL_WAKES_PER_SECOND: Final = 100.0
_STARVED: Final = 0.9
_LARGEST: Final = 2.0**53


class Parts(NamedTuple):
    """The parts of a run's time, s; -1 where a part is not known.

    cause: "" where it is not known. guess: whether the bounds do not decide the cause. throttled: the part of
    ``processor_wait`` in which a container's CPU limit held the process. longest_wait: the most that ``processor_wait``
    can have been, by the samples around the run.
    """

    cause: str
    guess: bool
    cpu: float
    gc: float
    processor_wait: float
    suspended: float
    throttled: float = 0.0
    longest_wait: float = -1.0


class _Bounded(NamedTuple):
    """A lower and an upper bound, s. measured: the upper bound, without the ends of the run that no samples enclose."""

    low: float
    high: float
    measured: float

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


def parts_of(
    start: float,
    end: float,
    samples: Iterable[Sample],
    collections: Iterable[tuple[float, float]] = (),
    suspensions: Iterable[tuple[float, float]] = (),
) -> Parts:
    """The parts of a run. collections: (start, duration) of each garbage collection; suspensions: (from, to)."""
    length = max(0.0, end - start)
    suspended = sum((_overlap(start, end, begin, until) for begin, until in suspensions), 0.0)
    gc = sum((_overlap(start, end, begin, begin + duration) for begin, duration in collections), 0.0)
    series = sorted({tuple(map(float, sample)) for sample in samples if is_sample(sample)})
    cpu = _during(start, end, [(sample[0], sample[1]) for sample in series if sample[1] >= 0.0])
    wait = _during(start, end, _counted_at_once([(sample[0], sample[3]) for sample in series if sample[3] >= 0.0]))

    def parts(cause: str, guess: bool = False) -> Parts:
        known_cpu = cpu.middle if cpu is not None else -1.0
        known_wait, longest_wait = (wait.middle, wait.measured) if wait is not None else (-1.0, -1.0)
        return Parts(cause, guess, known_cpu, gc, known_wait, suspended, longest_wait=longest_wait)

    if length <= 0.0:
        return parts("")
    if suspended >= length / 2:
        return parts(SUSPENDED)
    rest = length - suspended
    # Waiting for a processor is the machine's doing: it is reported separately, and what remains decides.
    waited = wait.middle if wait is not None else 0.0
    # Where the thread waited for a processor nearly all the time, too little remains to decide by.
    starved = waited >= _STARVED * rest
    if gc >= rest / 2:
        return parts(GC, starved)
    if cpu is None:
        return parts("")
    least, most = (wait.low, wait.high) if wait is not None else (0.0, 0.0)

    def half(waited: float) -> float:
        return max(0.0, rest - waited) / 2

    # The cause is sure where it is the same at each end of both bounds.
    off = max(0.0, rest - cpu.middle - waited)
    if cpu.middle >= half(waited):
        return parts(CPU, starved or cpu.low < half(least))
    guess = starved or cpu.high > half(most)
    gil, sure = _waits_for_gil(series, off)
    return parts(GIL if gil else OFF_CPU, guess or not sure)


def _waits_for_gil(series: list[tuple[float, ...]], off: float) -> tuple[bool, bool]:
    """Whether the time off the processor was spent on the GIL, and whether that is sure."""
    if len(series) < 2:
        return False, False
    first, last = series[0], series[-1]
    span = last[0] - first[0]
    others = (last[2] - first[2]) - (last[1] - first[1])
    if others < off / 5:
        return False, True  # no other thread computed for so long
    # On a busy machine, the GIL's holder may itself wait for a processor. Then less is computed than was waited.
    sure = others >= off / 2
    slices = [(sample[0], sample[4]) for sample in series if sample[4] >= 0]
    if len(slices) < 2 or slices[-1][0] <= slices[0][0]:
        return sure, False
    rate = (slices[-1][1] - slices[0][1]) / (slices[-1][0] - slices[0][0])
    return rate >= _GIL_WAKES_PER_SECOND * min(1.0, off / span), sure


def is_sample(sample: object) -> bool:
    """Whether a value from a record is a measurement: five finite numbers."""
    return (
        isinstance(sample, list | tuple)
        and len(sample) == 5
        and all(isinstance(each, int | float) and -_LARGEST < each < _LARGEST for each in sample)
    )


def _overlap(start: float, end: float, begin: float, until: float) -> float:
    return max(0.0, min(end, until) - max(start, begin))


def _counted_at_once(series: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Corrects a clock of waiting time: the kernel counts a wait only when it ends, not while it passes.

    So a sample in the middle of a wait lacks the wait, and the next sample has more than the time between the two.
    """
    out = series[:]
    for index in range(len(out) - 2, -1, -1):
        (t0, v0), (t1, v1) = out[index : index + 2]
        out[index] = t0, max(v0, v1 - (t1 - t0))
    return out


def _during(start: float, end: float, series: list[tuple[float, float]]) -> _Bounded | None:
    """Bounds for how far a clock advanced from start to end (s); None where no samples tell.

    The clock never advances faster than the time.
    """
    low = high = covered = 0.0
    for (t0, v0), (t1, v1) in pairwise(series):
        inside = _overlap(start, end, t0, t1)
        if inside <= 0.0 or t1 <= t0:
            continue
        advance = min(max(0.0, v1 - v0), t1 - t0)
        outside = (t1 - t0) - inside
        low += max(0.0, advance - outside)
        high += min(advance, inside)
        covered += inside
    if covered < (end - start) / 2:
        return None
    return _Bounded(low, high + (end - start - covered), high)
