"""Whether an extension module was built from the C sources that stand beside it.

Only a checkout has such sources. They change under a module that was built in place (a pull, another branch), and
Python code would then ask the module for what it does not have, or hand it what it does not take.
"""

from __future__ import annotations

import importlib
import os
import zlib
from collections.abc import Iterable
from types import ModuleType


class OutdatedError(Exception):
    """The module was built from other sources than those beside it."""


#: What is said, once a run, where a module belongs to other sources.
OUTDATED = (
    "parts in C were built from other sources than these, and plain Python runs in their place; "
    "`make native` builds them anew"
)
_SOURCES = "native"
_PACKAGE = os.path.dirname(os.path.dirname(__file__))
#: Folders whose headers all modules share, below the package.
SHARED = (os.path.join("record", _SOURCES), os.path.join("reading", "decoding", _SOURCES))


def import_extension(name: str) -> ModuleType:
    """The extension module; OutdatedError where it was built from other sources, ImportError where there is none. Any
    other error: it was written for another interpreter.
    """
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        raise
    except Exception as error:
        from importlib.util import find_spec  # seldom needed

        spec = find_spec(name)
        if spec is not None and spec.origin is not None and is_outdated(spec.origin, ""):
            raise OutdatedError(OUTDATED) from error
        raise
    if is_outdated(module.__file__ or "", getattr(module, "SOURCES", "")):
        raise OutdatedError(OUTDATED)
    return module


def is_outdated(path: str, built_from: str) -> bool:
    """Whether the sources beside an extension module are others than those ``built_from``. 50 us where there are any.

    ``path``: of the module. One that is younger than all its sources was built from them.
    """
    folder = os.path.join(os.path.dirname(path), _SOURCES)
    try:
        sources = sources_of(folder, [os.path.join(_PACKAGE, shared) for shared in SHARED])
        built = os.stat(path).st_mtime_ns
        return any(os.stat(source).st_mtime_ns > built for source in sources) and built_from != fingerprint(sources)
    except OSError:  # there are none: it was installed
        return False


def sources_of(folder: str, shared: Iterable[str]) -> list[str]:
    """What a module is made of: the sources in its folder, and the headers in those that are shared."""
    found = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith((".c", ".h"))]
    for other in shared:
        if not os.path.samefile(other, folder):
            found += [os.path.join(other, name) for name in os.listdir(other) if name.endswith(".h")]
    return sorted(found, key=os.path.basename)


def fingerprint(sources: Iterable[str]) -> str:
    """Another text, as good as surely, for other sources; setup.py gives it to the compiler as ``SOURCES``."""
    crc = 0
    for path in sources:
        with open(path, "rb") as file:
            crc = zlib.crc32(file.read(), zlib.crc32(os.path.basename(path).encode(), crc))
    return f"{crc:08x}"
