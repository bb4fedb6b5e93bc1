"""Our imports, apart from the program's: neither finds the other's modules of the same name."""

import os
import sys

# No `from __future__ import annotations` here: it would bring in `__future__` before the program does.
from _frozen_importlib import BuiltinImporter, FrozenImporter
from _frozen_importlib_external import PathFinder
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


class OwnPath:
    """Where our imports are looked for, and which thread imports for us at the moment."""

    def __init__(self, path: list[str]) -> None:
        """`path`: `sys.path` before the program has changed it."""
        self.entries = _without_pythonpath(path)
        self.thread = 0
        #: Top-level names that our imports asked for, since `OwnImports` began.
        self.found: set[str] = set()

    def in_use(self) -> bool:
        """Whether the calling thread imports for us."""
        return self.thread != 0 and self.thread == get_ident()

    def find(self, name: str) -> "ModuleSpec | None":
        """The spec of a top-level module for us."""
        self.found.add(name)
        for finder in (BuiltinImporter, FrozenImporter):
            spec: ModuleSpec | None = finder.find_spec(name)
            if spec is not None:
                return spec
        # The second look is for what a later startup file added.
        return PathFinder.find_spec(name, self.entries) or PathFinder.find_spec(name)


class OwnImports:
    """A context manager. Within it, this thread's imports are resolved as if the program had no folder of its own.

    At its end it removes from `sys.modules` each module that it imported and whose name the program uses too: the
    program's own `import random` must find the program's `random.py`.
    """

    def __init__(self, finder: "Any", own_path: OwnPath) -> None:
        """`finder`: of `sys.meta_path`, which asks `own_path` at each import."""
        self._finder = finder
        self._own_path = own_path
        self._thread_before = 0
        self._hidden: dict[str, ModuleType] = {}
        self._before: set[str] = set()
        self._found_before: set[str] = set()

    def __enter__(self) -> None:
        self._thread_before, self._own_path.thread = self._own_path.thread, get_ident()
        if self._finder not in sys.meta_path:  # emptied by the program
            sys.meta_path.insert(0, self._finder)
        self._hidden = self._shadowing()
        for name in self._hidden:
            del sys.modules[name]
        self._before = set(sys.modules)
        self._found_before, self._own_path.found = self._own_path.found, set()

    def __exit__(self, *exception: object) -> None:
        self._own_path.thread = self._thread_before
        # Not all that is new: other threads import the program's modules meanwhile.
        found, self._own_path.found = self._own_path.found, self._found_before
        brought_in = found - self._before
        for name in self._hidden:
            _forget(name)
        sys.modules.update(self._hidden)
        first = self._program_path()
        for name in brought_in - self._hidden.keys() - {"traceloop"}:
            spec = PathFinder.find_spec(name, first) if first else None
            if spec is not None and spec.loader is not None:
                _forget(name)

    def _program_path(self) -> list[str]:
        """The entries of `sys.path` that stand before the standard library."""
        out: list[str] = []
        for entry in sys.path:
            if entry in self._own_path.entries:
                break
            out.append(entry)
        return out

    def _shadowing(self) -> "dict[str, ModuleType]":
        """The program's modules that bear a name of the standard library, with their submodules."""
        out: dict[str, ModuleType] = {}
        first = {_absolute(entry) for entry in self._program_path()}
        first.difference_update(map(_absolute, self._own_path.entries))
        if not first:
            return out
        for name in sys.stdlib_module_names:
            file = getattr(sys.modules.get(name), "__file__", None)
            if not file:
                continue
            folder, base = os.path.split(_absolute(file))
            if base.startswith("__init__."):
                folder = os.path.dirname(folder)
            if folder in first:
                out.update({key: sys.modules[key] for key in _family(name)})
        return out


def _family(name: str) -> list[str]:
    return [key for key in sys.modules if key == name or key.startswith(name + ".")]


def _forget(name: str) -> None:
    for key in _family(name):
        del sys.modules[key]


def _without_pythonpath(path: list[str]) -> list[str]:
    # PYTHONPATH stands before the standard library and may shadow it just as the program's folder does. A parent that
    # exports its whole `sys.path` names the standard library in it too: that entry and those behind it shadow nothing.
    own = {_absolute(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    library = os.path.dirname(_absolute(os.__file__))
    place = next((at for at, entry in enumerate(path) if _absolute(entry) == library), len(path))
    return [entry for entry in path[:place] if entry and entry not in own] + path[place:]


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError:  # the working directory was removed, so nothing is found there
        return "/dev/null"
