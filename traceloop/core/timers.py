"""The heap of timers.

Entries are ``(when, sequence, handle)``: tuples compare in C, handles would compare in Python, once for each of the
log n steps. Others (nest_asyncio, tests) take ``loop._scheduled`` for a heap of handles and push to and pop from it.
The first time someone asks for it (``as_list``) the heap turns into just that: handles order themselves by their due
time and answer ``[0]`` and ``[2]``, so the loop reads both shapes with the same code. This heap stays so; the one in C
turns back when nobody has the list any more (native/timers.c).
"""

from __future__ import annotations

import random
from heapq import heapify, heappop, heappush
from typing import Any

# Sweeping costs one pass over the heap; waiting until half of it is cancelled makes that a constant a cancellation.
_MIN_CANCELLED_TO_SWEEP = 100


class Timers:
    """The timers of one loop; used from the loop's thread, but for ``sample`` and the numbers.

    ``heap``: the entries. ``sequence``: numbers handed out. ``cancelled``: entries whose handle is cancelled.
    ``compactions``: times that all cancelled ones were taken out. ``shared``: the heap is one of handles.
    """

    __slots__ = ("cancelled", "compactions", "heap", "sequence", "shared")

    def __init__(self) -> None:
        self.heap: list[Any] = []
        self.sequence = 0
        self.cancelled = 0
        self.compactions = 0
        self.shared = False

    def __len__(self) -> int:
        return len(self.heap)

    def push(self, handle: Any) -> int:
        """Adds a handle that falls due at its ``_when``; returns its number."""
        self.sequence = sequence = self.sequence + 1
        heappush(self.heap, handle if self.shared else (handle._when, sequence, handle))
        return sequence

    def next_due(self) -> float | None:
        """When the next timer falls due, s of the loop's clock; None where there is none."""
        # Entry [0] is the due time: of a tuple, or of a handle that has taken its place.
        return self.heap[0][0] if self.heap else None

    def pop(self) -> Any:
        """Takes out the handle that falls due next."""
        handle = heappop(self.heap)[2]
        handle._scheduled = False
        return handle

    def as_list(self) -> list[Any]:
        """The heap as others know it: a list of handles that they may change."""
        if not self.shared:
            # In place: the running loop holds this very list.
            self.heap[:] = [entry[2] for entry in self.heap]
            heapify(self.heap)
            self.shared = True
        return self.heap

    def replace(self, handles: Any) -> None:
        """Puts ``handles``, a heap of them, in place of what was there."""
        if isinstance(handles, list):
            self.heap[:] = handles
        else:
            # A loop built on this one may forbid the heap's use, and has timers of its own (trio_asyncio).
            self.heap = handles
        self.shared = True

    def clear(self) -> None:
        """Drops all timers; their handles are not notified."""
        self.heap.clear()

    def note_cancelled(self, handle: Any) -> None:
        """``handle`` was cancelled."""
        if handle._scheduled:
            self.cancelled += 1

    def sweep(self) -> None:
        """Takes cancelled timers out: all of them when they are many, else those at the head."""
        heap = self.heap
        if self.cancelled > _MIN_CANCELLED_TO_SWEEP and self.cancelled * 2 > len(heap):
            kept = []
            for entry in heap:
                if entry[2]._cancelled:
                    entry[2]._scheduled = False
                else:
                    kept.append(entry)
            heapify(kept)
            heap[:] = kept
            self.cancelled = 0
            self.compactions += 1
            return
        while heap and heap[0][2]._cancelled:
            self.cancelled -= 1
            heappop(heap)[2]._scheduled = False

    def sample(self, size: int) -> tuple[list[Any], int]:
        """``size`` handles at random, all where there are fewer; and how many there are. For any thread: a heap that
        changes meanwhile gives a smaller sample.
        """
        entries = list(self.heap)
        count = len(entries)
        if count > size:
            entries = random.Random().sample(entries, size)
        return [entry[2] for entry in entries], count
