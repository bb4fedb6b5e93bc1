"""Pauses of the garbage collector.

``gc.callbacks`` are called inside the collection, which can begin at almost any allocation: in the middle of a flush,
in any thread, and once more while the interpreter ends. So the callback only appends to the outbox, and refers to
nothing but what it was made with. Which handle a pause interrupted is found by its time, on the reader's side. After a
long one the watchdog, which could not run meanwhile, has its look taken for it.

The callback is in C where there is the C core (core/native/gc_notes.c). Python code runs the handlers of signals, and
what such a handler raises within a callback of the collector is lost. The Python callback loses what is raised while it
runs, and so all that comes during a long collection.

A program that calls ``gc.collect(0)`` all the time makes a million collections a second. So of each 20 ms only the
first hundred have a record each, and those that are not short; the others are summed up, and so are those that find no
room. What is summed up is written before the next collection that has a record, and when no more are noted.

Nothing tells whether a program called ``gc.collect()``. But a collection that comes by itself does so when more objects
were made than the first threshold says, and at its start the counts are still those (seen with CPython 3.11, 3.12,
3.13, 3.14.10 and 3.15.2). By then the interpreter has collected what a C function before the call made too many of. The
first releases of 3.14 collect by increments: full collections come by calls only there.
"""

from __future__ import annotations

import functools
import gc
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

from ...core.choose import core
from ...record import layout
from ..outbox import LIMIT, Outbox

#: A collection of this length (s) is one that ``after_long`` is called for.
LONG_SECONDS = 0.05
# Of each period, so many collections have a record of their own, and those that are not short.
_PERIOD_SECONDS = 0.02
_MOST_SINGLES = 100
_SHORT_SECONDS = 0.001
#: Called in the thread that collected, at the end of a long collection or right after it; it must not raise.
after_long: list[Callable[[], None]] = []


#: Short collections that were too many for a record each. By generation (layout.GC_*), + 4 where the program called for
#: young ones: start of the first, how many, seconds, the longest, uncollectable, collected.
_Sums = dict[int, list[float]]


def _write_sums(sums: _Sums, outbox: Outbox) -> None:
    for key in list(sums):
        each = sums.pop(key, None)
        if each is None:
            continue  # another thread was faster
        called, generation = divmod(key, 4)
        start, number, seconds, longest, uncollectable, collected = each
        outbox.pending.extend(
            (
                number + layout.OUTCOME * called,
                layout.R_GC_SUM,
                longest,
                start,
                layout.R_GC,
                seconds,
                generation + 4 * uncollectable,
                layout.R_GC_INFO,
                collected,
            )
        )


def _make_callback(outbox: Outbox, sums: _Sums) -> Callable[[str, dict[str, Any]], None]:
    clock = monotonic
    pending = outbox.pending
    extend = pending.extend
    size = len
    limit = LIMIT
    pause, info_kind, sum_kind = layout.R_GC, layout.R_GC_INFO, layout.R_GC_SUM
    one_called = 1 + layout.OUTCOME
    long = LONG_SECONDS
    hooks = after_long
    full, full_called = layout.GC_FULL, layout.GC_FULL_CALLED
    is_enabled, objects_made, thresholds = gc.isenabled, gc.get_count, gc.get_threshold
    start = period = 0.0
    called = False
    singles = 0

    def note_collection(phase: str, info: dict[str, Any]) -> None:
        nonlocal start, called, period, singles
        if phase == "start":
            called = not (0 < thresholds()[0] < objects_made()[0] and is_enabled())
            start = clock()
            return
        began, start = start, 0.0
        if not began:
            return  # it began while none were noted
        length = clock() - began
        generation = info["generation"]
        of_young = called and generation != full
        if called and not of_young:
            generation = full_called
        if began - period > _PERIOD_SECONDS:
            period, singles = began, 0
        singles += 1
        if size(pending) >= limit or (singles > _MOST_SINGLES and length < _SHORT_SECONDS):
            key = generation + 4 if of_young else generation
            each = sums.get(key)
            if each is None:
                each = sums[key] = [began, 0, 0.0, 0.0, 0, 0]
            each[1] += 1
            each[2] += length
            if length > each[3]:
                each[3] = length
            each[4] += info["uncollectable"]
            each[5] += info["collected"]
        else:
            if sums:
                _write_sums(sums, outbox)
            records = began, pause, length, generation + 4 * info["uncollectable"], info_kind, info["collected"]
            extend((one_called, sum_kind, length, *records) if of_young else records)
        if length >= long:
            for hook in hooks:
                hook()

    return note_collection


class GCPauses:
    """Notes the collections of this process between ``start`` and ``stop``. Both may be called again, by any thread."""

    def __init__(self, outbox: Outbox) -> None:
        self._callback: Callable[[str, dict[str, Any]], None]
        self._write_sums: Callable[[], None]
        native = core().native
        if native is None:
            sums: _Sums = {}
            self._callback = _make_callback(outbox, sums)
            self._write_sums = functools.partial(_write_sums, sums, outbox)
        else:
            main_thread = threading.main_thread().ident or 0
            notes = native.CollectionNotes(
                outbox.pending, LIMIT, LONG_SECONDS, after_long, main_thread, gc.get_count, gc.get_threshold
            )
            self._callback, self._write_sums = notes.note, notes.write_sums
        _living.add(self)

    def start(self) -> None:
        """From now on collections are noted."""
        if self._callback not in gc.callbacks:
            gc.callbacks.append(self._callback)

    def stop(self) -> None:
        """No more."""
        if self._callback in gc.callbacks:
            gc.callbacks.remove(self._callback)
            self._write_sums()

    def _after_fork(self) -> None:
        # The parent's callback is in the child's gc.callbacks too; the child's first loop brings its own.
        if self._callback in gc.callbacks:
            gc.callbacks.remove(self._callback)


_living: weakref.WeakSet[GCPauses] = weakref.WeakSet()


def after_fork_in_child() -> None:
    """Called in the child of a fork: collections are not noted there until a loop runs."""
    for each in list(_living):
        each._after_fork()
