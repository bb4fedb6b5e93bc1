"""Where a command writes its result: a file, or stdout for ``-``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import BinaryIO, Final

#: In place of a file's name.
STDOUT: Final = "-"


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The file to write, which is there when it is whole, or stdout for ``-``. Raises OSError."""
    if path == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    from traceloop.exporters.whole_file import whole_file

    with whole_file(path) as out:
        yield out
