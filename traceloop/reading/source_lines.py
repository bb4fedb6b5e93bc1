"""Lines of Python source that the record names, read from this machine's files. They are matched, and never shown."""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from typing import Final

_MAX_SOURCE: Final = 4 << 20


@lru_cache(maxsize=512)
def source_line(file: str, line: int) -> str:
    """A line of a Python source file, "" where it cannot be had. Regular files only: a record may name anything."""
    if not file.endswith((".py", ".pyw")) or line < 1:
        return ""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError):
        return ""
    with open(descriptor, "rb") as source:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_SOURCE:
            return ""
        for number, text in enumerate(source, 1):
            if number == line:
                return text[:1000].decode("utf-8", "replace")
    return ""
