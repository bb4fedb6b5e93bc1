"""Where a suspended task stands: the chain of coroutines from its own down to what it awaits, as one number.

A chain is found by walking ``cr_await``, ``gi_yieldfrom`` and ``ag_await``. Its key consists of the id of each code
object and the index of its last instruction, so that a known chain needs no line number and no name. A new chain is
written to the ring as a list of frames, and named by its number from then on. The ring overwrites it in time:
``describe_again`` has it written once more, for readers that come later.

Nothing here reads ``f_locals``: before Python 3.13 that leaves a dict on the frame, which keeps the locals alive.
"""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import Callable, Sequence
from gc import get_referents
from types import CodeType, CoroutineType, FrameType
from typing import Any, NamedTuple

from ...record.frames import Frame, is_recording
from ...record.sites import UNKNOWN_SITE, Site, module_name
from ..watchdog.stacks import qualname_of
from .behind_futures import Call, call_in, origin_of, task_behind
from .coroutine_steps import ANYIO_BACKEND, ASYNCIO_DIRECTORY, below, step
from .lock_holders import blocks_in, lock_in

#: So many frames of a chain are looked at. Deeper ones are left out.
MAX_DEPTH = 64
#: So many of the outermost and of the innermost frames are written down.
_KEPT_OUTER = 4
_KEPT_INNER = 20
#: So many chains get numbers. In a program that makes new code again and again, later ones are 0, "not known".
MAX_CHAINS = 16_384

# So many tasks are recorded that one task waits for: the members of a gather, a wait or a task group.
MAX_AWAITED = 1000
# Coroutines of asyncio and anyio that have the tasks they wait for in their locals.
_WITH_MEMBERS = frozenset(
    ("_wait", "wait_for", "TaskGroup.__aexit__", "_AsCompletedIterator._wait_for_one")  # the last one from 3.13 on
)
# Coroutines of asyncio that await a future which they were given, or which other code made.
_PASSING_ON = frozenset(("to_thread", "wait_for", "wrap_awaitable", "_wrap_awaitable"))


class Chain(NamedTuple):
    """A chain that was met before. Depths count from the task's own coroutine; -1 means that there is none.

    members: depth of a coroutine that has the tasks it waits for among its locals. in_asyncio: whether the chain ends
    in asyncio's own code, which made the future that it waits for. caller: depth of a coroutine that has a call in an
    executor among its locals. lock: depth of the ``acquire`` of a lock. blocks: depths of functions with ``async
    with``.
    """

    number: int
    members: int
    in_asyncio: bool
    caller: int
    lock: int
    blocks: tuple[int, ...]


UNKNOWN_CHAIN = Chain(0, -1, True, -1, -1, ())


class AwaitChains:
    """Numbers the chains of one process. For one thread; no call gives the GIL away."""

    def __init__(self, define: Callable[[int, str], None], sites: Sequence[Site] = ()) -> None:
        """``define(number, text)`` writes down a new chain before its number is used; ``_describe`` makes the text.
        ``sites``: of the process, by number.
        """
        self._define = define
        self._sites = sites
        # Calls in executors and the like have numbers below zero, which no id of a code object equals.
        self._calls: dict[Call | str, int] = {}
        self._known: dict[tuple[int, ...], Chain] = {}
        # Chains that are written down again, under the same number, when they are met next.
        self._former: dict[tuple[int, ...], Chain] = {}
        # The code objects of the keys. A key is dropped with the first of its code objects, because ids are used again.
        self._references: dict[int, tuple[weakref.ref[CodeType], set[tuple[int, ...]]]] = {}
        self._count = 0

    def describe_again(self) -> None:
        """From now on each chain is written down once more when it is met: the ring may have lost it."""
        self._former.update(self._known)
        self._known.clear()

    def chain_of(self, coro: Any, waiter: Any) -> Chain:
        """The chain that begins at ``coro`` and waits for ``waiter`` (a future).

        Its number is 0 if it is not known: the coroutine is not suspended, is written in C, or has ended.
        """
        key = [id(type(waiter))]
        add = key.append
        here = coro
        # Written out for coroutines: a call for each frame would double the cost of a task.
        while True:
            if type(here) is CoroutineType:
                frame = here.cr_frame
                following = here.cr_await
            else:
                frame, following = step(here)
            if frame is None:
                break
            add(id(frame.f_code))
            add(frame.f_lasti)
            if following is None or len(key) > 2 * MAX_DEPTH:
                break
            here = following
        chain = self._known.get(tuple(key)) or self._new_chain(tuple(key), coro, waiter)
        if chain.in_asyncio and chain.caller < 0:
            return chain
        return self._of_call(chain, key, coro, waiter)

    def _of_call(self, chain: Chain, key: list[int], coro: Any, waiter: Any) -> Chain:
        """If the chain waits for a call in an executor, that chain with the call; else ``chain``."""
        call: Call | str = ""
        if not chain.in_asyncio:
            call = origin_of(waiter)
        if not call and chain.caller >= 0:
            call = call_in(below(coro, chain.caller))
        if not call:
            return chain
        number = self._calls.get(call)
        if number is None:
            if len(self._calls) >= MAX_CHAINS:
                return chain
            number = self._calls[call] = -1 - len(self._calls)
        key.append(number)
        return self._known.get(tuple(key)) or self._new_chain(tuple(key), coro, waiter, call)

    def _new_chain(self, key: tuple[int, ...], coro: Any, waiter: Any, call: Call | str = "") -> Chain:
        frames: list[FrameType] = []
        while len(frames) < MAX_DEPTH:
            frame, coro = step(coro)
            if frame is None:
                break
            frames.append(frame)
        chain = self._former.pop(key, None)
        if chain is None:
            if not frames or self._count >= MAX_CHAINS:
                return UNKNOWN_CHAIN
            self._count += 1
            chain = Chain(
                self._count,
                _members_in(frames),
                _made_in_asyncio(frames[-1]),
                _caller_in(frames),
                lock_in(frames),
                blocks_in(frames),
            )
        self._define(chain.number, self._describe(frames, waiter, call))
        self._remember(key, chain, frames)
        return chain

    def _describe(self, frames: list[FrameType], waiter: Any, call: Call | str) -> str:
        """JSON: ``[[file, line, module, qualname], ...]``, outermost first; the type of what is awaited at the end, or
        what made it; of a call in an executor also ``[label of the executor, file, line, module, qualname]``.
        """
        if len(frames) > _KEPT_OUTER + _KEPT_INNER:
            frames = frames[:_KEPT_OUTER] + frames[-_KEPT_INNER:]
        out: list[Frame] = []
        for frame in frames:
            code = frame.f_code
            name = module_name(dict.get(frame.f_globals, "__name__"))
            out.append((code.co_filename, frame.f_lineno or code.co_firstlineno, name, qualname_of(code)))
        awaited = type(waiter)
        described: list[Any] = [out, f"{module_name(awaited.__module__)}.{awaited.__qualname__}"]
        if isinstance(call, str):
            described[1] = call or described[1]
        else:
            number = int(call.site)
            site = self._sites[number] if 0 <= number < len(self._sites) else UNKNOWN_SITE
            described.append([call.executor, site.file, site.line, site.module, site.qualname])
        return json.dumps(described, separators=(",", ":"))

    def _remember(self, key: tuple[int, ...], chain: Chain, frames: list[FrameType]) -> None:
        self._known[key] = chain
        for frame in frames:
            code = frame.f_code
            entry = self._references.get(id(code))
            if entry is None:
                forget = _forgetting(id(code), self._references, (self._known, self._former))
                reference = weakref.ref(code, forget)
                entry = self._references[id(code)] = (reference, set())
            entry[1].add(key)


