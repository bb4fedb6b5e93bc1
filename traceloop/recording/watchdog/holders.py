"""Who holds what a blocked loop waits for: a lock, another thread's work, the GIL; or whether it waits for itself.

All of it is read from the frames of one moment (``frame_values``):

* An ``RLock`` names its owner.
* The holder of a plain lock is the thread that stands in a ``with`` block of it; else one that has called its
  ``acquire``, which is a guess.
* A future's ``result()`` leads to the worker that runs the call, or to the pool in whose queue it waits.
"""

from __future__ import annotations

import asyncio
import gc
import re
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from ...record.frames import Frame, culprit_frame
from ...record.holders import CALL, GIL, JOIN, LOCK, OWN_COROUTINE, OWN_LOCK, OWN_POOL, OWN_TASK, QUEUED, Holder
from .frame_values import acquired_in, attribute_of, forget, held_in, local_value, waited_for
from .other_threads import Standing, frames_of
from .stacks import describe, frames_of_coroutine
from .thread_clocks import Sample

_LOCK: Final = type(threading.Lock())
_RLOCK: Final = type(threading.RLock())
_OWNER: Final = re.compile(r" owner=(\d+) ")
# Innermost frames of the blocked call that are looked at: those of the standard library, and two more.
_DEPTH: Final = 12
_MAX_TASKS: Final = 2_000
_MAX_READY: Final = 2_000
_MAX_QUEUED: Final = 10_000
# Functions with which a thread gives work to a loop, and waits for it.
_ASKING: Final = (("anyio.", "from_thread"), ("anyio.from_thread", ""), ("asgiref.sync", "AsyncToSync"))
_NAME: Final = 80
# A thread that waits for the GIL wakes each switch interval (5 ms); half of that, see reading/stalls/causes.py.
_GIL_WAKES_PER_SECOND: Final = 100.0
# The thread that holds the GIL has computed at least this share of what all others have.
_MOST: Final = 0.5
_LEAST_COMPUTED: Final = 0.005
# Where a thread waits for a lock, or for another thread's end (_wait_for_tstate_lock: before 3.13).
_WAITS: Final = ("Condition.wait", "Thread.join", "Thread._wait_for_tstate_lock")


class Look:
    """Finds the holder at one moment. ``tops``: ``current_frames()``; ``loop``: the blocked one, which runs in
    thread ``ident``. Use it at once and drop it: it holds frames of the program.
    """

    def __init__(self, tops: dict[int, FrameType], threads: list[Standing], loop: Any, ident: int) -> None:
        self._tops = tops
        self._threads = {each.ident: each for each in threads}
        self._loop = loop
        self._ident = ident

    def holder(self) -> Holder | None:
        """Who holds what the loop waits for; None if that is not known."""
        try:
            return self._find()
        finally:
            self._tops.clear()
            forget()

    def _find(self) -> Holder | None:
        for frame in _frames_above(self._tops.get(self._ident)):
            code = frame.f_code
            module = dict.get(frame.f_globals, "__name__")
            if module == "threading" and code.co_name == "wait":
                continue  # for a lock that is made for each wait: no thread stands in it
            if module == "threading" and code.co_name == "join":
                found = self._joined(local_value(frame, "self"))
            elif module == "concurrent.futures._base" and code.co_name in ("result", "exception"):
                found = self._called(local_value(frame, "self"))
            elif module == "importlib._bootstrap" and code.co_name == "acquire":
                found = self._owned(attribute_of(local_value(frame, "self"), "owner"), LOCK)
            else:
                found = self._locked(frame)
            if found is not None:
                return found
        return None

    # -- locks

    def _locked(self, frame: FrameType) -> Holder | None:
        lock = next((each for each in reversed(waited_for(frame)) if _is_lock(each)), None)
        if lock is None or not _is_taken(lock):
            return None
        if type(lock) is _RLOCK:
            owner = _OWNER.search(repr(lock))
            return self._owned(int(owner.group(1)), LOCK) if owner is not None else None
        for above in frames_of(frame):
            if any(_same(each, lock) for each in held_in(above)):
                return Holder(OWN_LOCK, "", _described(above))
        for ident, top in self._tops.items():
            if ident in self._threads and any(_same(each, lock) for above in frames_of(top) for each in held_in(above)):
                return self._owned(ident, LOCK)
        found = self._held_by_task(lock)
        if found is not None:
            return found
        for ident, top in self._tops.items():
            if ident in self._threads and any(acquired_in(above, lock) for above in frames_of(top)):
                found = self._owned(ident, LOCK)
                return found._replace(guess=True) if found is not None else None
        return None

    def _held_by_task(self, lock: Any) -> Holder | None:
        """A suspended task of the same loop that stands in a ``with`` block of this lock."""
        for count, task in enumerate(asyncio.all_tasks(self._loop)):
            if count >= _MAX_TASKS:
                break
            for frame in frames_of_coroutine(task.get_coro()):
                if any(_same(each, lock) for each in held_in(frame)):
                    return Holder(OWN_TASK, str(task.get_name())[:_NAME], _described(frame))
        return None

    def _owned(self, ident: Any, kind: str) -> Holder | None:
        standing = self._threads.get(ident)
        if standing is not None:
            return Holder(kind, standing.name, standing.own)
        return None

    def _joined(self, thread: Any) -> Holder | None:
        ident = vars(thread).get("_ident") if isinstance(thread, threading.Thread) else None
        return self._owned(ident, JOIN)

    # -- calls of other threads

    def _called(self, future: Any) -> Holder | None:
        if future is None:
            return None
        if self._waits_for_loop(future):
            return Holder(OWN_COROUTINE)
        queued: list[int] = []
        for ident, top in self._tops.items():
            standing = self._threads.get(ident)
            if standing is None:
                continue
            for frame in frames_of(top):
                if not frame.f_code.co_filename.endswith("thread.py"):
                    continue
                if frame.f_code.co_name == "run" and attribute_of(local_value(frame, "self"), "future") is future:
                    kind = OWN_POOL if self._asks_loop(ident) else CALL
                    name = _pool_of(standing.name) if kind == OWN_POOL else standing.name
                    return Holder(kind, name, standing.own)
                if frame.f_code.co_name == "_worker" and _is_queued(local_value(frame, "work_queue"), future):
                    queued.append(ident)
        if not queued:
            return None
        asking = [ident for ident in queued if self._asks_loop(ident)]
        standing = self._threads[(asking or queued)[0]]
        return Holder(OWN_POOL if asking else QUEUED, _pool_of(standing.name), standing.own)

    def _asks_loop(self, ident: int) -> bool:
        """Whether a thread waits for something that only the blocked loop can do."""
        for frame in frames_of(self._tops.get(ident)):
            module = dict.get(frame.f_globals, "__name__")
            name = frame.f_code.co_qualname
            if module == "concurrent.futures._base" and frame.f_code.co_name in ("result", "exception"):
                if self._waits_for_loop(local_value(frame, "self")):
                    return True
            elif isinstance(module, str) and any(module.startswith(m) and n in name for m, n in _ASKING):
                return True
        return False

    def _waits_for_loop(self, future: Any) -> bool:
        """Whether a concurrent future belongs to a coroutine that the blocked loop has to run."""
        callbacks = attribute_of(future, "_done_callbacks")
        if isinstance(callbacks, list) and any(
            _in_closure(each, "source_loop", self._loop) for each in callbacks[:_MAX_QUEUED]
        ):
            return True
        # The loop has not begun the call: ``run_coroutine_threadsafe`` has put it into the ready queue.
        for count, handle in enumerate(list(self._loop._ready)):
            if count >= _MAX_READY:
                break
            if _in_closure(getattr(handle, "_callback", None), "future", future):
                return True
        return False


