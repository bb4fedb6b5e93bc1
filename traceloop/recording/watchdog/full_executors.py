"""Where the workers of an executor stand that has been full for long.

Once a turn the watchdog looks which executors are full: all their workers exist, and calls wait. That takes one or two
calls of ``len`` for each executor. It takes stacks of the workers only if an executor has been full for some time, and
then seldom.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

from ...record.frames import Frame, culprit_frame, is_library, is_pools_call, is_recording
from ..current_frames import current_frames
from ..offloads import anyio_threads
from ..offloads.entry import stored
from ..process import Process
from .stacks import describe

_logger = logging.getLogger("traceloop")

#: Stacks are taken of the workers of an executor that has been full for so many slow thresholds.
PATIENCE: Final = 10.0
_REPEAT_SECONDS: Final = 10.0
_MAX_FRAMES: Final = 100
_MAX_PLACES: Final = 10
_MAX_EXECUTORS: Final = 64
_ANYIO_THREADS: Final = "AnyIO worker thread"


class FullExecutors:
    """Looks at the executors of one process. Called by the watchdog, in its thread."""

    def __init__(self, process: Process, report: Callable[[dict[str, Any], float], bool]) -> None:
        """``report(event, now)`` writes an event, if there may be one more."""
        self._process = process
        self._report = report
        # By label: since when it is full, and when it was reported last.
        self._since: dict[str, list[float]] = {}
        self._failed = False

    @property
    def found(self) -> bool:
        """Whether an executor was full at the last look."""
        return bool(self._since)

    @property
    def undecided(self) -> bool:
        """Whether an executor was full at the last look, and is not full for long enough to be reported. Only frequent
        looks tell that from an executor that is full now and then.
        """
        return not self._failed and any(reported < since for since, reported in self._since.values())

    def poll(self, now: float, threshold: float) -> None:
        """Looks at the executors. ``threshold``: seconds from which callbacks are slow. Never raises."""
        offloads = vars(self._process).get("offloads")
        if self._failed or offloads is None:
            return
        try:
            since: dict[str, list[float]] = {}
            for label, limit, waiting, threads in [*_full_pools(offloads), *_full_limiters(offloads)][:_MAX_EXECUTORS]:
                known = since[label] = self._since.get(label, [now, -_REPEAT_SECONDS])
                if now - known[0] >= PATIENCE * threshold and now - known[1] >= _REPEAT_SECONDS:
                    known[1] = now
                    self._report(
                        {
                            "kind": "workers",
                            "executor": label,
                            "full": now - known[0],
                            "workers": limit,
                            "waiting": waiting,
                            "places": places_of(threads()),
                        },
                        now,
                    )
            self._since = since
        except Exception as error:
            self._failed = True
            _logger.error("traceloop: looking at executors failed and has stopped", exc_info=error)


_Full = tuple[str, int, int, Callable[[], set[int]]]


def _full_pools(offloads: Any) -> Iterator[_Full]:
    """Full thread pools: label, number of workers, calls that wait, and a function that returns the threads."""
    for entry in list(offloads.entries()):
        executor = entry.reference() if entry.reference is not None else None
        queue = stored(executor, "_work_queue")
        threads = stored(executor, "_threads")
        if queue is None or not isinstance(threads, set) or not 0 < entry.limit <= len(threads):
            continue
        waiting = queue.qsize()
        if waiting:
            yield entry.label, entry.limit, waiting, functools.partial(_idents, threads)


def _full_limiters(offloads: Any) -> Iterator[_Full]:
    for limiter, entry in anyio_threads.limiters_of(offloads):
        waiting = limiter.statistics().tasks_waiting
        if waiting and limiter.available_tokens <= 0:
            yield entry.label, entry.limit, waiting, _anyio_threads


def _idents(threads: set[threading.Thread]) -> set[int]:
    return {each.ident for each in list(threads) if each.ident}


def _anyio_threads() -> set[int]:
    return _idents({each for each in threading.enumerate() if each.name == _ANYIO_THREADS})


def places_of(threads: set[int]) -> list[list[Any]]:
    """Where these threads stand. One row for each place: the number of threads; file, line, module and name of the
    application's frame (or of a library's, if there is none); the same of the frame below it in which they stand.
    """
    places: Counter[tuple[Frame, Frame]] = Counter()
    tops = current_frames()
    for thread in threads:
        top = tops.get(thread)
        frames = _frames_below_us(top)
        del top
        if frames:
            own = culprit_frame(frames) or frames[0]
            below = frames[frames.index(own) :]
            places[own, next((each for each in reversed(below) if is_library(each[0])), frames[-1])] += 1
    del tops
    return [[count, *own, *stands] for (own, stands), count in places.most_common(_MAX_PLACES)]


def _frames_below_us(frame: FrameType | None) -> list[Frame]:
    """The frames of a call in a worker, outermost first; none if the worker waits for work."""
    out: list[Frame] = []
    while frame is not None and len(out) < _MAX_FRAMES:
        if is_recording(frame.f_code.co_filename) or is_pools_call(frame.f_code):
            out.reverse()
            return out
        out.append(describe(frame, frame.f_lineno or frame.f_code.co_firstlineno))
        frame = frame.f_back
    return []
