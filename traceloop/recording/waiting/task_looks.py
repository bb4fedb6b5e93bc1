"""Looks at the tasks that wait, from the watchdog's thread, and records where each of them stands.

The loop pays nothing for it while it runs. What follows from looking from another thread:

* A look is made in slices of ``_SLICE_SECONDS``, one for each poll of the watchdog: a thread that wants the GIL waits
  no longer than that. Slices of 0.3 ms ten times a second are 0.3 % of a processor at the most; some forty tasks fit
  into one. Of more tasks than fit into a second, a rotating part is looked at.
* A task may end, or be collected, while it is looked at. Whoever lets go of the last reference runs its finalizers, and
  these belong into the loop's thread: a task that nothing else refers to is handed to the loop (``dropped``).
* A loop that has run nothing since the last whole look is not looked at again: its tasks stand where they stood.

What is written: ``R_LOOK`` (when), then for each task ``R_AWAIT`` (its ident, its chain) and
``R_AWAITED`` for each task that it waits for.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from time import monotonic
from typing import Any

from ...record import layout
from .. import failures
from ..outbox import Outbox
from .await_chains import AwaitChains, awaited_tasks

#: How often all tasks of a loop are looked at, where they fit into the slices of that time; s.
LOOK_SECONDS = 1.0
_SLICE_SECONDS = 0.0003
# Clock readings cost as much as a third of a task: asked once for so many.
_CHUNK = 8


def _references_of_a_local() -> int:
    only_here = object()
    return sys.getrefcount(only_here)


# What ``getrefcount`` says where nothing but us refers to a task: 2, and 1 from 3.14 on.
_OURS_ALONE = _references_of_a_local()


class LoopLook:
    """The look at one loop's tasks that is under way."""

    def __init__(self, loop: Any) -> None:
        self.loop = weakref.ref(loop)
        self.left: list[Any] = []
        self.started = 0.0
        self.records = -1.0
        self.period = LOOK_SECONDS


class TaskLooks:
    """Looks at the tasks of the loops of one process; called by the watchdog, in its thread."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._chains = AwaitChains(self._define_chain)
        self._looks: dict[int, LoopLook] = {}
        self._failed = False

    def _define_chain(self, number: int, text: str) -> None:
        self._outbox.define([float(number), layout.R_CHAIN, 0.0], text, monotonic())

    @property
    def under_way(self) -> bool:
        """Whether a look is not finished yet."""
        return any(look.left for look in self._looks.values())

    def poll(self, loops: list[Any], now: float) -> None:
        """One slice for each of ``loops`` (running ones) that is due. Never raises."""
        if self._failed or self._outbox.forked:
            return
        try:
            for loop in loops:
                self._look(loop, now)
            if len(self._looks) > len(loops):
                alive = {id(loop) for loop in loops}
                self._looks = {key: look for key, look in self._looks.items() if key in alive}
        except Exception as error:
            self._failed = not failures.is_shortage(error)
            failures.report("looking at tasks failed and has stopped", error)

    def _look(self, loop: Any, now: float) -> None:
        look = self._looks.get(id(loop))
        if look is None or look.loop() is not loop:
            look = self._looks[id(loop)] = LoopLook(loop)
        if not look.left:
            recorder = loop._recorder
            records = recorder.ring.words[layout.W_RECORDS]
            if now - look.started < LOOK_SECONDS or records == look.records:
                return
            look.started = now
            look.records = records
            look.left = task_references(loop)
        until = monotonic() + _SLICE_SECONDS
        left = look.left
        out: list[float] = []
        while left:
            for _ in range(min(_CHUNK, len(left))):
                self._look_at(left.pop(), loop, out)
            if monotonic() >= until:
                break
        if out:
            self._outbox.pending.extend((now, layout.R_LOOK, look.period, *out))
        if not left:
            look.period = max(LOOK_SECONDS, now - look.started)

    def _look_at(self, reference: Any, loop: Any, out: list[float]) -> None:
        task = reference() if type(reference) is weakref.ref else reference
        del reference
        if task is None:
            return
        ident = getattr(task, "_loop_ident", 0.0)
        # A task that waits for nothing is about to run: it does not stand anywhere.
        waiter = getattr(task, "_fut_waiter", None)
        if ident and waiter is not None and task.get_loop() is loop and not task.done():
            chain = self._chains.chain_of(task.get_coro(), waiter)
            if chain.number:
                out += (ident, layout.R_AWAIT, float(chain.number))
                for each in awaited_tasks(task, waiter, chain):
                    other = getattr(each, "_loop_ident", 0.0)
                    if other:
                        out += (ident, layout.R_AWAITED, other)
        del waiter
        if sys.getrefcount(task) <= _OURS_ALONE:
            loop._recorder.dropped_tasks.append(task)


if sys.version_info >= (3, 14):

    def task_references(loop: Any) -> list[Any]:
        """References to the tasks of ``loop`` that are not done. From any thread."""
        out: list[Any] = []
        tasks = asyncio.all_tasks(loop)
        while tasks:
            task = tasks.pop()
            out.append(weakref.ref(task))
            if sys.getrefcount(task) <= _OURS_ALONE:
                loop._recorder.dropped_tasks.append(task)
        return out

else:
    # asyncio's own sets of all tasks. A copy of the set inside a WeakSet is one C call, which no other thread
    # interrupts; ``all_tasks`` goes through it in Python, and tries again when the loop has changed it meanwhile.
    _SETS = [
        getattr(asyncio.tasks, name)
        for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks")
        if hasattr(asyncio.tasks, name)
    ]

    def task_references(loop: Any) -> list[Any]:
        """References to all tasks, of other loops too. From any thread."""
        out: list[Any] = []
        for tasks in _SETS:
            if isinstance(tasks, weakref.WeakSet):
                out += list(tasks.data)  # type: ignore[attr-defined]
            else:
                out += [weakref.ref(task) for task in list(tasks)]
        return out
