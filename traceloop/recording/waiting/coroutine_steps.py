"""Steps from a suspended coroutine to the one that it awaits.

The watchdog's thread calls this, so nothing here may run the program's code.
"""

from __future__ import annotations

import asyncio
import os
from gc import get_referents
from types import (
    AsyncGeneratorType,
    CoroutineType,
    FrameType,
    GeneratorType,
    GetSetDescriptorType,
    MemberDescriptorType,
)
from typing import Any

ASYNCIO_DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(asyncio.__file__)), "")
ANYIO_BACKEND = "anyio._backends._asyncio"
# Objects between a coroutine and the one it awaits, which have it as no attribute.
_WRAPPERS = frozenset(("async_generator_asend", "async_generator_athrow", "coroutine_wrapper", "anext_awaitable"))
_LOOKED_INTO = frozenset((CoroutineType, GeneratorType, AsyncGeneratorType))
_OF_C_TYPES = frozenset((GetSetDescriptorType, MemberDescriptorType))


def below(coro: Any, depth: int) -> Any:
    """The coroutine at ``depth`` in the chain that begins with ``coro``."""
    for _ in range(depth):
        coro = step(coro)[1]
    return coro


def step(coro: Any) -> tuple[FrameType | None, Any]:
    """The frame of a suspended coroutine, and what it awaits; (None, None) for an object without a frame."""
    for _ in range(3):
        kind = type(coro)
        if kind is CoroutineType:
            return coro.cr_frame, coro.cr_await
        if kind is GeneratorType:
            return coro.gi_frame, coro.gi_yieldfrom
        if kind is AsyncGeneratorType:
            return coro.ag_frame, coro.ag_await
        if kind.__name__ not in _WRAPPERS:
            break
        inside = [each for each in get_referents(coro) if _is_looked_into(type(each))]
        if not inside:
            break
        coro = inside[0]
    frame = _shown(coro, "cr_frame") or _shown(coro, "gi_frame")
    if isinstance(frame, FrameType):  # something coroutine-like, as Cython makes them
        return frame, _shown(coro, "cr_await") or _shown(coro, "gi_yieldfrom")
    return None, None


def _is_looked_into(kind: type) -> bool:
    return kind in _LOOKED_INTO or kind.__name__ in _WRAPPERS


def _shown(coro: Any, name: str) -> Any:
    """The attribute of a type in C. A property written in Python would run the program's code, and is not asked."""
    for kind in type(coro).__mro__:
        found = kind.__dict__.get(name)
        if found is not None:
            return found.__get__(coro) if type(found) in _OF_C_TYPES else None
    return None
