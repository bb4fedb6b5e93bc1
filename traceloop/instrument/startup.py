"""The startup hook: puts the traced loop under a program that asks asyncio (or uvloop) for a loop.

`start()` is called by a line in `traceloop.pth` while the interpreter starts, in processes of a run only. It does
next to nothing: it puts a finder at the head of `sys.meta_path` that waits for `asyncio`. What follows from where it
runs:

- The program has not begun, and `sys.path[0]` is not there yet. The search path of this moment is kept for our own
  imports: a program may have a `random.py` or a `json.py` beside it.
- Site prints a traceback for whatever goes wrong here, so nothing may: a fault is one line, and the program goes on.
- It also runs in subinterpreters, in pip, in every helper process that the program starts. Where asyncio is not
  imported, nothing of the interpreter is changed but that finder.
- A module's loader and spec must be the genuine ones, since programs look at them, and where an import fails no frame
  of ours may stand in the traceback. So the finder returns the spec that the others found, and gives it, until the
  import is over, a class that notices the end.
- What the exit needs is imported before the program begins, because an import during exit can fail or change the exit
  status; and then forgotten by `sys.modules`, because the program may have a module of that name.
"""

import os
import sys

# No `from __future__ import annotations` here: it would bring in `__future__` before this line.
_loaded_before_us = frozenset(sys.modules)

from _frozen_importlib import BuiltinImporter, FrozenImporter  # noqa: E402
from _frozen_importlib_external import PathFinder  # noqa: E402
from _thread import get_ident  # noqa: E402

from ..settings import NO_DIRECTORY, PREFIX, ROOT_PID, RUN_DIR, Settings, choose  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

#: Packages whose import is waited for beside asyncio's: they offer a loop of their own in its place.
LOOP_LIBRARIES = ("uvloop", "rloop", "zuvloop")
#: What workers of a process pool run.
PROCESS_POOLS = "concurrent.futures.process"
_WAITED_FOR = frozenset(("asyncio", PROCESS_POOLS, *LOOP_LIBRARIES))

#: Whether the interpreter's start called `start`; the command asks other interpreters.
hook_ran = False


def start() -> None:
    """Waits for asyncio to be imported; called once, by the interpreter's start, in a process of a run."""
    global hook_ran
    if hook_ran:
        return
    hook_ran = True
    try:
        if _is_main_interpreter():
            _wait_for_asyncio()
    finally:
        for name in sys.modules.keys() - _loaded_before_us:
            if not name.startswith("traceloop"):
                del sys.modules[name]


def _wait_for_asyncio() -> None:
    from .. import notices

    try:
        from . import process_end as ending

        directory = os.environ.get(RUN_DIR, "")
        if directory != NO_DIRECTORY and not os.path.isdir(directory):
            return  # the run is over, or this is another mount namespace: nobody would read
        settings = Settings.from_environ(os.environ, on_error=notices.say)
        is_root = os.environ.get(ROOT_PID) == str(os.getpid())
        if not settings.children:
            if not is_root:
                return
            for name in [name for name in os.environ if name.startswith(PREFIX)]:
                del os.environ[name]
        choose(settings)
        ending.prepare(settings, is_root)
        finder = Finder(settings, _without_pythonpath(sys.path))
        sys.meta_path.insert(0, finder)
        for name in ("asyncio", *LOOP_LIBRARIES):
            if name in sys.modules:  # another startup hook came first
                finder.imported(sys.modules[name])
    except Exception as error:
        notices.say(f"not tracing this process: {error!r}")


def _is_main_interpreter() -> bool:
    try:
        from _thread import _is_main_interpreter  # type: ignore[attr-defined]
    except ImportError:  # 3.11
        try:
            import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]
        except ImportError:
            return True
        return bool(interpreters.get_current() == interpreters.get_main())
    return bool(_is_main_interpreter())


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


