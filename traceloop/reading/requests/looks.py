"""What the looks at suspended tasks (statistics/waits.py) say of a wait of one of them."""

from __future__ import annotations

from ...record.frames import is_application
from ..statistics.waits import Waits


def look_within(
    waits: Waits, ident: float, begin: float, end: float, *, wants_name: bool
) -> tuple[str, str] | None:
    """The place where the latest look between ``begin`` and ``end`` (monotonic s) saw a task stand, and the outermost
    coroutine of the application there, which names a request of which nothing else is known; empty where there is none,
    or it is not wanted. None where no look fell into that time.
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
