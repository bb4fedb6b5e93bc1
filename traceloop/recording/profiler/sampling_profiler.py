"""The profile: what runs on the loops, looked at many times a second, from the watchdog's thread.

* A sample stands for the time since the one before it. So a C call that holds the GIL gets its due, though nothing can
  look meanwhile: the first look after it meets the line that made the call.
* A loop that polls is not looked at, and pays nothing. One that runs is stopped for some 20 us a sample, while the
  sampler holds the GIL.
* The sampler gets the GIL when the loop's thread gives it away: at the next call that releases it, or after the switch
  interval (5 ms). Lines that release it, such as those that write to a socket, are met a little too often.

What is written: ``R_NODE`` for the frames, once each (and again every minute), and ``R_SAMPLE`` with ``R_SAMPLE_OF``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import monotonic
from types import CodeType, FrameType
from typing import Any

from ...record import layout
from ...record.frames import is_pools_call
from ...record.sites import module_name
from ..current_frames import current_frames
from ..offloads.offload import Offload
from ..outbox import Outbox
from ..process import Process
from ..watchdog import stacks
from ..watchdog.watched_loop import Watched
from .stack_tree import Place, StackTree

_logger = logging.getLogger("traceloop")

_REPEAT_SECONDS = 60.0
# Of the tasks that await the running one, and of the frames of a stack, so many.
_MAX_AWAITING_TASKS = 4
_MAX_FRAMES = 128
_MAX_WORKERS = 64
_SHORT_GAP = 0.25  # s
_WORKER = Offload.run.__code__


class SamplingProfiler:
    """Samples the loops of one process. For the watchdog's thread."""

    def __init__(self, process: Process, outbox: Outbox, rate: float, *, workers: bool) -> None:
        """``rate``: samples a second. ``workers``: of threads that run a call for ``run_in_executor``, too."""
        self.period = 1.0 / rate
        #: When the next sample is to be taken, s.
        self.due = 0.0
        self._rate = rate
        self._workers = workers
        self._workers_at = monotonic()
        self._outbox = outbox
        self._tree = StackTree(process.site_log.number)
        self._began = -_REPEAT_SECONDS
        self._failed = False

    def sample(self, loops: Iterable[Watched]) -> None:
        """Takes a sample of each loop. Never raises."""
        if self._failed or self._outbox.forked:
            return
        try:
            self._sample(loops)
        except Exception as error:
            self._failed = True
            _logger.error("traceloop: the profile failed and has stopped; the application runs on", exc_info=error)

    def _sample(self, loops: Iterable[Watched]) -> None:
        now = monotonic()
        self.due = now + 0.8 * self.period  # the thread never wakes too early by more
        met: list[tuple[float, float, int, list[Place]]] = []
        threads: dict[int, FrameType] | None = None
        for watched in loops:
            since = watched.words[layout.W_RUNNING]
            before, watched.sampled_at = watched.sampled_at, now
            if not since:
                continue
            if threads is None:
                threads = current_frames()
            found = _stack_of(threads.get(watched.thread), watched.loop)
            if found is not None:
                gap = now - before
                # A long gap is a call that held the GIL, or a process that stood still: of that, the time off the poll.
                # Of a short one the whole counts: a loop that was met at work was idle for part of it no more often
                # than one that was met idle was at work.
                weight = gap if gap <= max(2 * self.period, _SHORT_GAP) else now - max(before, since)
                met.append((weight, found[0], watched.ring + 1, found[1]))
        if self._workers:
            gap = min(now - self._workers_at, 1.0)
            for stack in _stacks_of_workers(threads if threads is not None else current_frames()):
                met.append((gap, 0.0, 0, stack))
            self._workers_at = now
        # The frames are other threads': gone before anything below may let these run.
        threads = None
        if met:
            self._write(met, now)

    def _write(self, met: list[tuple[float, float, int, list[Place]]], now: float) -> None:
        out: list[float] = []
        if now - self._began >= _REPEAT_SECONDS:
            self._began = now
            self._tree.begin_anew()
            out += (now, layout.R_PROFILE, self._rate)
        for weight, ident, ring, stack in met:
            node = self._tree.node_of(stack)
            out += self._tree.definitions(node)
            out += (now, layout.R_SAMPLE, weight, ident, layout.R_SAMPLE_OF, node + layout.OUTCOME * ring)
        self._outbox.pending.extend(out)


def _stack_of(top: FrameType | None, loop: Any) -> tuple[float, list[Place]] | None:
    """Ident and stack of the run in which a loop's thread stands; None where it runs nothing."""
    run, inner = stacks.below_loop(top, _instruction, loop)
    try:
        if run is None:
            return None
        out: list[Place] = []
        if run.handle is not None:
            out += _awaiting(run.handle._callback)
        for frame, instruction in inner[-_MAX_FRAMES:]:
            out.append(_place(frame, instruction))
        return run.ident, out
    finally:
        inner.clear()
        run = None
        del top


def _awaiting(callback: Any) -> list[Place]:
    """The coroutines that wait for the task whose step ``callback`` is, outermost first."""
    task = getattr(callback, "__self__", None)
    out: list[Place] = []
    for _ in range(_MAX_AWAITING_TASKS):
        task = stacks.waiter_of(task) if hasattr(task, "get_coro") else None
        if task is None:
            break
        frames = stacks.frames_of_coroutine(task.get_coro())
        out = [_place(frame, frame.f_lasti, awaits=True) for frame in frames] + out
        frames.clear()
    return out[:_MAX_FRAMES]


def _stacks_of_workers(threads: dict[int, FrameType]) -> list[list[Place]]:
    """The stacks of the threads that run a call of an executor, from the function that was handed to it.

    The C core has no frame there, but the thread pool has: its own calls count too.
    """
    out: list[list[Place]] = []
    for top in threads.values():
        stack: list[Place] = []
        frame: FrameType | None = top
        while frame is not None and frame.f_code is not _WORKER and not is_pools_call(frame.f_code):
            stack.append(_place(frame, frame.f_lasti))
            frame = frame.f_back
        if frame is not None and stack and len(out) < _MAX_WORKERS:
            out.append(stack[: -_MAX_FRAMES - 1 : -1])
    return out


def _instruction(frame: FrameType) -> int:
    return frame.f_lasti


def _place(frame: FrameType, instruction: int, *, awaits: bool = False) -> Place:
    code: CodeType = frame.f_code
    return Place(code, instruction, module_name(dict.get(frame.f_globals, "__name__")), awaits)
