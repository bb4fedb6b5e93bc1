"""The threshold of slow runs in a loop: the one chosen for the run, or the one that the program sets for the loop.

`--slow-threshold` applies to every loop whose ``slow_callback_duration`` is asyncio's default of 0.1. A program that
sets the attribute decides for that loop. We never change the attribute: programs read it, and debug mode logs by it.
"""

from __future__ import annotations

import math
from typing import Any

_STANDARD = 0.1
# A threshold of 0 would make every run slow, and the watchdog doubles the time between two stacks: twice 0 is 0.
_LEAST = 1e-6


def own_threshold(loop: Any) -> Any:
    """What the program has set for ``loop``, whatever that is; None where it cannot be read. Any thread."""
    try:
        return loop.slow_callback_duration
    except Exception:  # a property of the program's own, or deleted
        return None


def threshold_of(loop: Any, general: float) -> float:
    """The threshold in force in ``loop``, s; infinite where no run is to count as slow. Any thread."""
    given = own_threshold(loop)
    if not isinstance(given, float | int) or given == _STANDARD or given != given:
        return general
    try:
        return max(float(given), _LEAST)
    except OverflowError:
        return math.inf
