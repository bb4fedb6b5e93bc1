"""Looks at suspended tasks from the watchdog's thread, and records where each of them stands.

The loop itself does nothing for it. Looking from another thread has these consequences:

* A look is made in slices of ``_SLICE_SECONDS``, one for each turn of the watchdog, so that a thread that wants the GIL
  waits no longer than that. Slices of 0.3 ms ten times a second take at most 0.3 % of a processor. Some forty tasks fit
  into one. If there are more tasks than fit into a second, each second looks at another part of them.
* Each slice takes its part of the tasks that there are then. With the tasks of the look's beginning, those that were
  made since would never be looked at, and most of the short ones would have ended: a service with more than forty
  connections would show a tenth of its short waits.
* `traceloop tasks` asks for a look at all tasks at once, by a file in the process's folder. Such a look takes a quarter
  of a processor in slices of ``_ASKED_SLICE_SECONDS``, for some 30,000 tasks a second, and ends after ``MOST_ASKED``.
* A task may end, or be collected, while it is looked at. The thread that drops the last reference runs the finalizers,
  which belong in the loop's thread. So a task that nothing else refers to is handed to the loop (``dropped_tasks``).
* A chain of coroutines is described once, and named by its number from then on. A reader that comes later knows only
  what the ring still holds. So chains are described again before half of the ring has been overwritten, and when a
  command asks.
* A loop that has run nothing since the last whole look is not looked at again: its tasks stand where they stood.

The records are ``R_LOOK`` (when), then for each task ``R_AWAIT`` (its ident, its chain), and ``R_AWAITED`` for each
task that it waits for.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any

from ...record import files, layout
from ...record.sites import Site
from .. import failures
from ..outbox import Outbox
from ..ring import Ring
from .await_chains import AwaitChains, awaited_tasks
from .lock_holders import LockHolders

#: All tasks of a loop are looked at this often (s), if they fit into the slices of that time.
LOOK_SECONDS = 1.0
_SLICE_SECONDS = 0.0003
# Of these, the tasks are taken anew in each slice only if that leaves time to look at some.
_TAKING_SECONDS = 0.00015
_ASKED_SLICE_SECONDS = 0.001
_ASKED_PAUSE_SECONDS = 0.003
#: When a command asks, so many tasks are looked at: as many as a reader remembers.
MOST_ASKED = 200_000
# A clock reading costs a third of a look at a task: the clock is read once for so many tasks.
_CHUNK = 8


def _references_of_a_local() -> int:
    only_here = object()
    return sys.getrefcount(only_here)


# Bound here: tests and tools that replace these functions mean the application's calls.
_rename, _unlink = os.rename, os.unlink

# What ``getrefcount`` returns if only this module refers to a task: 2, and 1 from 3.14 on.
_OURS_ALONE = _references_of_a_local()


class LoopLook:
    """The look at one loop's tasks that is under way.

    left: tasks that are still to be looked at. done: the share of the tasks that has been. count: how many there are.
    asked: a command asked for it. period: seconds between two looks at one task, as far as that is known; ``least`` or
    more, which is the time since the look before it.
    """

    def __init__(self, loop: Any) -> None:
        self.loop = weakref.ref(loop)
        self.left: list[Any] = []
        self.started = 0.0
        self.checked = 0.0  # when it was due last, whether or not anything was new
        self.records = -1.0
        self.least = self.period = LOOK_SECONDS
        self.done = 1.0
        self.count = 0
        self.keeps_list = False
        self.asked = False
        self.holders = LockHolders()

    def begin(self, loop: Any, now: float) -> None:
        """Begins a whole look."""
        between = now - self.started
        self.least = between if LOOK_SECONDS <= between < 2.0 * LOOK_SECONDS else LOOK_SECONDS
        self.period = max(self.period, self.least)
        self.started = now
        self.left = []
        self.done = 0.0
        self.keeps_list = False
        self.take_tasks(loop)
        self.holders.begin()

    def take_tasks(self, loop: Any) -> None:
        """Takes the tasks that there are now, and of these what is still to be looked at.

        Sets order tasks by their addresses: what comes and goes moves the others only where a set takes another size.
        Then a look misses some of them, and finds as many twice. From 3.14 on, whose ``all_tasks`` makes a new set each
        time, the order changes back and forth where the number of tasks goes past 76, 306, 1,228 and so on. Sorting by
        address would double the cost, and put tasks that were made one after the other beside each other: counts of
        short ones would vary four times as much. The list is kept for the rest of the look where taking it costs too
        much of a slice.
        """
        begun = monotonic()
        tasks = task_references(loop)
        count = len(tasks)
        if self.left:
            del tasks[self._still_to_look_at(tasks) :]
        self.left, self.count = tasks, count
        self.keeps_list = monotonic() - begun > _TAKING_SECONDS

    def _still_to_look_at(self, tasks: list[Any]) -> int:
        """How many of these tasks, from the first one on, are still to be looked at: up to the one that is next."""
        share = -(-len(tasks) * len(self.left) // self.count)
        places = list(map(id, tasks))
        for reference in self.left[: -_CHUNK - 1 : -1]:  # the next ones may have ended
            if id(reference) in places:
                place = places.index(id(reference)) + 1
                # A set that grows puts its tasks into another order: a look has to go on all the same.
                return place if abs(place - share) <= _CHUNK // 2 else share
        return share


class TaskLooks:
    """Looks at the tasks of one process's loops. Called by the watchdog, in its thread."""

    def __init__(
        self,
        outbox: Outbox,
        directory: str | None = None,
        ring: Callable[[], Ring | None] = lambda: None,
        sites: Sequence[Site] = (),
    ) -> None:
        """``directory``: the process's folder, into which a command puts the file ``look``. ``ring()``: the ring that
        ``outbox`` writes to, None before it is made. ``sites``: of the process, by number.
        """
        self._outbox = outbox
        self._ring = ring
        # How many bytes had been written to the ring when ``describe_again`` was called last.
        self._described_at = 0.0
        #: The file by which a command asks for a look; "" where none can.
        self.request = os.path.join(directory, files.LOOK) if directory else ""
        self._answering = os.path.join(directory, files.LOOKING) if directory else ""
        self._is_asked = False
        self._chains = AwaitChains(self._define_chain, sites)
        self._looks: dict[int, LoopLook] = {}
        self._failed = False

    def _define_chain(self, number: int, text: str) -> None:
        self._outbox.define([float(number), layout.R_CHAIN, 0.0], text, monotonic())

    @property
    def under_way(self) -> bool:
        """Whether a look is not finished yet."""
        return not self._failed and any(look.left for look in self._looks.values())

    @property
    def due(self) -> float:
        """When the next look is due, or the next check whether anything is new (monotonic s); infinity: not known."""
        if self._failed:
            return math.inf
        moments = (max(look.started, look.checked) for look in self._looks.values())
        return min(moments, default=math.inf) + LOOK_SECONDS

    def have_seen_all(self, loops: Iterable[Any]) -> bool:
        """Whether the last looks began after all that ``loops`` did: while they sleep, none would find anything new."""
        if self._failed:
            return True
        for loop in loops:
            look = self._looks.get(id(loop))
            if look is None or look.left or look.records != loop._recorder.ring.words[layout.W_RECORDS]:
                return False
        return True

    def poll(self, loops: list[Any], now: float) -> None:
        """Makes one slice for each of the running ``loops`` that is due. Never raises."""
        if self._failed or self._outbox.forked:
            return
        try:
            self._take_request(loops, now)
            self._keep_described()
            for loop in loops:
                self._look(loop, now)
            self._answer_request(now)
            if len(self._looks) > len(loops):
                alive = {id(loop) for loop in loops}
                self._looks = {key: look for key, look in self._looks.items() if key in alive}
        except Exception as error:
            self._failed = not failures.is_shortage(error)
            failures.report("looking at tasks failed and has stopped", error)

    def go_on(self, loops: Iterable[Any], now: float) -> None:
        """Makes one more slice of each look that is under way; nothing else that ``poll`` does. Never raises."""
        if self._failed or self._outbox.forked:
            return
        try:
            for loop in loops:
                look = self._looks.get(id(loop))
                if look is not None and look.left:
                    self._look(loop, now)
        except Exception as error:
            self._failed = not failures.is_shortage(error)
            failures.report("looking at tasks failed and has stopped", error)

    @property
    def pause(self) -> float | None:
        """Seconds until the next slice while a command waits for a look; None if none does."""
        return _ASKED_PAUSE_SECONDS if self._is_asked else None

    def _keep_described(self) -> None:
        ring = self._ring()
        if ring is not None:
            written = ring.words[layout.W_HEAD]
            if written - self._described_at > ring.capacity / 2:
                self._described_at = written
                self._chains.describe_again()

    def _take_request(self, loops: list[Any], now: float) -> None:
        if not self.request:
            return
        try:
            _rename(self.request, self._answering)
        except OSError:  # no command asks; or the process may no longer write there
            return
        self._is_asked = True
        self._chains.describe_again()
        for loop in loops:
            look = self._look_of(loop)
            look.begin(loop, now)
            look.asked = True
            # Every look begins with the latest tasks. Those that no reader would remember are left out.
            del look.left[:-MOST_ASKED]

    def _answer_request(self, now: float) -> None:
        if self._is_asked and not any(look.asked for look in self._looks.values() if look.loop() is not None):
            self._is_asked = False
            self._outbox.drain(now)
            try:
                _unlink(self._answering)
            except OSError:
                pass

    def _look_of(self, loop: Any) -> LoopLook:
        look = self._looks.get(id(loop))
        if look is None or look.loop() is not loop:
            look = self._looks[id(loop)] = LoopLook(loop)
        return look

    def _look(self, loop: Any, now: float) -> None:
        look = self._look_of(loop)
        until = monotonic()
        if not look.left:
            look.asked = False
            if now - look.started >= LOOK_SECONDS:
                look.checked = now
            records = loop._recorder.ring.words[layout.W_RECORDS]
            if now - look.started < LOOK_SECONDS or records == look.records:
                return
            look.records = records
            look.begin(loop, now)
        elif look.done < 1.0 and not look.asked and not look.keeps_list:
            look.take_tasks(loop)
        # The clock is read again: the loop may have run since the watchdog read it.
        begun = monotonic()
        until += _ASKED_SLICE_SECONDS if look.asked else _SLICE_SECONDS
        left = look.left
        out: list[float] = []
        while left:
            for _ in range(min(_CHUNK, len(left))):
                try:
                    self._look_at(left.pop(), loop, out, look.holders)
                except MemoryError:
                    raise
                except Exception as error:
                    # The others are looked at. The program's own class of tasks may differ from asyncio's.
                    if failures.is_own(error):
                        failures.report_once("a task could not be looked at", error)
            if monotonic() >= until:
                break
        if not look.asked and look.done < 1.0:
            # A first look at many tasks may last for minutes. From its first slice on, its record estimates the whole
            # time.
            look.done = done = 1.0 - len(left) / max(1, look.count)
            if now > look.started and done:
                look.period = max(look.least, (now - look.started) / done)
            elif not left:
                look.period = look.least
        if not left:
            left += look.holders.again()
        look.asked = look.asked and bool(left)
        if out:
            self._outbox.pending.extend((begun, layout.R_LOOK, look.period, *out))

    def _look_at(self, reference: Any, loop: Any, out: list[float], holders: LockHolders) -> None:
        task = reference() if type(reference) is weakref.ref else reference
        del reference
        if task is None:
            return
        ident = getattr(task, "_loop_ident", 0.0)
        # A task that waits for nothing is about to run, and stands nowhere.
        waiter = getattr(task, "_fut_waiter", None)
        if ident and waiter is not None and task.get_loop() is loop and not task.done():
            chain = self._chains.chain_of(task.get_coro(), waiter)
            if chain.number:
                out += (ident, layout.R_AWAIT, float(chain.number))
                for each in awaited_tasks(task, waiter, chain):
                    other = getattr(each, "_loop_ident", 0.0)
                    if other:
                        out += (ident, layout.R_AWAITED, other)
                if chain.blocks:
                    holders.met(task, chain.blocks)
                if chain.lock >= 0:
                    other = getattr(holders.of(task, chain.lock), "_loop_ident", 0.0)
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
    # asyncio's own sets of all tasks. Copying the set inside a WeakSet is one C call, which no other thread interrupts.
    # ``all_tasks`` goes through it in Python, and tries again if the loop has changed it meanwhile.
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
