"""From how many seconds on a handle run is slow in a loop: what was chosen for the run, and what the program says.

`--slow-threshold` holds for every loop whose ``slow_callback_duration`` is asyncio's own 0.1; a program that sets the
attribute decides for that loop. The attribute itself is left alone: programs read it, and debug mode logs by it.
"""

from __future__ import annotations

import math
from typing import Any

_STANDARD = 0.1
# 0 makes every run slow. The gaps between two stacks of a run are made by doubling, and double nothing for ever.
_LEAST = 1e-6


def threshold_of(loop: Any, general: float) -> float:
    """The threshold in force in ``loop``, s; infinite where nothing is to be slow. Any thread."""
    given = loop.slow_callback_duration
    if not isinstance(given, float | int) or given == _STANDARD or given != given:
        return general
    try:
        return max(float(given), _LEAST)
    except OverflowError:
        return math.inf
