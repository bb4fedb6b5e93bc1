"""Waiting for what another process or thread does.

Nothing here waits longer than it has to, so the limit is long: a machine may be so busy that a tenth of a second's work
takes twenty. A test that needs a short limit says what breaks without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

#: Seconds after which something that has to happen counts as never happening.
PATIENCE = 120.0

_T = TypeVar("_T")


def until(condition: Callable[[], _T], what: str = "it", seconds: float = PATIENCE) -> _T:
    """Asks until the answer is true, and returns it. AssertionError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.01)
