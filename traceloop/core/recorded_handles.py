"""Recorded runs of handles in debug mode, through a monitor's ``asyncio.Handle._run``, or that other code took from the
queue. All others are recorded by the iteration itself (recorded_iteration.py).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ..record import layout
from .interface import Recorder
from .iteration import run_debugged

#: Records wait no longer than this while the loop works, within an iteration too, s.
WAIT_SECONDS: Final = 0.02


def run_through_handles(
    loop: Any, recorder: Recorder, count: int, now: float, last_flush: float
) -> tuple[float, float]:
    """Runs the next ``count`` handles of the queue: in debug mode, or by ``asyncio.Handle._run`` where a monitor has
    replaced that. Returns the end of the last run, and when records were last written.
    """
    record, tasks = recorder.record, recorder.tasks
    for _ in range(count):
        handle: Any = loop._ready.popleft()
        if id(handle) in recorder.stamps:
            recorder.stamped(handle)
        if handle._cancelled:
            record.add(now, layout.R_SKIP, float(len(loop._ready)))
            continue
        callback = handle._callback
        ident = recorder.identify(callback)
        task = callback.__self__ if ident >= layout.SITE_LIMIT else None
        if recorder.spans.variable is not None:
            recorder.spans.changed(handle._context.get(recorder.spans.variable))
        try:
            if loop._debug:
                run_debugged(loop, handle)
            else:
                asyncio.Handle._run(handle)
        finally:  # also of a run that ends the loop: SystemExit, KeyboardInterrupt
            handle = callback = None
            outcome = 0.0
            if task is not None and task.done():
                tasks.finished += 1
                outcome = tasks.outcome_of(task)
            task = None
            record.add(now, ident, len(loop._ready) + outcome)
        now = recorder.now(loop)
        if tasks.created:
            tasks.define_created(now)
        if now - last_flush > WAIT_SECONDS:
            recorder.flush(loop, now)
            last_flush = now
    return now, last_flush


def run_taken(loop: Any, recorder: Recorder, handle: Any) -> None:
    """Runs, and records, a handle that other code took from the queue; see ``recording/external_runs.py``."""
    runs = recorder.external
    callback = handle._callback
    runs.depth += 1
    try:
        now, ident = runs.begin(recorder, loop, handle), recorder.identify(callback)
        try:
            asyncio.Handle._run(handle)
        finally:
            runs.end(recorder, loop, callback, ident, now)
    finally:
        runs.depth -= 1
