"""From a callback to its ident: the number that names a run in a record (layout.py).

The iteration finds most idents itself, with one look-up (recorded_iteration.py). The other callbacks come here.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

from .interface import Sites
from .site_of import code_of, cython_code, site_of, unwrap
from .task_types import C_METHOD_TYPE, STEP_TYPE

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_PYTHON_STEPS = frozenset(("_Task__step", "__step", "_Task__wakeup", "__wakeup"))

# To the iteration's look-up a site of 0 means "not found". A callback without a name runs under this one.
UNNAMED = 1e-9


class Identifier:
    """Names the callbacks of one loop, in its thread.

    ``define_task(task)`` gives a task a number that no record has announced yet, and returns its ident.
    """

    def __init__(self, sites: Sites, define_task: Callable[[Any], float]) -> None:
        self._sites = sites
        self._by_code = sites.by_code
        self._define_task = define_task
        #: Idents of C methods by the type of their owner and their name.
        self.builtin_sites: dict[type, dict[str, float]] = {}

    def identify(self, callback: Any) -> float:
        """The ident of a callback that the loop did not find at once; never 0."""
        try:
            return self._identify(callback) or UNNAMED
        except Exception:
            return UNNAMED

    def _identify(self, callback: Any) -> float:
        kind = type(callback)
        if kind is STEP_TYPE:
            return self._ident_of_task(callback.__self__)
        if kind is BuiltinMethodType or kind is C_METHOD_TYPE:
            return self._identify_builtin(callback, callback.__self__)
        if kind is partial:
            function = callback.func
            number = self._by_code.get(id(function.__code__)) if type(function) is FunctionType else None
            if number is not None:
                return number
        elif kind is MethodType:
            function = callback.__func__
            if type(function) is FunctionType:
                number = self._by_code.get(id(function.__code__))
                if number is not None and function.__name__ not in _PYTHON_STEPS:
                    return number
                task = callback.__self__
                if function.__name__ in _PYTHON_STEPS and asyncio.isfuture(task):
                    return self._ident_of_task(task)
        function = unwrap(callback)
        code = code_of(function) or cython_code(function)
        if code is None:
            return self._sites.number(site_of(function))
        number = self._by_code.get(id(code))
        if number is None:
            number = self._sites.number(site_of(function))
            self._sites.remember(code, number)
        return number

    def _ident_of_task(self, task: Any) -> float:
        return getattr(task, "_loop_ident", 0.0) or self._define_task(task)

    def _identify_builtin(self, callback: Any, owner: Any) -> float:
        name = callback.__name__
        names = self.builtin_sites.get(type(owner))
        if names is not None and name in names:
            return names[name]
        if name == "task_wakeup":
            return self._ident_of_task(owner)
        number = self._sites.number(site_of(callback)) or UNNAMED
        kind = type(owner)
        # Only types that live as long as the interpreter: a program's own types must not be kept alive from here. Not
        # modules: the same name in two modules means two functions.
        lasting = not kind.__flags__ & _HEAP_TYPE or kind.__module__ in sys.stdlib_module_names
        if kind is not ModuleType and (lasting or kind.__module__.startswith("traceloop.")):
            self.builtin_sites.setdefault(kind, {})[name] = number
        return number
