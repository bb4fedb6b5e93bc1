"""The memory heap: allocated blocks, resident memory, and, on request, which lines allocate.

Growth is looked for in two numbers, since neither sees everything: blocks (many small objects; a large bytes object is
one or none) and private resident memory. Shared memory is left out of the latter: a ring's pages become resident while
they are first written.

With ``--memory-trace`` the first growth starts ``tracemalloc``. It sees only what is allocated from then on, which is
what grows: a snapshot some seconds later names the lines. Then it is stopped: while it runs, every allocation costs two
to four times as much. The event tells what it took.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from time import perf_counter, thread_time
from typing import Any

from ...record import layout
from ...record.frames import OUR_FOLDER
from ..outbox import Outbox
from .growth_rules import Growth, MemoryGrowth

_logger = logging.getLogger("traceloop")

_INTERVAL_SECONDS = 1.0
# A measurement takes at most this part of the time.
_COST_RATIO = 5000.0
# Growth within one minute and within six. Blocks are exact; the allocator keeps memory that bursts leave full of holes.
_BLOCKS = 30_000, 20_000
_BYTES = 16 << 20, 32 << 20

_TRACE_FRAMES = 12
_TRACE_SECONDS = 15.0
# The tracing ends early when its own memory is more than this.
_TRACE_LIMIT_BYTES = 16 << 20
_TOP = 5
_QUIET_SECONDS = 60.0
# The last loop's close waits so long for a trace to be gone through.
_PATIENCE_SECONDS = 2.0
# What holds less of what was traced than this part is not worth a name.
_LEAST_SHARE = 0.005

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def private_resident_bytes() -> int:
    """Resident memory without shared memory and files (proc(5), statm); 0 where there is no /proc."""
    try:
        fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fields = os.read(fd, 200).split()
        return (int(fields[1]) - int(fields[2])) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
    finally:
        os.close(fd)


class MemorySampler:
    """Samples the memory of this process. One thread at a time.

    due: when the next sample is, monotonic s. report: called with a growth, "memory" and what is known of it.
    name_callback: gives the label of the callback that has this line of this file in it.
    """

    def __init__(
        self,
        outbox: Outbox,
        report: Callable[..., None],
        *,
        trace: bool = False,
        name_callback: Callable[[str, int], str | None] = lambda file, line: None,
    ) -> None:
        self.due = 0.0
        self._outbox = outbox
        self._report = report
        self._blocks = MemoryGrowth(*_BLOCKS)
        self._bytes = MemoryGrowth(*_BYTES)
        self._quiet_until = 0.0
        self._trace = trace
        self._name_callback = name_callback
        self._tracing: Tracing | None = None
        self._telling: threading.Thread | None = None

    def sample(self, now: float) -> None:
        """Takes one sample, and says when the next is due."""
        begin = thread_time()  # a busy machine makes nothing dearer
        blocks = sys.getallocatedblocks()
        resident = private_resident_bytes()
        interval = max(_INTERVAL_SECONDS, (thread_time() - begin) * _COST_RATIO)
        self.due = now + interval
        self._outbox.pending.extend((now, layout.R_MEMORY, float(blocks)))
        if self._tracing is not None:  # its own allocations are none of the program's
            if self._tracing.is_over(now):
                tracing, self._tracing = self._tracing, None
                # In a thread of its own: it goes through up to 100,000 traces.
                self._telling = threading.Thread(
                    target=self._tell_traced, args=(tracing, now), name="traceloop-memory", daemon=True
                )
                self._telling.start()
            return
        growth, unit = self._blocks.sample(now, blocks), "blocks"
        other = self._bytes.sample(now, resident)
        if growth is None:
            growth, unit = other, "bytes"
        # One leak shows in both.
        if growth is not None and now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            known = {"unit": unit, "blocks": blocks, "resident_bytes": resident}
            if self._trace:
                self._trace = False  # once in a process's life: it is not cheap
                self._tracing = Tracing(growth, known, now)
            else:
                self._report(growth, "memory", top=[], **known)

    def finish(self, now: float) -> None:
        """No loop is left: a trace that is under way is told of now, perhaps nobody comes by later."""
        tracing, self._tracing = self._tracing, None
        if tracing is not None:
            self._tell_traced(tracing, now)
        elif self._telling is not None:
            self._telling.join(_PATIENCE_SECONDS)

    def _tell_traced(self, tracing: Tracing, now: float) -> None:
        try:
            tracing.end(now, self._name_callback)
        except Exception as error:
            _logger.error("traceloop: allocations could not be traced", exc_info=error)
        self._report(tracing.growth, "memory", **tracing.known)


class Tracing:
    """One trace of allocations, from now on. Where the program traces by itself, its tracing is used and left on."""

    def __init__(self, growth: Growth, known: dict[str, Any], now: float) -> None:
        import tracemalloc

        self.growth = growth
        self.known: dict[str, Any] = {"top": [], **known}
        self._begin = now
        self._module: Any = tracemalloc
        self._own = not tracemalloc.is_tracing()
        if self._own:
            tracemalloc.start(_TRACE_FRAMES)
            _own_traces.add(self)

    def is_over(self, now: float) -> bool:
        """It has lasted long enough, or takes too much memory."""
        used: int = self._module.get_tracemalloc_memory()
        return now - self._begin >= _TRACE_SECONDS or used > _TRACE_LIMIT_BYTES

    def end(self, now: float, name_callback: Callable[[str, int], str | None]) -> None:
        """Stops it, and adds to ``known`` what is still allocated: by line, by callback (bytes); and the cost."""
        used = self._module.get_tracemalloc_memory()
        begin = perf_counter()
        try:
            snapshot = self._module.take_snapshot()
        finally:
            if self._own:
                _own_traces.discard(self)
                self._module.stop()
        taken = perf_counter()
        lines: dict[str, int] = {}
        places: dict[tuple[str, int], int] = {}
        for statistic in snapshot.statistics("traceback"):
            _attribute(list(statistic.traceback), statistic.size, lines, places)
        callbacks: dict[str, int] = {}
        for (file, line), size in places.items():
            name = name_callback(file, line) or f"{file}:{line}"
            callbacks[name] = callbacks.get(name, 0) + size
        self.known["top"] = _most(lines)
        self.known["callbacks"] = _most(callbacks)
        self.known["trace"] = {
            "seconds": round(now - self._begin, 3),
            "snapshot_seconds": round(taken - begin, 3),
            "analysis_seconds": round(perf_counter() - taken, 3),
            "memory_bytes": used,
        }


#: Traces of ours that are under way: none in the child of a fork.
_own_traces: set[Tracing] = set()


def after_fork_in_child() -> None:
    """The parent's trace would go on in the child for ever."""
    if _own_traces:
        _own_traces.pop()._module.stop()
        _own_traces.clear()


