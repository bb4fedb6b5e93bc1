"""A builtin function that tells us of its calls: how the process ends, and what blocks a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Before:
    """Stands for a builtin function, and calls ``tell`` before each call of it, two frames above its caller.

    ``__call__`` is a property, so that the interpreter itself calls the builtin: when that raises, the traceback shows
    no frame of ours.
    """

    def __init__(self, function: Any, tell: Callable[[], None]) -> None:
        self._function = function
        self._tell = tell
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__text_signature__ = getattr(function, "__text_signature__", None)

    def __getattribute__(self, name: str) -> Any:
        # Who asks the object for it (mock, inspect) does not call it yet. The interpreter asks the class.
        return object.__getattribute__(self, name if name != "__call__" else "_function")

    @property
    def __signature__(self) -> Any:
        from inspect import signature

        return signature(self._function)

    def __reduce__(self) -> Any:
        from functools import partial

        return partial, (self._function,)  # another process need not have traceloop

    @property
    def __call__(self) -> Any:
        try:
            self._tell()
        except Exception:
            pass  # the call is the program's, and goes ahead
        return self._function

    def __repr__(self) -> str:
        return repr(self._function)
