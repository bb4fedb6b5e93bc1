"""Imports prometheus_client without TLS, email and HTTP clients: 8 MB of the collector's memory.

Its ``exposition`` has, beside the text formats, servers and a client of its own, and imports what they need. The
collector has its own server (``http.py``), so for that one module these imports give stand-ins: modules whose every
attribute is an empty class. Nothing else sees them, neither ``sys.modules`` nor another thread's import. What of
prometheus_client cannot be used after that are its ``start_http_server``, ``MetricsHandler`` and ``push_to_gateway``.

For the collector's process only: an application may use these.
"""

from __future__ import annotations

import builtins
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

_MODULE: Final = "prometheus_client.exposition"
_NOT_NEEDED: Final = frozenset(
    ("http.server", "socketserver", "ssl", "urllib.error", "urllib.request", "wsgiref.simple_server")
)


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _import(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> ModuleType:
    if level == 0 and name in _NOT_NEEDED:
        return _StandIn(name)
    return builtins.__import__(name, globals, locals, fromlist, level)


class _LightLoader(Loader):
    """Runs a module whose ``import`` statements call ``_import``."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
        self._loader.exec_module(module)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LightLoader(spec.loader)
        return spec


def import_light() -> None:
    """Imports it so, unless it is there already. Where that fails, the next import is an ordinary one."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        __import__(_MODULE)
    except Exception:  # another version of it uses more of these modules while it is imported
        for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
            del sys.modules[name]
    finally:
        sys.meta_path.remove(finder)
