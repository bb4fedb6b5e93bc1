"""What the looks at suspended tasks (statistics/waits.py) tell about one wait of a task."""

from __future__ import annotations

from ...record.frames import is_application
from ..statistics.waits import Waits


def look_within(
    waits: Waits, ident: float, begin: float, end: float, *, wants_name: bool
) -> tuple[str, str] | None:
    """Where the latest look between ``begin`` and ``end`` (monotonic s) saw a task stand; None where no look did.

    Returns the place, and the application's outermost coroutine there, which names a request where nothing else does.
    The latter is empty where there is none, or where it is not wanted.
    """
    seen = waits.looks.get(ident)
    if seen is None:
        return None
    for index in range(len(seen) - 2, -1, -2):
        if begin <= seen[index] <= end:
            chain = int(seen[index + 1])
            return waits.chains.place(chain).label, _name_of(waits, chain) if wants_name else ""
    return None


def _name_of(waits: Waits, chain: int) -> str:
    for file, _, module, qualname in waits.chains.frames(chain):
        if is_application(file, module):
            return f"{module}.{qualname}" if module else qualname
    return ""
