"""Names of code: from a callback to the code that it will run.

Only code is looked at (module, qualified name, file, line), never a repr, an argument or a value.
"""

from __future__ import annotations

import functools
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

from ..record.sites import Site, module_name


def unwrap(callback: Any) -> Any:
    """The function inside partials, bound methods and ``functools.wraps``-less wrappers of the standard library."""
    for _ in range(8):  # a partial of a partial; bounded, since a callable may answer with itself
        if isinstance(callback, functools.partial | functools.partialmethod):
            callback = callback.func
        elif type(callback) is MethodType:
            callback = callback.__func__
        else:
            break
    return callback


def code_of(callback: Any) -> CodeType | None:
    """The code object that runs when ``callback`` is called, None for C code."""
    callback = unwrap(callback)
    if type(callback) is FunctionType:
        return callback.__code__
    if isinstance(callback, BuiltinFunctionType | type):
        return None
    call = getattr(type(callback), "__call__", None)  # noqa: B004 - the function itself is wanted
    return call.__code__ if type(call) is FunctionType else None


def cython_code(function: Any) -> CodeType | None:
    """The code object of a function that Cython has compiled, None for others. It has no bytecode. But a function keeps
    its code object, so its site can be found by that.
    """
    if _name_of(type(function)) != "cython_function_or_method":
        return None
    code = function.__code__
    return code if type(code) is CodeType else None


def site_of_code(code: CodeType, module: object) -> Site:
    """The site of a code object, found in the module of this name."""
    return Site(module_name(module), code.co_qualname, code.co_filename, code.co_firstlineno)


def _name_of(kind: type) -> str:
    """A class's name, asked of ``type``: its metaclass may answer with anything, or raise."""
    return str(type.__getattribute__(kind, "__name__"))


def site_of(callback: Any) -> Site:
    """The site of any callable. Never raises for objects that lie about themselves."""
    try:
        callback = unwrap(callback)
        code = code_of(callback)
        module = getattr(callback, "__module__", None)
        if code is not None:
            if type(callback) is not FunctionType:
                call = type(callback).__call__
                return site_of_code(code, getattr(call, "__module__", None) or type(callback).__module__)
            return site_of_code(code, module)
        owner = getattr(callback, "__self__", None)
        if not isinstance(module, str):
            module = type(owner).__module__ if owner is not None else type(callback).__module__
        name = getattr(callback, "__qualname__", None)
        if not isinstance(name, str):
            name = type(callback).__qualname__
        return Site(module_name(module), name, "", 0)
    except Exception:
        return Site("", f"<{_name_of(type(callback))}>", "", 0)


# opentelemetry-instrumentation-asyncio puts these around what it is given: what they wrap is what people look for.
_WRAPPERS_HOME = "opentelemetry.instrumentation.asyncio"
_WRAPPER_COROUTINE = "AsyncioInstrumentor.trace_coroutine"
_WRAPPER_FUNCTION = "AsyncioInstrumentor.wrap_to_thread_func.<locals>.wrapper"


def inner_coroutine(coro: Any) -> Any:
    """The coroutine inside one of the instrumentation's, as long as it has not begun; any other as it is."""
    code = getattr(coro, "cr_code", None)
    if code is None or code.co_qualname != _WRAPPER_COROUTINE:
        return coro
    frame = coro.cr_frame
    if frame is None or frame.f_globals.get("__name__") != _WRAPPERS_HOME:
        return coro
    return frame.f_locals.get("coro", coro)


def inner_function(function: Any) -> Any:
    """The function inside one of the instrumentation's for ``asyncio.to_thread``; any other as it is."""
    if type(function) is FunctionType and function.__code__.co_qualname == _WRAPPER_FUNCTION:
        return getattr(function, "__wrapped__", function)
    return function


def site_of_coroutine(coro: Any) -> Site:
    """The site of a task's coroutine: a coroutine, a generator, or an object that awaits."""
    try:
        code = getattr(coro, "cr_code", None) or getattr(coro, "gi_code", None) or getattr(coro, "ag_code", None)
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None)
        if isinstance(code, CodeType):
            module = frame.f_globals.get("__name__") if frame is not None else None
            return site_of_code(code, module)
        qualname = getattr(coro, "__qualname__", None)
        if isinstance(qualname, str):  # compiled coroutines (Cython)
            return Site(module_name(type(coro).__module__), qualname, "", 0)
        return Site(module_name(type(coro).__module__), type(coro).__qualname__, "", 0)
    except Exception:
        return Site("", f"<{_name_of(type(coro))}>", "", 0)
