"""Who holds the lock that a task waits for, where that is certain.

AnyIO's lock and its limiter of one know their owners. asyncio's lock does not know its owner. But a task inside ``async
with lock`` has the lock on its frame: the suspended coroutine refers to the bound ``__aexit__`` that the interpreter
calls at the end of the block. It is found

* in the task's own coroutines, once the lock is entered (a frame that still awaits ``__aenter__`` does not hold it
  yet);
* in the generator of an ``@asynccontextmanager`` that the task has entered;
* among the callbacks of an ``AsyncExitStack``.

A ``Condition`` stands for its lock, which ``Condition.wait`` gives back until it returns. A ``BoundedSemaphore(1)`` is
a lock. Other semaphores do not show how many tasks may enter them.

Two cases remain unknown: a function that itself calls some ``release``, which may have given the lock back, and a lock
taken by ``await lock.acquire()``.

A holder counts only if it is found to hold the lock at the moment of the look at the waiter.
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

# So many locks' holders are remembered in a round of looks, and so many waiters are looked at again at its end.
_MAX_LOCKS = 10_000
# Context managers inside each other: an exit stack in a generator in an exit stack.
_MAX_NESTED = 4
_MAX_CALLBACKS = 100
_MAX_STEPS = 64

_GET_AWAITABLE = opmap.get("GET_AWAITABLE", -1)
_OF_AENTER = 1
_ACQUIRES = frozenset(("Lock.acquire", "Semaphore.acquire", "CapacityLimiter.acquire_on_behalf_of"))
_CONDITION_WAIT = getattr(asyncio.Condition.wait, "__code__", None)
_GENERATOR_MANAGER: type = contextlib._AsyncGeneratorContextManager


def lock_in(frames: Sequence[FrameType]) -> int:
    """The depth in a chain of the ``acquire`` of a lock whose holder may be known; -1 if there is none."""
    for depth in range(len(frames) - 1, -1, -1):
        code = frames[depth].f_code
        if code.co_qualname in _ACQUIRES and (
            code.co_filename.startswith(ASYNCIO_DIRECTORY) or frames[depth].f_globals.get("__name__") == ANYIO_BACKEND
        ):
            return depth
    return -1


def blocks_in(frames: Sequence[FrameType]) -> tuple[int, ...]:
    """The depths in a chain of functions that have an ``async with``."""
    return tuple(depth for depth, frame in enumerate(frames) if _has_block(frame.f_code))


def _has_block(code: CodeType) -> bool:
    if not _proves(code):
        return False
    units = code.co_code
    return any(
        units[at] == _GET_AWAITABLE and units[at + 1] == _OF_AENTER for at in range(0, len(units) - 1, 2)
    )


def _proves(code: CodeType) -> bool:
    """Whether a function that has entered a lock still holds it for certain: it calls no ``release``."""
    return "release" not in code.co_names


class LockHolders:
    """The holders of one loop's locks, for one round of looks and the next."""

    def __init__(self) -> None:
        # By the id of a lock: the task that held it. The lock that a task waits for exists, so the id is its own. If
        # another lock had the id before, its holder does not pass the check.
        self._inside: dict[int, weakref.ref[Any]] = {}
        self._before: dict[int, weakref.ref[Any]] = {}
        self._unknown: list[tuple[int, weakref.ref[Any]]] = []
        self._is_again = False

    def begin(self) -> None:
        """Begins a round of looks."""
        self._before, self._inside = self._inside, {}
        self._unknown.clear()
        self._is_again = False

    def met(self, task: Any, blocks: tuple[int, ...]) -> None:
        """Remembers the locks that ``task`` holds. ``blocks``: the depths in its chain of functions with ``async
        with``.
        """
        coro = task.get_coro()
        for depth in blocks:
            for lock in _held_at(below(coro, depth), _MAX_NESTED):
                if len(self._inside) < _MAX_LOCKS:
                    self._inside[id(lock)] = weakref.ref(task)

    def of(self, task: Any, depth: int) -> Any:
        """The task that holds the lock for which ``task`` waits, or None. ``depth``: of the ``acquire`` in its chain.
        """
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
        """Tasks to look at again: the holder of their lock was met later in this round.

        Returns them once a round. The holder may have left the lock since, and a round must come to an end.
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
    """The locks that a suspended coroutine (or asynchronous generator) has itself entered."""
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
    """The objects whose ``__aexit__`` the interpreter will call. From 3.14 on the function comes before its object."""
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
    """The lock that a ``Condition.wait`` further down has given back until it returns."""
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
