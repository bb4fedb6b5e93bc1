"""Where the threads of this interpreter stand, as ``sys._current_frames()`` says of all interpreters' threads.

From CPython 3.12 on an interpreter may have a GIL of its own, as those of ``InterpreterPoolExecutor`` have. It runs
while ``sys._current_frames()`` looks at its frames, and frees some of them: the process crashes. The C core looks at
our interpreter's threads alone (core/native/frames.c). Without it we do not look while there is another interpreter.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType

from ..core.choose import core

#: What makes interpreters in Python code; from 3.13 on, and before.
_MAKERS = ("_interpreters", "_xxsubinterpreters")


def current_frames() -> dict[int, FrameType]:
    """Each thread's innermost frame, by ``threading.get_ident()``; empty where it is not safe to look."""
    return _look()()


@functools.cache
def _look() -> Callable[[], dict[int, FrameType]]:
    native = core().native
    if native is None:
        return _unless_there_are_others
    in_c: Callable[[], dict[int, FrameType]] = native.current_frames
    return in_c


def _unless_there_are_others() -> dict[int, FrameType]:
    for name in _MAKERS:
        list_all = getattr(sys.modules.get(name), "list_all", None)
        if list_all is not None and len(list_all()) > 1:
            return {}
    return sys._current_frames()
