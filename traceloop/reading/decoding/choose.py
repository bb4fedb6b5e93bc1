"""Which code decodes and counts: the extension in C (``native/``), where it was built, or plain Python.

The variable that chooses the event loop's core chooses here too; what it says that makes no sense is reported there.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import sysconfig
from typing import Any

#: ``python`` keeps to plain Python.
VARIABLE = "OTEL_PYTHON_TRACELOOP_CORE"


@functools.cache
def native() -> Any:
    """The extension module; None for plain Python. Chosen once a process."""
    if os.environ.get(VARIABLE, "").strip().lower() == "python":
        return None
    return load_native()


def load_native() -> Any:
    """The extension module; None where it was not built or cannot be used."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)() or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return None
    if sys.byteorder != "little":
        return None  # the record's numbers are taken as they lie in memory
    try:
        return importlib.import_module("._reader", __package__)
    except Exception:  # of whatever kind: it belongs to other sources, or to another interpreter
        return None
