"""Who holds the lock that a task waits for, where that is certain.

AnyIO's lock knows its owner, and so does its limiter of one; asyncio's lock does not. But a task inside ``async with
lock`` has the lock on its frame: the ``__aexit__`` that the interpreter calls at the block's end is among what the
suspended coroutine refers to. It is there

* in the task's own coroutines, from the moment at which the lock is *entered* on: a frame that still awaits
  ``__aenter__`` does not have it yet;
* in the generator of an ``@asynccontextmanager`` that the task is inside of;
* among the callbacks of an ``AsyncExitStack``;
* of a ``Condition``, which stands for its lock. ``Condition.wait`` gives the lock back until it returns;
* of a ``BoundedSemaphore(1)``. Other semaphores do not show how many may be inside of them.

A function that calls any ``release`` itself may have given the lock back: what it has entered proves nothing. Nor does
anything show who holds a lock that was taken by ``await lock.acquire()``.

A holder counts only if it is found to hold the lock at the moment at which a waiter is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Iterator, Sequence
from gc import get_referents
from opcode import opmap
from types import AsyncGeneratorType, CodeType, FrameType, FunctionType, MethodType
from typing import Any

from .coroutine_steps import ANYIO_BACKEND, ASYNCIO_DIRECTORY, below, step

# Locks whose holders are remembered for one round of looks, and waiters that are looked at again at its end.
_MAX_LOCKS = 10_000
# Managers that are inside of each other: an exit stack in a generator in an exit stack.
_MAX_NESTED = 4
_MAX_CALLBACKS = 100
_MAX_STEPS = 64

_GET_AWAITABLE = opmap.get("GET_AWAITABLE", -1)
_OF_AENTER = 1
_ACQUIRES = frozenset(("Lock.acquire", "Semaphore.acquire", "CapacityLimiter.acquire_on_behalf_of"))
_CONDITION_WAIT = getattr(asyncio.Condition.wait, "__code__", None)
_GENERATOR_MANAGER: type = contextlib._AsyncGeneratorContextManager


def lock_in(frames: Sequence[FrameType]) -> int:
    """How deep in a chain stands the ``acquire`` of a lock whose holder may be known; -1 where none does."""
    for depth in range(len(frames) - 1, -1, -1):
        code = frames[depth].f_code
        if code.co_qualname in _ACQUIRES and (
            code.co_filename.startswith(ASYNCIO_DIRECTORY) or frames[depth].f_globals.get("__name__") == ANYIO_BACKEND
        ):
            return depth
    return -1


def blocks_in(frames: Sequence[FrameType]) -> tuple[int, ...]:
    """How deep in a chain stand functions that have an ``async with``."""
    return tuple(depth for depth, frame in enumerate(frames) if _has_block(frame.f_code))


def _has_block(code: CodeType) -> bool:
    if not _proves(code):
        return False
    units = code.co_code
    return any(
        units[at] == _GET_AWAITABLE and units[at + 1] == _OF_AENTER for at in range(0, len(units) - 1, 2)
    )


def _proves(code: CodeType) -> bool:
    """Whether a function that has entered a lock has it: it may have called ``release`` by itself."""
    return "release" not in code.co_names


class LockHolders:
    """Of one loop, for one round of looks and the one after it."""

    def __init__(self) -> None:
        # By the identity of a lock: who was inside of it. A lock that a task waits for exists, so that its identity is
        # its own; what was remembered of another one that had it before does not pass the check.
        self._inside: dict[int, weakref.ref[Any]] = {}
        self._before: dict[int, weakref.ref[Any]] = {}
        self._unknown: list[tuple[int, weakref.ref[Any]]] = []
        self._is_again = False

    def begin(self) -> None:
        """A round of looks begins."""
        self._before, self._inside = self._inside, {}
        self._unknown.clear()
        self._is_again = False

    def met(self, task: Any, blocks: tuple[int, ...]) -> None:
        """``task`` is looked at, and stands in functions that have an ``async with``, as deep in its chain."""
        coro = task.get_coro()
        for depth in blocks:
            for lock in _held_at(below(coro, depth), _MAX_NESTED):
                if len(self._inside) < _MAX_LOCKS:
                    self._inside[id(lock)] = weakref.ref(task)

    def of(self, task: Any, depth: int) -> Any:
        """The task that holds the lock for which ``task`` waits, in an ``acquire`` so deep in its chain; else None."""
        lock = _lock_of(below(task.get_coro(), depth))
        if lock is None:
            return None
        if type(lock).__module__ == ANYIO_BACKEND:
            owner = _owner_of(lock)
            return owner if issubclass(type(owner), asyncio.Task) and owner is not task else None
        for known in (self._inside, self._before):
            reference = known.get(id(lock))
            holder = reference() if reference is not None else None
            if holder is not None and not holder.done() and _holds(holder, lock):
                return holder
        if not self._is_again and len(self._unknown) < _MAX_LOCKS:
            self._unknown.append((id(lock), weakref.ref(task)))
        return None

    def again(self) -> list[weakref.ref[Any]]:
        """Tasks whose lock was met later in this round, inside of another task: they are to be looked at again.

        Once a round: the other task may have left the lock since, and a round that does not end looks at nobody else.
        """
        self._is_again = True
        found = [reference for lock, reference in self._unknown if lock in self._inside]
        self._unknown.clear()
        return found


def _lock_of(coro: Any) -> Any:
    for each in get_referents(coro):
        kind = type(each)
        if kind.__module__ == ANYIO_BACKEND and kind.__name__ in ("Lock", "CapacityLimiter"):
            return each
        if _is_lock(kind):
            return each if _is_of_one(each) else None
    return None


def _is_lock(kind: type) -> bool:
    return issubclass(kind, (asyncio.Lock, asyncio.Semaphore))


def _is_of_one(lock: Any) -> bool:
    return issubclass(type(lock), asyncio.Lock) or getattr(lock, "_bound_value", 0) == 1


def _owner_of(lock: Any) -> Any:
    """The owner of a lock or a limiter of AnyIO's."""
    borrowers = getattr(lock, "_borrowers", None)
    if borrowers is None:
        return getattr(lock, "_owner_task", None)
    return next(iter(list(borrowers)), None) if getattr(lock, "_total_tokens", 0) == 1 else None


