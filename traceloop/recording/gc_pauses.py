"""Pauses of the garbage collector.

``gc.callbacks`` are called inside the collection, which can begin at almost any allocation: in the middle of a flush,
in any thread, and once more while the interpreter ends. So the callback only appends to the outbox, and refers to
nothing but what it was made with. Which handle a pause interrupted is found by its time, on the reader's side.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import monotonic
from typing import Any

from . import layout
from .outbox import LIMIT, Outbox


def _make_callback(outbox: Outbox) -> Callable[[str, dict[str, Any]], None]:
    clock = monotonic
    pending = outbox.pending
    extend = pending.extend
    size = len
    limit = LIMIT
    pause, info_kind = layout.R_GC, layout.R_GC_INFO
    start = 0.0

    def note_collection(phase: str, info: dict[str, Any]) -> None:
        nonlocal start
        if phase == "start":
            start = clock()
        elif start and size(pending) < limit:
            extend(
                (
                    start,
                    pause,
                    clock() - start,
                    info["generation"] + 4 * info["uncollectable"],
                    info_kind,
                    info["collected"],
                )
            )

    return note_collection


class GCPauses:
    """Notes the collections of this process between ``start`` and ``stop``; both may be called again."""

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
