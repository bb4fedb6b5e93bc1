"""Who will set the future that a task waits for: a call in an executor, another task, another thread.

A future shows this only by its callbacks, and by what they hold:

* An offload's callback belongs to the offload, which knows its executor and its function.
* ``asyncio.wrap_future`` and ``shield`` chain two futures by functions that have both in their closures.
* ``run_coroutine_threadsafe`` chains a task of one loop to a concurrent future, and ``wrap_future`` chains that to a
  future of another loop.

The watchdog's thread calls this, so it looks only into functions and methods of the interpreter's own types: looking
into anything else may run the program's code. A callback of the program's own proves nothing, whatever it holds.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from gc import get_referents
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any, Final, NamedTuple

from ...core.choose import core
from ..offloads.offload import Offload

# Futures chained to each other that are looked at, and callbacks of each.
_MAX_FUTURES = 5
_MAX_CALLBACKS = 4

WRAPPED = "asyncio.wrap_future"
SHIELDED = "asyncio.shield"
OTHER_LOOP = "asyncio.run_coroutine_threadsafe"
# asyncio's callbacks that know what sets the future they are called for: with the names of their module, and what
# programs call to have a future set so. Their siblings (``_call_set_state``, ``_inner_done_callback``) know what a
# future sets.
_CHAINED_BY: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "_chain_future.<locals>._call_check_cancel": (vars(asyncio.futures), WRAPPED),
    "shield.<locals>._outer_done_callback": (vars(asyncio.tasks), SHIELDED),
}
_NO_CHAIN: Final[tuple[dict[str, Any], str]] = ({}, "")


class Call(NamedTuple):
    """A call in an executor: the executor's label, and the number of the function's site."""

    executor: str
    site: float


def origin_of(waiter: Any) -> Call | str:
    """The call that ``waiter`` is the future of; else what made the future, ``""`` where that is not known."""
    made_by = ""
    for future, chained_by in _sources(waiter):
        made_by = chained_by
        for callback in _callbacks(future):
            call = _call_of(getattr(callback, "__self__", None))
            if call is not None:
                return call
    return made_by


def call_in(coro: Any) -> Call | str:
    """The call that a suspended coroutine has among its locals, or the future of one; ``""`` where it has none."""
    for each in get_referents(coro):
        call = _call_of(each)
        if call is None and _is(each, asyncio.Future) and not _is(each, asyncio.Task):
            found = origin_of(each)
            call = found if type(found) is Call else None
        if call is not None:
            return call
    return ""


def task_behind(waiter: Any) -> Any:
    """The task behind a future that was chained to it, perhaps another loop's; None where there is none."""
    for future, made_by in _sources(waiter):
        if made_by and _is(future, asyncio.Task):
            return future
    return None


def _sources(waiter: Any) -> Iterator[tuple[Any, str]]:
    """``waiter``, the future that sets it, the one that sets that, and so on to a task; each with what chained them."""
    future, made_by = waiter, ""
    for _ in range(_MAX_FUTURES):
        yield future, made_by
        if _is(future, asyncio.Task):
            return
        source, chained_by = None, ""
        for callback in _callbacks(future):
            if type(callback) is FunctionType:
                names, maker = _CHAINED_BY.get(callback.__qualname__, _NO_CHAIN)
                if callback.__globals__ is not names:
                    continue
                held = next((each for each in _held(callback) if each is not future), None)
                if held is not None:
                    source, chained_by = held, maker
        if source is None:
            return
        of_another_loop = _is(future, concurrent.futures.Future) and _is(source, asyncio.Task)
        made_by = OTHER_LOOP if of_another_loop else made_by or chained_by
        future = source


def _callbacks(future: Any) -> Iterator[Any]:
    """The callbacks of a future that can be looked into."""
    concurrent_one = _is(future, concurrent.futures.Future)
    listed = future._done_callbacks if concurrent_one else getattr(future, "_callbacks", None)
    for entry in list(listed or ())[:_MAX_CALLBACKS]:
        callback = entry if concurrent_one else entry[0]
        if type(callback) in (FunctionType, MethodType, BuiltinMethodType):
            yield callback


def _held(callback: FunctionType) -> Iterator[Any]:
    """The futures in a function's closure, without the task that waits (3.14 has it there)."""
    for name, cell in zip(callback.__code__.co_freevars, callback.__closure__ or (), strict=True):
        if name == "cur_task":
            continue
        try:
            held = cell.cell_contents
        except ValueError:  # not set yet, or deleted
            continue
        if _is(held, asyncio.Future) or _is(held, concurrent.futures.Future):
            yield held


def _is(each: Any, kind: type) -> bool:
    """As ``isinstance``, which asks proxies for their ``__class__``: that is the program's code."""
    return issubclass(type(each), kind)


def _call_of(owner: Any) -> Call | None:
    native = core().native
    if type(owner) is Offload or (native is not None and type(owner) is native.Offload):
        entry = owner.entry
        return Call(entry.shared_label, owner.site) if entry is not None else None
    return None