class Finder:
    """Finds nothing of its own: it hangs `imported` behind the import of the packages that offer a loop."""

    def __init__(self, settings: Settings, search_path: list[str]) -> None:
        self.settings = settings
        self.search_path = search_path
        self._importing_ours = 0  # the thread that is in `OwnImports`

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Part of the import protocol; called by any thread for every module not imported yet."""
        spec: ModuleSpec | None
        if path is None and self._importing_ours and self._importing_ours == get_ident():
            for finder in (BuiltinImporter, FrozenImporter):
                spec = finder.find_spec(name)
                if spec is not None:
                    return spec
            # The second look is for what a later startup file added.
            spec = PathFinder.find_spec(name, self.search_path) or PathFinder.find_spec(name)
            return spec
        if name not in _WAITED_FOR:
            return None
        for other in sys.meta_path:
            find = getattr(other, "find_spec", None)
            if other is self or find is None:
                continue
            spec = find(name, path, target)
            if spec is not None:
                self._hang_behind(spec, name)
                return spec
        return None

    def _hang_behind(self, spec: "ModuleSpec", name: str) -> None:
        finder = self
        plain = type(spec)

        class Watched(plain):  # type: ignore[misc, valid-type]
            # importlib sets this to True before it executes a module and to False afterwards, however that went.
            @property
            def _initializing(self) -> bool:
                return bool(self.__dict__.get("_initializing", False))

            @_initializing.setter
            def _initializing(self, value: bool) -> None:
                self.__dict__["_initializing"] = value
                if not value:
                    self.__class__ = plain  # type: ignore[assignment]
                    module = sys.modules.get(name)
                    if getattr(module, "__spec__", None) is self:  # else its import failed
                        finder.imported(module)

        spec.__class__ = Watched

    def imported(self, module: "Any") -> None:
        """One of the packages is there: put the traced loop into it."""
        try:
            with OwnImports(self):
                if module.__name__ == PROCESS_POOLS:
                    from ..recording.offloads import process_pools

                    if process_pools.is_worker_starting():
                        process_pools.patch_worker(module)
                    return
                from . import process_end as ending
                from . import rebinding

                if module.__name__ == "asyncio":
                    rebinding.rebind_asyncio(module, self.settings)
                    ending.arm(rebinding.running_loop_watchers, rebinding.untraced, rebinding.restore)
                    if self.settings.collector == "thread":
                        rebinding.running_loop_watchers.append(self._loop_runs)
                elif not self.settings.keep_uvloop:
                    rebinding.rebind_library(module)
        except Exception as error:
            from .. import notices

            notices.say(f"not tracing this process: {error!r}")

    def _loop_runs(self, loop: "Any") -> None:
        if getattr(loop, "_recorder", None) is not None:
            with OwnImports(self):
                from . import inprocess_collector as thread_collector
                from . import process_end as ending

                thread_collector.start(self.settings)
                ending.finish_thread = thread_collector.finish


class OwnImports:
    """While it lasts, this thread's imports are resolved as if the program had no folder of its own.

    Afterwards every module that it brought in and of which the program has one by the same name is taken out of
    `sys.modules` again: the program's own `import random` must find the program's `random.py`.
    """

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._hidden: dict[str, ModuleType] = {}
        self._before: set[str] = set()

    def __enter__(self) -> None:
        finder = self._finder
        finder._importing_ours = get_ident()
        if finder not in sys.meta_path:  # emptied by the program
            sys.meta_path.insert(0, finder)
        self._hidden = self._shadowing()
        for name in self._hidden:
            del sys.modules[name]
        self._before = set(sys.modules)

    def __exit__(self, *exception: object) -> None:
        self._finder._importing_ours = 0
        brought_in = {name.partition(".")[0] for name in sys.modules.keys() - self._before}
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
            if entry in self._finder.search_path:
                break
            out.append(entry)
        return out

    def _shadowing(self) -> "dict[str, ModuleType]":
        """The program's modules that bear a name of the standard library, with their submodules."""
        out: dict[str, ModuleType] = {}
        first = {_absolute(entry) for entry in self._program_path()}
        first.difference_update(map(_absolute, self._finder.search_path))
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