def gil_holder(
    samples: list[Sample], threads: list[Standing], since: float, computed: dict[int, float], length: float
) -> Holder | None:
    """The thread that has kept the GIL from the loop; None if the loop does not wait for the GIL.

    ``samples``: of the loop's thread, the first from before the run. ``computed``: CPU time of each thread in the last
    ``since`` s, by native id. ``length``: of the run, s.
    """
    if len(samples) < 2:
        return None
    first, last = samples[0], samples[-1]
    span = last[0] - first[0]
    if span <= 0.0 or min(first[1], last[1]) < 0.0 or min(first[3], last[3]) < 0.0 or first[4] < 0:
        return None
    # Decided as in reading/stalls/causes.py: time in which it waited for a processor is left out.
    own = last[1] - first[1]
    others = last[2] - first[2] - own
    rest = span - (last[3] - first[3])
    off = rest - own
    rate = (last[4] - first[4]) / span
    if off < rest / 2 or others < off / 5 or rate < _GIL_WAKES_PER_SECOND * min(1.0, off / span):
        return None
    most = max(threads, key=lambda each: computed.get(each.native, 0.0), default=None)
    if most is None or computed.get(most.native, 0.0) < _LEAST_COMPUTED:
        return None
    if _has_given_gil_away(most):
        return None  # it has computed before, and what the loop waits for now is something else
    together = sum(computed.get(each.native, 0.0) for each in threads)
    if together < off / 5:  # what others computed was our own thread's, and what ends and begins
        return None
    share = computed[most.native] / together
    return Holder(GIL, most.name, most.own, guess=share < _MOST or others < off / 2 or since > 2 * length + 1.0)


def _has_given_gil_away(standing: Standing) -> bool:
    """Whether a thread stands in a wait of ``threading``, where it cannot hold the GIL."""
    _, _, module, qualname = standing.frames[-1] if standing.frames else ("", 0, "", "")
    return module == "threading" and qualname in _WAITS


def _frames_above(top: FrameType | None) -> Iterator[FrameType]:
    """The frames in which a thread waits: the innermost, and on through the standard library to who called that."""
    for count, frame in enumerate(frames_of(top)):
        yield frame
        if count >= _DEPTH or culprit_frame([_described(frame)]) is not None:
            return


def _described(frame: FrameType) -> Frame:
    return describe(frame, frame.f_lineno or frame.f_code.co_firstlineno)


def _is_lock(value: Any) -> bool:
    return type(value) in (_LOCK, _RLOCK) or isinstance(value, threading.Semaphore)


def _is_taken(lock: Any) -> bool:
    return type(lock) is not _LOCK or bool(lock.locked())


def _same(held: Any, lock: Any) -> bool:
    """Whether to have ``held`` is to have ``lock``: it is the same, or a condition over it."""
    return held is lock or (isinstance(held, threading.Condition) and attribute_of(held, "_lock") is lock)


def _in_closure(function: Any, name: str, value: Any) -> bool:
    """Whether a function's free variable of this name is ``value``."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    if name not in names:
        return False
    try:
        return function.__closure__[names.index(name)].cell_contents is value
    except (AttributeError, IndexError, TypeError, ValueError):
        return False


def _is_queued(queue: Any, future: Any) -> bool:
    """Whether a thread pool's queue has the call of this future. A ``SimpleQueue`` shows its items to the collector."""
    items = gc.get_referents(queue) if queue is not None else []
    for item in [*items]:
        if type(item) is list:
            items += item[:_MAX_QUEUED]
    return any(attribute_of(item, "future") is future for item in items[:_MAX_QUEUED])


def _pool_of(name: str) -> str:
    """The name of a pool's threads without their number."""
    prefix, _, number = name.rpartition("_")
    return prefix if prefix and number.isdigit() else name
