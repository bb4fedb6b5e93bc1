"""Whose code a frame is, and which frame of a stack is to be named for it."""

from __future__ import annotations

import os
from collections.abc import Sequence

# A frame as it is recorded: file, line, module, qualname.
Frame = tuple[str, int, str, str]

_OUR_FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_STDLIB_FOLDER = os.path.join(os.path.dirname(os.path.abspath(os.__file__)), "")


def is_application(file: str, module: str) -> bool:
    """Whether code of this file is the application's own: not of site-packages, the standard library or ours."""
    if file.startswith("<"):
        return module == "__main__"  # python -c, a notebook
    if "/site-packages/" in file or "/dist-packages/" in file:
        return False
    return bool(file) and not file.startswith((_STDLIB_FOLDER, _OUR_FOLDER))


def is_library(file: str) -> bool:
    """Whether the file is a third party's: of site-packages, and not ours."""
    return ("/site-packages/" in file or "/dist-packages/" in file) and not file.startswith(_OUR_FOLDER)


def culprit_of(frames: Sequence[Frame], awaiting: Sequence[Frame]) -> str:
    """``module.qualname`` of the innermost frame of the application's own code.

    Where the stack has none: that of the coroutines that await it, then the innermost frame of a library, then "".
    """
    for file, _, module, qualname in reversed(frames):
        if is_application(file, module):
            return f"{module}.{qualname}"
    for file, _, module, qualname in awaiting:
        if is_application(file, module):
            return f"{module}.{qualname}"
    for file, _, module, qualname in reversed(frames):
        if is_library(file):
            return f"{module}.{qualname}"
    return ""
