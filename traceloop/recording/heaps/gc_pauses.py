"""Pauses of the garbage collector.

``gc.callbacks`` are called inside the collection, which can begin at almost any allocation: in the middle of a flush,
in any thread, and once more while the interpreter ends. So the callback only appends to the outbox, and refers to
nothing but what it was made with. Which handle a pause interrupted is found by its time, on the reader's side. After a
long one the watchdog, which could not run meanwhile, has its look taken for it.

Nothing tells whether a program called ``gc.collect()``. But a collection that comes by itself does so when more objects
were made than the first threshold says, and at its start the counts are still those (seen with CPython 3.11, 3.12,
3.13, 3.14.10 and 3.15.2). By then the interpreter has collected what a C function before the call made too many of. The
first releases of 3.14 collect by increments: full collections come by calls only there.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import monotonic
from typing import Any

from ...record import layout
from ..outbox import LIMIT, Outbox

#: A collection of this length (s) is one that ``after_long`` is called for.
LONG_SECONDS = 0.05
#: Called in the thread that collected, at the end of a long collection; it must not raise.
after_long: list[Callable[[], None]] = []


def _make_callback(outbox: Outbox) -> Callable[[str, dict[str, Any]], None]:
    clock = monotonic
    pending, missed = outbox.pending, outbox.missed
    extend = pending.extend
    size = len
    limit = LIMIT
    pause, info_kind = layout.R_GC, layout.R_GC_INFO
    long = LONG_SECONDS
    hooks = after_long
    full, full_called = layout.GC_FULL, layout.GC_FULL_CALLED
    is_enabled, objects_made, thresholds = gc.isenabled, gc.get_count, gc.get_threshold
    start = 0.0
    called = False

    def note_collection(phase: str, info: dict[str, Any]) -> None:
        nonlocal start, called
        if phase == "start":
            called = info["generation"] == full and not (is_enabled() and 0 < thresholds()[0] < objects_made()[0])
            start = clock()
            return
        began, start = start, 0.0
        if not began:
            return  # it began while none were noted
        if size(pending) >= limit:
            missed[0] += 2  # the two records of a collection
            return
        length = clock() - began
        extend(
            (
                began,
                pause,
                length,
                (full_called if called else info["generation"]) + 4 * info["uncollectable"],
                info_kind,
                info["collected"],
            )
        )
        if length >= long:
            for hook in hooks:
                hook()

    return note_collection


class GCPauses:
    """Notes the collections of this process between ``start`` and ``stop``. Both may be called again, by any thread."""

    def __init__(self, outbox: Outbox) -> None:
        self._callback = _make_callback(outbox)

    def start(self) -> None:
        """From now on collections are noted."""
        if self._callback not in gc.callbacks:
            gc.callbacks.append(self._callback)

    def stop(self) -> None:
        """No more."""
        if self._callback in gc.callbacks:
            gc.callbacks.remove(self._callback)