def _holds(task: Any, lock: Any) -> bool:
    coro = task.get_coro()
    for _ in range(_MAX_STEPS):
        frame, following = step(coro)
        if frame is None:
            return False
        if _proves(frame.f_code) and any(each is lock for each in _held_at(coro, _MAX_NESTED)):
            return True
        if following is None:
            return False
        coro = following
    return False


def _held_at(coro: Any, nested: int) -> list[Any]:
    """The locks that a suspended coroutine (or asynchronous generator) itself is inside of."""
    frame, following = step(coro)
    if frame is None or (following is None and type(coro) is not AsyncGeneratorType):
        return []  # it runs
    entered = list(_managers(get_referents(coro)))
    if _code(following) == "__aenter__":
        del entered[-1:]
    found = [lock for manager in entered for lock in _locks_of(manager, nested)]
    if not found:
        return found
    given_back = _given_back(following)
    return [lock for lock in found if lock is not given_back]


def _managers(referents: list[Any]) -> Iterator[Any]:
    """What the interpreter will call ``__aexit__`` of. From Python 3.14 on the function lies before its object."""
    following = iter(referents)
    for each in following:
        if type(each) is MethodType:
            if getattr(each.__func__, "__name__", "") == "__aexit__":
                yield each.__self__
        elif type(each) is FunctionType and each.__name__ == "__aexit__":
            yield next(following, None)


def _locks_of(manager: Any, nested: int) -> Iterator[Any]:
    kind = type(manager)
    if _is_lock(kind):
        if _is_of_one(manager):
            yield manager
    elif issubclass(kind, asyncio.Condition):
        yield getattr(manager, "_lock", None)
    elif nested and _GENERATOR_MANAGER in kind.__mro__:  # an abstract base: issubclass would run code in Python
        generator = manager.gen
        if type(generator) is AsyncGeneratorType and _proves(generator.ag_code):
            yield from _held_at(generator, nested - 1)
    elif nested and contextlib.AsyncExitStack in kind.__mro__:
        for _, callback in list(manager._exit_callbacks)[:_MAX_CALLBACKS]:
            if type(callback) is MethodType and getattr(callback.__func__, "__name__", "") == "__aexit__":
                yield from _locks_of(callback.__self__, nested - 1)


def _given_back(coro: Any) -> Any:
    """The lock that a ``Condition.wait`` below has given back until it returns."""
    for _ in range(_MAX_STEPS):
        frame, following = step(coro)
        if frame is None:
            return None
        if frame.f_code is _CONDITION_WAIT:
            conditions = [each for each in get_referents(coro) if issubclass(type(each), asyncio.Condition)]
            return getattr(conditions[0], "_lock", None) if conditions else None
        coro = following
    return None


def _code(coro: Any) -> str:
    frame, _ = step(coro)
    return frame.f_code.co_name if frame is not None else ""
