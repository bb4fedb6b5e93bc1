"""Calls a function when another package's module has been imported, without importing it.

Where the module is not loaded yet, a finder in ``sys.meta_path`` waits for it. The finder finds no module itself: it
returns the others' spec. It leaves ``sys.meta_path`` when it has nothing more to wait for.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from .import_end import find_and_call_after

Patch = Callable[[Any], None]


def when_imported(name: str, patch: Patch) -> None:
    """Calls ``patch`` with the module ``name``, now or once it has been imported.

    ``patch`` must not raise. It may be called twice with one module, and must have no effect the second time.
    """
    module = sys.modules.get(name)
    if module is not None:
        patch(module)
        return
    if sys.meta_path is None:
        return  # the interpreter goes down, and nothing is imported any more
    finder = next((each for each in sys.meta_path if isinstance(each, _Finder)), None)
    if finder is None:
        finder = _Finder()
        sys.meta_path.insert(0, finder)
    finder.waiting[name] = patch


class _Finder:
    """Waits for some modules. Any thread."""

    def __init__(self) -> None:
        self.waiting: dict[str, Patch] = {}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        """Part of the import protocol: the other finders' spec. Once the module is imported by it, it is patched."""
        if name not in self.waiting:
            return None
        return find_and_call_after(self, name, path, target, functools.partial(self._imported, name))

    def _imported(self, name: str, module: ModuleType) -> None:
        patch = self.waiting.pop(name, None)
        if not self.waiting and self in sys.meta_path:
            sys.meta_path.remove(self)
        if patch is not None:
            patch(module)
