"""One trace of allocations: which lines hold what the memory heap has grown by.

``tracemalloc`` sees what is allocated while it runs, and makes each allocation ten times as dear or more, even with one
frame for each; a C function that allocates much (an encoder) holds the GIL meanwhile and cannot be interrupted. So:

* the trace begins with one frame, the line that allocates. Only where that line is a library's, or in no callback that
  is known, it begins anew with more;
* it ends when the estimated cost is 5 % of the time that the process has been watched, at the latest after 15 s, and
  when its own memory has grown too large;
* two snapshots are taken some time apart, when no loop runs anything: what is alive by chance is not in both, and what
  counts is what was there at the first and has become more by the second.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, process_time, thread_time
from typing import Any, NamedTuple

from ...record.frames import OUR_FOLDER, is_application
from .growth_rules import Growth

TRACE_SECONDS = 15.0
FIRST_SNAPSHOT_SECONDS = 2.0
#: The share of the time watched that all of it may cost.
COST_SHARE = 0.05
_MORE_FRAMES = 12
# Of the tracer's own memory: some 80,000 allocations that are alive.
_LIMIT_BYTES = 6 << 20
# A snapshot waits so long for the loops to be idle, s.
_PATIENCE_SECONDS = 1.0
_TOP = 5
# What holds less of what was traced than this part is not worth a name.
_LEAST_SHARE = 0.005
_PROBES = 2000

Sizes = dict[tuple[tuple[str, int], ...], int]


class _Found(NamedTuple):
    """By ``file:line``, and by the place in a callback: by how many bytes it has grown, and how many it holds."""

    lines: dict[str, tuple[float, int]]
    places: dict[tuple[str, int], tuple[float, int]]


class AllocationTrace:
    """A trace, from now on. Where the program traces by itself, its tracing is used and left on.

    ``watched``: s for which the process has been watched, of which the cost may be a share. For one thread at a time.
    """

    def __init__(self, growth: Growth, known: dict[str, Any], now: float, watched: float) -> None:
        import tracemalloc

        self.growth = growth
        #: What is known of the growth; ``end`` adds what the trace has found.
        self.known: dict[str, Any] = {"top": [], **known}
        self._module: Any = tracemalloc
        self._own = not tracemalloc.is_tracing()
        self._budget = watched * COST_SHARE
        self._began = now
        self._spent = 0.0
        self._snapshot_s = 0.0
        self._memory = 0
        self._frames = 0
        # What each pass has found.
        self._results: list[_Found] = []
        self._dearness = _dearness_of(tracemalloc) if self._own else 1.0
        self._begin(1, now)

    def _begin(self, frames: int, now: float) -> None:
        self._frames = frames
        self._phase_began = now
        self._cpu = process_time()
        self._first: Sizes | None = None
        self._last: Sizes | None = None
        self._wanted_at = 0.0
        if self._own:
            self._module.start(frames)
            own_traces.add(self)

    @property
    def cost(self) -> float:
        """Seconds of processor time that tracing has taken at most: as if the program did nothing but allocate."""
        running = process_time() - self._cpu if self._own and self._last is None else 0.0
        return self._spent + running * (1.0 - 1.0 / self._dearness)

    def step(self, now: float, idle: bool) -> bool:
        """Goes on with it; ``idle``: no loop runs anything. Returns whether it is over: ``end`` is next."""
        used: int = self._module.get_tracemalloc_memory()
        self._memory = max(self._memory, used)
        elapsed = now - self._phase_began
        share = max(elapsed / TRACE_SECONDS, used / _LIMIT_BYTES, self.cost / max(self._budget, 1e-3))
        wanted = share >= 1.0 if self._first is not None else share >= 1 / 3 or elapsed >= FIRST_SNAPSHOT_SECONDS
        if not wanted:
            return False
        self._wanted_at = self._wanted_at or now
        if not idle and now - self._wanted_at < _PATIENCE_SECONDS and share < 2.0:
            return False
        self._wanted_at = 0.0
        if self._first is None and share < 2.0:
            self._first = self._snapshot()
            return False
        self._stop()
        return not self._needs_more_frames() or not self._begin_again(now)

    def _begin_again(self, now: float) -> bool:
        if not self._own or self._frames > 1 or self._spent > self._budget / 2:
            return False
        self._begin(_MORE_FRAMES, now)
        return True

    def _snapshot(self) -> Sizes:
        begin = perf_counter()
        snapshot = self._module.take_snapshot()
        self._snapshot_s = max(self._snapshot_s, perf_counter() - begin)
        sizes: Sizes = {}
        for _, size, frames, *_ in snapshot.traces._traces:
            key = tuple(frames)
            sizes[key] = sizes.get(key, 0) + size
        return sizes

    def _stop(self) -> None:
        """The last snapshot of this pass."""
        try:
            last = self._snapshot()
        finally:
            self._spent = self.cost
            self._end_tracing()
        self._last = last
        self._results.append(self._sort_out(self._first or last, last))

    def _end_tracing(self) -> None:
        if self._own and self in own_traces:
            own_traces.discard(self)
            self._module.stop()

    def _sort_out(self, first: Sizes, last: Sizes) -> _Found:
        found = _Found({}, {})
        single = first is last
        for frames, size in last.items():
            before = first.get(frames, 0)
            # What was there at the first snapshot and has become more: not what is alive by chance, nor what fills up.
            grown = float(size if single else max(0, min(before, size - before)))
            _attribute(frames, grown, size, found)
        return found

    def _needs_more_frames(self) -> bool:
        lines = self._results[-1].lines
        if not lines:
            return False
        line = max(lines, key=lambda line: lines[line])
        file, _, _ = line.rpartition(":")
        return not is_application(file, "")

    def end(self, now: float, name_callback: Callable[[str, int], str | None]) -> None:
        """Stops it, and adds to ``known`` what has grown: by line, by callback (bytes); and what it has cost."""
        try:
            if self._last is None:
                self._stop()
        finally:
            self._end_tracing()
        begin = perf_counter()
        result = self._results[-1]
        callbacks: dict[str, tuple[float, int]] = {}
        for (file, line), (grown, size) in result.places.items():
            name = name_callback(file, line)
            if name is not None:
                before = callbacks.get(name, (0.0, 0))
                callbacks[name] = before[0] + grown, before[1] + size
        self.known["top"] = _most(result.lines)
        self.known["callbacks"] = _most(callbacks)
        self.known["trace"] = {
            "seconds": round(now - self._began, 3),
            "snapshot_seconds": round(self._snapshot_s, 3),
            "analysis_seconds": round(perf_counter() - begin, 3),
            "memory_bytes": self._memory or self._module.get_tracemalloc_memory(),
            "cost_seconds": round(self._spent, 3),
            "frames": self._frames,
        }


#: Traces of ours that are under way: none in the child of a fork.
own_traces: set[AllocationTrace] = set()


def after_fork_in_child() -> None:
    """The parent's trace would go on in the child for ever."""
    if own_traces:
        own_traces.pop()._module.stop()
        own_traces.clear()


