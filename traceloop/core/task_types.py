"""How this interpreter's C tasks look from outside: probed once, at import.

Nothing of this is documented, so nothing of it is assumed: one task is made, and what it shows is taken. Where tasks
are written in Python there is nothing to find, and no type here equals any type that the loop meets.
"""

from __future__ import annotations

import asyncio
import sys
from gc import get_referents
from types import BuiltinMethodType, MethodType
from typing import Any


class _NoStep:
    """Stands for the type of a C task's step where tasks are written in Python."""


class _Probe:
    """As much of a loop as a task needs to schedule its first step."""

    step: Any = None

    def get_debug(self) -> bool:
        return False

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> None:
        self.step = callback

    def is_running(self) -> bool:
        return False


async def _nothing() -> None:
    pass


def _look_at_tasks() -> tuple[type, Any, int]:
    """The type of the callable by which a C task schedules its step; the type of C tasks; and where
    ``gc.get_referents`` shows a task's name, which from 3.12 on is an integer until the text is asked for (0: not
    looked for there).
    """
    probe = _Probe()
    coro = _nothing()
    try:
        # Named, since a name made up would be missing from the names of the program's own tasks.
        task = asyncio.Task(coro, loop=probe, name="probe")  # type: ignore[arg-type]
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        coro.close()
        kind = type(probe.step)
        if not hasattr(probe.step, "__self__") or kind is MethodType:
            return _NoStep, None, 0
        referents = get_referents(task) if sys.version_info >= (3, 12) else []
        # Behind its type, its context and its coroutine.
        return kind, asyncio.Task, 3 if referents[3:4] == ["probe"] else 0
    except Exception:
        coro.close()
        return _NoStep, None, 0


STEP_TYPE, PLAIN_TASK, NAME_PLACE = _look_at_tasks()

# The type of C methods that are given their defining class too, as a future's ``set_result`` is from 3.12 on.
C_METHOD_TYPE: type = next((kind for kind in BuiltinMethodType.__subclasses__() if kind is not STEP_TYPE), _NoStep)
