"""Where the threads of this interpreter stand. ``sys._current_frames()`` looks at the threads of all interpreters.

From CPython 3.12 on an interpreter may have a GIL of its own, as those of ``InterpreterPoolExecutor`` have. It runs
while ``sys._current_frames()`` looks at its frames, and frees some of them: the process crashes. The C core looks at
our interpreter's threads alone (core/native/frames.c). Without it we do not look while there is another interpreter.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import cast

from ..core.choose import core

#: What makes interpreters in Python code; from 3.13 on, and before.
_MAKERS = ("_interpreters", "_xxsubinterpreters")


def current_frames() -> dict[int, FrameType]:
    """Each thread's innermost frame, by ``threading.get_ident()``; empty where it is not safe to look."""
    native = core().native
    if native is not None:
        # Not kept in a variable: this frame is among them, and would keep itself and all others alive.
        return cast("dict[int, FrameType]", native.current_frames())
    return {} if _are_there_others() else sys._current_frames()


def _are_there_others() -> bool:
    for name in _MAKERS:
        list_all = getattr(sys.modules.get(name), "list_all", None)
        if list_all is not None and len(list_all()) > 1:
            return True
    return False