def _forgetting(
    code_id: int,
    references: dict[int, tuple[Any, set[tuple[int, ...]]]],
    chains: tuple[dict[tuple[int, ...], Chain], ...],
) -> Callable[[object], None]:
    def forget(_: object) -> None:
        _, keys = references.pop(code_id, (None, ()))
        for key in keys:
            for known in chains:
                known.pop(key, None)

    return forget


def _members_in(frames: list[FrameType]) -> int:
    for depth, frame in enumerate(frames):
        code = frame.f_code
        if code.co_qualname in _WITH_MEMBERS and (
            code.co_filename.startswith(ASYNCIO_DIRECTORY) or dict.get(frame.f_globals, "__name__") == ANYIO_BACKEND
        ):
            return depth
    return -1


def _made_in_asyncio(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_filename.startswith(ASYNCIO_DIRECTORY) and code.co_qualname not in _PASSING_ON


def _caller_in(frames: list[FrameType]) -> int:
    """The depth of our coroutine that gave a call to anyio's threads, or of a ``wait_for`` that has one; or -1."""
    for depth, frame in enumerate(frames):
        code = frame.f_code
        if is_recording(code.co_filename) or (
            code.co_qualname == "wait_for" and code.co_filename.startswith(ASYNCIO_DIRECTORY)
        ):
            return depth
    return -1


def awaited_tasks(task: Any, waiter: Any, chain: Chain) -> list[Any]:
    """The tasks that ``task`` waits for: one that it awaits, or the members of a gather, a wait or a task group.

    ``waiter``: the future that it is suspended on; ``chain``: where it stands. At most ``MAX_AWAITED``. What waits by
    other means (a lock, a queue, a future of the program's own) shows no task.
    """
    if isinstance(waiter, asyncio.Task):
        return [waiter]
    children = getattr(waiter, "_children", None)  # of a gather
    if isinstance(children, list):
        return [each for each in children[:MAX_AWAITED] if isinstance(each, asyncio.Task) and not each.done()]
    if chain.members < 0:
        behind = None if chain.in_asyncio else task_behind(waiter)
        return [behind] if behind is not None and behind is not task and not behind.done() else []
    return _members(below(task.get_coro(), chain.members), task)


def _members(coro: Any, task: Any) -> list[Any]:
    out: list[Any] = []
    for each in get_referents(coro):
        each = _held_by(each)
        if issubclass(type(each), asyncio.Task):
            out.append(each)
        elif type(each) in (set, list, tuple, frozenset) and 0 < len(each) <= 4096:
            # Copied by one C call, because the loop may change it.
            out += [member for member in list(each)[:MAX_AWAITED] if issubclass(type(member), asyncio.Task)]
    return [each for each in dict.fromkeys(out) if each is not task and not each.done()][:MAX_AWAITED]


def _held_by(each: Any) -> Any:
    """The tasks in an object of asyncio or anyio that keeps tasks; else ``each`` itself."""
    kind = type(each)
    if kind.__module__ in ("asyncio.taskgroups", "asyncio.tasks", ANYIO_BACKEND):
        attribute = {"TaskGroup": "_tasks", "_AsCompletedIterator": "_todo"}.get(kind.__name__, "")
        return getattr(each, attribute, None) if attribute else each
    return each
