"""The function that a call handed to an executor is about, inside what frameworks wrap around it."""

from __future__ import annotations

import functools
from contextvars import Context
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from ...core.site_of import inner_function


def offloaded_function(function: Any, args: tuple[Any, ...]) -> Any:
    """The function that a call of ``function(*args)`` is about: what a partial, ``Context.run``, a framework calls."""
    keywords: dict[str, Any] = {}
    for _ in range(8):  # bounded, since a callable may answer with itself
        if type(function) is functools.partial or isinstance(function, functools.partial):
            args = function.args + args
            keywords = function.keywords
            function = function.func
        elif (
            type(function) is BuiltinFunctionType
            and type(function.__self__) is Context
            and function.__name__ == "run"
            and args
        ):
            function, args = args[0], args[1:]
        elif type(function) is FunctionType and "function" in keywords and function.__module__.startswith("fastapi."):
            function, keywords = keywords["function"], {}  # a synchronous endpoint
        elif type(function) is MethodType and type(function.__self__).__module__ == "asgiref.sync":
            function = getattr(function.__self__, "func", function.__func__)  # sync_to_async
        elif (inner := inner_function(function)) is not function:
            function = inner
        else:
            break
    return function
