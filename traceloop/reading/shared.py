"""What the callbacks of two records share: how much slower the machine was, and how much two runs differ anyway."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from ..record.plumbing import readable

# So many others that a middle can be told of.
_LEAST_OTHERS: Final = 2
# So many of the loop's own functions that the program's are not asked: a change of the program does not change these.
_ENOUGH_PLUMBING: Final = 3
# From so many on one that truly changed is left out of how much they disagree.
_ENOUGH_TO_LEAVE_ONE: Final = 5
# Two runs of the same code on the same machine differ by this, whatever the record says.
_ALWAYS: Final = math.log(1.05)
# Deviations of the others beyond which a name is no longer one of them.
_DEVIATIONS: Final = 2.5
_MOST_WAITS: Final = 0.95
#: From here on all became slower alike (as a ratio; faster: its inverse).
LEAST_SHIFT: Final = 1.15


class Interval(NamedTuple):
    """A ratio, B to A, and between what it lies."""

    ratio: float
    low: float
    high: float


class Shift(NamedTuple):
    """What callbacks became from A to B, as ratios, and within what one of them that did not change may lie.

    others: so many names tell that; 0 where nothing does. plumbing: the ratio of the loop's own functions, None where
    too few of them ran.
    """

    ratio: float
    low: float
    high: float
    others: int
    plumbing: float | None

    @property
    def is_everything(self) -> bool:
        """Whether all became slower, or all faster, alike."""
        return self.others > _LEAST_OTHERS and abs(math.log(self.ratio)) > math.log(LEAST_SHIFT)

    @property
    def is_the_loop_too(self) -> bool:
        """Whether the loop's own functions did so as well."""
        return self.plumbing is not None and (self.plumbing > LEAST_SHIFT) == (self.ratio > 1.0)

    def raised(self, power: float) -> Shift:
        """For what grows with a power of it."""
        return self if power == 1.0 else self._replace(low=self.low**power, high=self.high**power)


#: Nothing is known of others.
ALONE: Final = Shift(1.0, 1.0, 1.0, 0, None)


class Became(NamedTuple):
    """What one callback became: its ratio, B to A, above 0; and how many runs tell that."""

    ratio: float
    runs: int


def shared_by(became: Mapping[str, Became], waits: tuple[float, float], but: str = "") -> Shift:
    """What all became but one. waits: the shares of the time with work in which the loops of A and of B waited for a
    processor, 0 to 1: what waits as well lasts as much longer. Names with many runs count more.
    """
    every = {name: (math.log(each.ratio), math.sqrt(each.runs)) for name, each in became.items() if name != but}
    plumbing = [each for name, each in every.items() if readable(name) != name]
    enough = len(plumbing) >= _ENOUGH_PLUMBING
    others = plumbing if enough else [*every.values()]
    waited = math.log((1.0 - min(waits[0], _MOST_WAITS)) / (1.0 - min(waits[1], _MOST_WAITS)))
    if len(others) < _LEAST_OTHERS:
        return Shift(1.0, math.exp(min(0.0, waited) - _ALWAYS), math.exp(max(0.0, waited) + _ALWAYS), 0, None)
    middle = _median(others)
    apart = [(abs(value - middle), weight) for value, weight in others]
    many = len(others) >= _ENOUGH_TO_LEAVE_ONE
    width = max(_ALWAYS, _DEVIATIONS * 1.4826 * _median(apart) if many else max(apart)[0])
    return Shift(
        math.exp(middle),
        math.exp(min(middle, waited) - width),
        math.exp(max(middle, waited) + width),
        len(others),
        math.exp(_median(plumbing)) if enough else None,
    )


def _median(values: Iterable[tuple[float, float]]) -> float:
    """Of values with weights; between the two in the middle where half of the weight is on either side."""
    those = sorted(values)
    half, before = sum(weight for _, weight in those) / 2.0, 0.0
    for at, (value, weight) in enumerate(those):
        before += weight
        if math.isclose(before, half) and at + 1 < len(those):
            return (value + those[at + 1][0]) / 2.0
        if before >= half:
            return value
    return 0.0