def _attribute(frames: list[Any], size: int, lines: dict[str, int], places: dict[tuple[str, int], int]) -> None:
    """``frames``: the oldest first. The line is the program's own innermost one, the callback what the loop called."""
    if frames[-1].filename.startswith(OUR_FOLDER):
        return
    innermost = frames[-1]
    for frame in reversed(frames):
        if _is_own_code(frame.filename):
            innermost = frame
            break
    line = f"{innermost.filename}:{innermost.lineno}"
    lines[line] = lines.get(line, 0) + size
    callback = None
    for index, frame in enumerate(frames[:-1]):
        if frame.filename.startswith(OUR_FOLDER):
            callback = frames[index + 1]
    if callback is not None and not callback.filename.startswith(OUR_FOLDER):
        place = callback.filename, callback.lineno
        places[place] = places.get(place, 0) + size


def _is_own_code(filename: str) -> bool:
    return not (
        filename.startswith((OUR_FOLDER, "<frozen")) or "site-packages" in filename or filename.startswith(_STANDARD)
    )


_STANDARD = os.path.dirname(os.path.abspath(os.__file__)) + os.sep


def _most(sizes: dict[str, int]) -> list[tuple[str, int]]:
    least = _LEAST_SHARE * sum(sizes.values())
    return [item for item in sorted(sizes.items(), key=lambda item: -item[1])[:_TOP] if item[1] > least]
