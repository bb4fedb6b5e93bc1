"""Which code decodes and counts: the extension in C (``native/``), where it was built, or plain Python.

The variable that chooses the event loop's core chooses here too; what it says that makes no sense is reported there.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

from ...record.built import OUTDATED, OutdatedError, import_extension

#: ``python`` keeps to plain Python.
VARIABLE = "OTEL_PYTHON_TRACELOOP_CORE"


_outdated: set[str] = set()


def problem() -> str:
    """What is to be said of the reader's module, and of others that were asked for; "" if nothing."""
    native()
    return OUTDATED if _outdated else ""


@functools.cache
def native() -> Any:
    """The reader's extension module; None for plain Python. Chosen once a process."""
    return extension("traceloop.reading.decoding._reader")


def extension(name: str) -> Any:
    """The extension module of this name; None for plain Python."""
    if os.environ.get(VARIABLE, "").strip().lower() == "python":
        return None
    return load(name)


def reader_name() -> str:
    """Which reader this process has: ``c`` or ``python``."""
    return "python" if native() is None else "c"


def load_native() -> Any:
    """The reader's extension module; None where it was not built or cannot be used."""
    return load("traceloop.reading.decoding._reader")


def load(name: str) -> Any:
    """An extension module; None where it was not built or cannot be used."""
    # abiflags, and not sysconfig, which would read all variables of the build (60 KB of bytecode) at each start.
    if not getattr(sys, "_is_gil_enabled", lambda: True)() or "t" in sys.abiflags:
        return None
    if sys.byteorder != "little":
        return None  # the record's numbers are taken as they lie in memory
    try:
        return import_extension(name)
    except OutdatedError:
        _outdated.add(name)
        return None
    except Exception:  # of whatever kind: it belongs to other sources, or to another interpreter
        return None
