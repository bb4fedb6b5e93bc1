"""The heap of timers.

Entries are ``(when, sequence, handle)``: tuples compare in C, handles would compare in Python, once for each of the
log n steps. Others (nest_asyncio, tests) take ``loop._scheduled`` for a heap of handles and push to and pop from it.
The first time someone asks for ``_scheduled`` the heap turns into just that, for good: handles order themselves by
their due time and answer ``[0]`` and ``[2]``, so the loop reads both shapes with the same code.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any

from ..loop.loop_part import LoopPart

# Sweeping costs one pass over the heap; waiting until half of it is cancelled makes that a constant a cancellation.
_MIN_CANCELLED_TO_SWEEP = 100


class TimersMixin(LoopPart):
    """The timer heap of a loop; used from the loop's thread only."""

    _timer_heap: list[Any]
    _timer_sequence: int
    _timer_cancelled_count: int
    _timer_compactions: int
    _timer_heap_shared: bool

    def _init_timers(self) -> None:
        self._timer_heap = []
        self._timer_sequence = 0
        self._timer_cancelled_count = 0
        self._timer_compactions = 0
        self._timer_heap_shared = False

    @property
    def _scheduled(self) -> list[Any]:
        if not self._timer_heap_shared:
            # In place: the running loop holds this very list.
            self._timer_heap[:] = [entry[2] for entry in self._timer_heap]
            heapify(self._timer_heap)
            self._timer_heap_shared = True
        return self._timer_heap

    @_scheduled.setter
    def _scheduled(self, handles: list[Any]) -> None:
        if isinstance(handles, list):
            self._timer_heap[:] = handles
        else:
            # A loop built on this one may forbid the heap's use, and has timers of its own (trio_asyncio).
            self._timer_heap = handles
        self._timer_heap_shared = True

    def _push_timer(self, handle: Any) -> None:
        handle._scheduled = True
        if self._timer_heap_shared:
            heappush(self._timer_heap, handle)
        else:
            self._timer_sequence = sequence = self._timer_sequence + 1
            heappush(self._timer_heap, (handle._when, sequence, handle))

    def _timer_handle_cancelled(self, handle: Any) -> None:
        if handle._scheduled:
            self._timer_cancelled_count += 1

    def _sweep_timers(self) -> None:
        """Takes cancelled timers out: all of them when they are many, else those at the head."""
        heap = self._timer_heap
        if self._timer_cancelled_count > _MIN_CANCELLED_TO_SWEEP and self._timer_cancelled_count * 2 > len(heap):
            kept = []
            for entry in heap:
                if entry[2]._cancelled:
                    entry[2]._scheduled = False
                else:
                    kept.append(entry)
            heapify(kept)
            heap[:] = kept
            self._timer_cancelled_count = 0
            self._timer_compactions += 1
            return
        while heap and heap[0][2]._cancelled:
            self._timer_cancelled_count -= 1
            heappop(heap)[2]._scheduled = False
