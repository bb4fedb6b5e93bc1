"""Every kind of record but handle runs, polls and what moves the queue: tasks, spans, offloads, collections, events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from ...record import layout
from ...record.layout import OUTCOME
from ...record.text import printable, printable_data
from .decoded import (
    LATEST,
    SIGNAL,
    THREADSAFE,
    Collection,
    Decoded,
    Event,
    Executor,
    OffloadStep,
    SpanContext,
    StackNode,
    StackSample,
    Standing,
    Workers,
    WorkerThread,
)

_EXACT: Final = 2.0**53
_MAX_NEW_TASKS: Final = 200_000
_ONE: Final = (1, False, 0.0)


def _number(value: float) -> int:
    """A count, or the number of something. Raises ValueError for what is none."""
    if not 0.0 <= value < _EXACT:
        raise ValueError("not a number that a writer counts")
    return int(value)


def _moment(value: float) -> float:
    """A time or a duration, s. Raises ValueError for what no clock says."""
    if not 0.0 <= value < LATEST:
        raise ValueError("not a time")
    return value


class RareRecords:
    """Takes in the rare records of one ring, and keeps what a later record needs.

    override: ready time and kind of the next run, which another thread or a signal put in; None where none did.
    writers: places in the queue of handles that are a writer's. new_tasks: by ident, of tasks that were announced and
    have not begun: name, whether create_task made it, the run that did (-1: the one that scheduled it), and its ident.
    """

    def __init__(self) -> None:
        self.override: tuple[float, str] | None = None
        self.writers: set[float] = set()
        self.new_tasks: dict[float, tuple[str, bool, int, float, float]] = {}
        # The first of two records that belong together.
        self._half: tuple[float, float, float] | None = None
        # Of the collections that the next R_GC sums up: how many, whether they were called for, the longest.
        self._sum: tuple[int, bool, float] = _ONE
        # When the look began whose records follow, monotonic s; 0 where that is not known.
        self._looked_at = 0.0

    def lose_place(self) -> None:
        """Records are missing here."""
        self.override = self._half = None
        self._sum = _ONE
        self._looked_at = 0.0
        self.writers.clear()

    def take(
        self,
        a: float,
        ident: float,
        b: float,
        text: Iterator[str],
        decoded: Decoded,
        before: tuple[int, float],
        writer: int,
        context: int,
    ) -> bool:
        """Takes in one record; False where it makes no sense.

        ``before``: number and ident of the run before it. ``writer``: number of the run that wrote it, 0 for none.
        ``context``: number of the span that is current.
        """
        owned = next(text, "") if ident in layout.TEXT_KINDS else ""
        try:
            if ident in _OF_OFFLOADS:
                self._take_offload(a, ident, b, owned, decoded, writer, context)
            else:
                self._take(a, ident, b, owned, decoded, before, writer)
        except (ValueError, OverflowError, RecursionError):
            return False
        return True

    def _take(
        self, a: float, ident: float, b: float, owned: str, decoded: Decoded, before: tuple[int, float], writer: int
    ) -> None:
        if ident == layout.R_TASK:
            # Those of a task factory follow the run that made them, the others stand before their first step.
            if len(self.new_tasks) >= _MAX_NEW_TASKS:
                self.new_tasks.clear()
            began = _moment(-b) if b < 0.0 else -1.0
            maker = before if b == 1.0 or b < 0.0 else (-1, 0.0)
            self.new_tasks[_number(a)] = (owned, bool(b), *maker, began)
        elif ident == layout.R_WRITER:
            if len(self.writers) < _MAX_NEW_TASKS:
                self.writers.add(a)
        elif ident == layout.R_STAMP:
            self.override = (a, THREADSAFE)
        elif ident == layout.R_SIGNAL:
            self.override = (a, SIGNAL)
        elif ident == layout.R_SPAN:
            trace_id, _, rest = owned.partition(" ")
            span_id, _, state = rest.partition(" ")
            decoded.spans.append(SpanContext(_number(a), trace_id, span_id, _number(b), state))
        elif ident == layout.R_ABANDONED:
            decoded.abandoned.append((float(_number(a)), _moment(abs(b))))
            if b < 0.0:
                decoded.left.append(float(_number(a)))
        elif ident == layout.R_MEMORY:
            decoded.memory.append((_moment(a), _number(b)))
        elif ident == layout.R_TIMERS:
            ring, live = divmod(_number(b), int(OUTCOME))
            decoded.timers.append((_moment(a), ring, live))
        elif ident == layout.R_GC:
            self._half = (ident, a, b)
        elif ident == layout.R_GC_INFO:
            half, self._half = self._half, None
            (number, called, longest), self._sum = self._sum, _ONE
            if half is not None and half[0] == layout.R_GC:
                uncollectable, generation = divmod(_number(a), 4)
                if generation == layout.GC_FULL_CALLED:
                    generation, called = layout.GC_FULL, True
                start, duration = _moment(half[1]), _moment(half[2])
                decoded.collections.append(
                    Collection(start, duration, generation, _number(b), uncollectable, called, number, longest)
                )
        elif ident == layout.R_GC_SUM:
            called_for, number = divmod(_number(a), int(OUTCOME))
            self._sum = max(1, number), called_for == 1, _moment(b)
        elif ident == layout.R_WORD:
            decoded.last_words[_number(a)] = b if 0.0 <= b < _EXACT else 0.0
        elif ident == layout.R_AWAIT and self._looked_at:
            decoded.standing.append(Standing(self._looked_at, float(_number(a)), _number(b)))
        elif ident == layout.R_AWAITED and self._looked_at:
            decoded.awaited.append((self._looked_at, float(_number(a)), float(_number(b))))
        elif ident == layout.R_LOOK:
            self._looked_at = _moment(a)
            decoded.look_period = _moment(b)
        elif ident == layout.R_NODE:
            site, parent = divmod(_number(b), int(OUTCOME))
            awaits, site = divmod(site, layout.SITE_LIMIT)
            decoded.nodes.append(StackNode(_number(a), parent, site, awaits == 1))
        elif ident == layout.R_SAMPLE:
            self._half = (ident, a, b)
        elif ident == layout.R_SAMPLE_OF:
            half, self._half = self._half, None
            if half is not None and half[0] == layout.R_SAMPLE:
                ring, node = divmod(_number(b), int(OUTCOME))
                decoded.samples.append(
                    StackSample(_moment(half[1]), _moment(half[2]), float(_number(a)), node, ring - 1)
                )
        elif ident == layout.R_PROFILE:
            decoded.profile_rate = min(_moment(b), 1e6)
        elif ident == layout.R_CHAIN:
            decoded.chains.append((_number(a), owned))
        elif ident == layout.R_REQUEST:
            decoded.requests.append((writer, _number(b) % layout.SITE_LIMIT))
            if a > 0.0:
                decoded.request_spans.append((writer, _number(a)))
        elif ident == layout.R_EVENT:
            when, number = _moment(a), _number(b)
            data = printable_data(json.loads(owned))
            if isinstance(data, dict):
                decoded.events.append(Event(when, number, data))

    def _take_offload(
        self, a: float, ident: float, b: float, owned: str, decoded: Decoded, writer: int, context: int
    ) -> None:
        if ident == layout.R_SUBMIT:
            self._half = (ident, a, b)
        elif ident == layout.R_SUBMIT_INFO:
            half, self._half = self._half, None
            if half is not None and half[0] == layout.R_SUBMIT:
                function = float(b) if 0.0 <= b < _EXACT else 0.0
                decoded.offloads.append(
                    OffloadStep("submit", _moment(half[1]), _number(half[2]), _number(a), function, writer, context)
                )
        elif ident == layout.R_START:
            worker, offload = divmod(_number(b), int(OUTCOME))
            decoded.offloads.append(OffloadStep("start", _moment(a), offload, worker=worker))
        elif ident == layout.R_FINISH:
            outcome, offload = divmod(_number(b), int(OUTCOME))
            decoded.offloads.append(OffloadStep("finish", _moment(a), offload, outcome=outcome))
        elif ident == layout.R_DELIVER:
            decoded.offloads.append(OffloadStep("deliver", _moment(a), _number(b), run=writer))
        elif ident == layout.R_THREAD:
            decoded.threads.append(WorkerThread(_number(a), _number(b), printable(owned)))
        elif ident == layout.R_EXECUTOR:
            decoded.executors.append(Executor(_number(a), printable(owned), _number(b)))
        elif ident == layout.R_WORKERS:
            decoded.workers.append(Workers(_number(a), _number(b) if b >= 0.0 else -1))


_OF_OFFLOADS: Final = frozenset(
    (
        layout.R_SUBMIT,
        layout.R_SUBMIT_INFO,
        layout.R_START,
        layout.R_FINISH,
        layout.R_DELIVER,
        layout.R_THREAD,
        layout.R_EXECUTOR,
        layout.R_WORKERS,
    )
)
