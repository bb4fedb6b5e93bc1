"""Writes a file that has its name only once it is complete, so that a failure leaves what was there before."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[BinaryIO]:
    """Yields the file to write; it takes the name ``path`` when the block ends without an exception. Raises OSError.

    An existing pipe or device is written in place, since it must not be replaced. So is a file in a folder in which we
    may make no other. For a symbolic link, its target is written.
    """
    target = os.path.realpath(path) if os.path.islink(path) else path
    takes_files = os.access(os.path.dirname(target) or ".", os.W_OK)
    if os.path.exists(path) and not (os.path.isfile(path) and takes_files):
        with open(path, "wb") as out:
            yield out
        return
    unfinished = f"{target}.{os.getpid()}.part"
    try:
        with open(unfinished, "wb", buffering=1 << 20) as out:
            yield out
        _put(unfinished, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise


def _put(unfinished: str, target: str) -> None:
    """Gives the file its name. A file that is itself a container's mount cannot be replaced: it is overwritten."""
    try:
        os.replace(unfinished, target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        shutil.copyfile(unfinished, target)
        os.unlink(unfinished)
