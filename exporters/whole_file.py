"""Writes a file that has its name only once it is complete, so that a failure leaves what was there before."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[BinaryIO]:
    """The file to write. What is there and is no regular file, a pipe or a device, is written in place: it must not be
    replaced. Of a link the target is written. Raises OSError.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as out:
            yield out
        return
    target = os.path.realpath(path) if os.path.islink(path) else path
    unfinished = f"{target}.{os.getpid()}.part"
    try:
        with open(unfinished, "wb", buffering=1 << 20) as out:
            yield out
        os.replace(unfinished, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