def _dearness_of(module: Any) -> float:
    """How many times as much an allocation costs with tracing, measured in this thread within a millisecond or so."""

    def allocate() -> float:
        begin = thread_time()
        made = [object() for _ in range(_PROBES)]
        del made
        return thread_time() - begin

    allocate()
    plain = max(allocate(), 1e-6)
    module.start(1)
    try:
        return max(1.0, allocate() / plain)
    finally:
        module.stop()


def _attribute(frames: tuple[tuple[str, int], ...], grown: float, size: int, found: _Found) -> None:
    """Counts one traceback, the innermost frame first: for the program's own innermost line, and for the callback."""
    if frames[0][0].startswith(OUR_FOLDER):
        return
    own = next((frame for frame in frames if is_application(frame[0], "")), frames[0])
    line = f"{own[0]}:{own[1]}"
    before = found.lines.get(line, (0.0, 0))
    found.lines[line] = before[0] + grown, before[1] + size
    # Below our iteration stands what the loop called; with one frame the line itself may be in a callback.
    place = frames[0] if len(frames) == 1 else None
    for index, (file, _) in enumerate(frames):
        if index and file.startswith(OUR_FOLDER):
            place = frames[index - 1]
            break
    if place is not None and not place[0].startswith(OUR_FOLDER):
        total = found.places.get(place, (0.0, 0))
        found.places[place] = total[0] + grown, total[1] + size


def _most(found: dict[str, tuple[float, int]]) -> list[tuple[str, int]]:
    """The heaviest by what they have grown by, with the bytes that they hold."""
    if not any(grown for grown, _ in found.values()):
        found = {name: (float(size), size) for name, (_, size) in found.items()}
    least = _LEAST_SHARE * sum(grown for grown, _ in found.values())
    best = sorted(found.items(), key=lambda item: -item[1][0])[:_TOP]
    return [(name, size) for name, (grown, size) in best if grown > least]
