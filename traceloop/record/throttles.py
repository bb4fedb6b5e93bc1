"""For how long a container's CPU limit held a process, between two looks at its control group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Held(NamedTuple):
    """Between two looks (monotonic s): periods in which the group was held, and for how long, s (of all processors)."""

    begin: float
    end: float
    periods: int
    seconds: float


def throttled_during(start: float, end: float, held: Iterable[Held]) -> float:
    """For how long (s) a process was held between two moments. A look that reaches beyond them counts in part."""
    total = 0.0
    for each in held:
        inside = min(end, each.end) - max(start, each.begin)
        if inside > 0.0 and each.end > each.begin:
            total += min(inside, each.seconds * inside / (each.end - each.begin))
    return total
