"""Calls a function when the import of a module ends.

Programs look at a module's spec and loader, which must be the genuine ones, and an import that fails has a traceback,
in which no frame of ours may stand. So neither is replaced: the spec gets, until the import is over, a class that
notices the end.
"""

# No `from __future__ import annotations` here: the startup hook imports this before the program brings in `__future__`.
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


def find_and_call_after(
    finder: object,
    name: str,
    path: "Sequence[str] | None",
    target: "ModuleType | None",
    call: "Callable[[Any], None]",
) -> "ModuleSpec | None":
    """For a `find_spec` of `finder`: the spec that another finder of `sys.meta_path` has, or None where none has one.

    `call` is called with the module when it has been imported by that spec, as `call_after_import` does.
    """
    for other in list(sys.meta_path):
        find = getattr(other, "find_spec", None)
        if other is finder or find is None:
            continue
        spec: ModuleSpec | None = find(name, path, target)
        if spec is not None:
            call_after_import(spec, call)
            return spec
    return None


def call_after_import(spec: "ModuleSpec", call: "Callable[[Any], None]") -> None:
    """Calls `call` with the module when it has been imported by `spec`, which a finder has just made.

    Called once, in the thread that imports; other threads get the module afterwards. It is not called where the import
    fails, nor where something else than the import system executes the module (`importlib.util.LazyLoader`).
    """
    plain = type(spec)

    class Watched(plain):  # type: ignore[misc, valid-type]
        # importlib sets this to True before it executes a module and to False afterwards, however that went.
        @property
        def _initializing(self) -> bool:
            return bool(self.__dict__.get("_initializing", False))

        @_initializing.setter
        def _initializing(self, value: bool) -> None:
            if value:
                self.__dict__["_initializing"] = True
                return
            self.__class__ = plain  # type: ignore[assignment]
            try:
                module = sys.modules.get(self.name)
                if module is not None:  # else its import failed
                    call(module)
            finally:
                self._initializing = False  # now of the class that it had: another watch, where there are two

    for name in ("__module__", "__name__", "__qualname__"):
        setattr(Watched, name, getattr(plain, name))
    try:
        spec.__class__ = Watched
    except TypeError:  # an object of another kind, which a finder of the program's made: the end is not noticed
        pass
