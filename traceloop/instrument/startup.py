"""The startup hook: puts the traced loop under a program that asks asyncio (or uvloop) for a loop.

`start()` is called by a line in `traceloop.pth` while the interpreter starts, in processes of a run only. It does
next to nothing: it puts a finder at the head of `sys.meta_path` that waits for `asyncio`. What follows from where it
runs:

- The program has not begun, and `sys.path[0]` is not there yet. The search path of this moment is kept for our own
  imports: a program may have a `random.py` or a `json.py` beside it.
- Site prints a traceback for whatever goes wrong here, so nothing may: a fault is one line, and the program goes on.
- It also runs in subinterpreters, in pip, in every helper process that the program starts. Where asyncio is not
  imported, nothing of the interpreter is changed but that finder.
- What the exit needs is imported before the program begins, because an import during exit can fail or change the exit
  status; and then forgotten by `sys.modules`, because the program may have a module of that name.
"""

import os
import sys

# No `from __future__ import annotations` here: it would bring in `__future__` before this line.
_loaded_before_us = frozenset(sys.modules)

from ..recording.import_end import find_and_call_after  # noqa: E402
from ..settings import NO_DIRECTORY, PREFIX, ROOT_PID, RUN_DIR, Settings, choose  # noqa: E402
from .own_imports import OwnImports, OwnPath  # noqa: E402

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
        from . import process_end

        directory = os.environ.get(RUN_DIR, "")
        if directory != NO_DIRECTORY and not os.path.isdir(directory):
            return  # the run is over, or this is another mount namespace: the record would not be read
        settings = Settings.from_environ(os.environ, on_error=notices.say)
        is_root = os.environ.get(ROOT_PID) == str(os.getpid())
        if not settings.children:
            if not is_root:
                return
            for name in [name for name in os.environ if name.startswith(PREFIX)]:
                del os.environ[name]
        choose(settings)
        process_end.prepare(settings, is_root)
        finder = Finder(settings)
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


class Finder:
    """Finds nothing of its own: the others' spec of a package that offers a loop. When it is imported, `imported` is
    called.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.own_path = OwnPath(sys.path)

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Part of the import protocol; called by any thread for every module not imported yet."""
        if path is None and self.own_path.in_use():
            return self.own_path.find(name)
        if name not in _WAITED_FOR:
            return None
        return find_and_call_after(self, name, path, target, self.imported)

    def imported(self, module: "Any") -> None:
        """One of the packages is there: put the traced loop into it."""
        try:
            with OwnImports(self, self.own_path):
                if module.__name__ == PROCESS_POOLS:
                    from ..recording.offloads import process_pools

                    if process_pools.is_worker_starting():
                        process_pools.patch_worker(module)
                    return
                from . import process_end, rebinding

                if module.__name__ == "asyncio":
                    rebinding.rebind_asyncio(module, self.settings)
                    try:
                        process_end.arm(rebinding.running_loop_watchers, rebinding.untraced, rebinding.restore)
                    except BaseException:
                        rebinding.restore()
                        raise
                    if self.settings.collector == "thread":
                        rebinding.running_loop_watchers.append(self._loop_runs)
                elif not self.settings.keep_uvloop:
                    rebinding.rebind_library(module)
        except Exception as error:
            from .. import notices

            notices.say(f"not tracing this process: {error!r}")

    def _loop_runs(self, loop: "Any") -> None:
        if getattr(loop, "_recorder", None) is not None:
            with OwnImports(self, self.own_path):
                from . import inprocess_collector, process_end

                inprocess_collector.start(self.settings)
                process_end.finish_thread = inprocess_collector.finish
