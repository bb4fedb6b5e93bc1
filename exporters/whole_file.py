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
    """The file to write. What is there and is no regular file, a pipe or a device, is written in place: it must not be
    replaced. A file in a folder that takes no other is written in place too. Of a link the target is written.
    Raises OSError.
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
    """Gives the file its name. One that is mounted into a container by itself cannot be replaced: it is overwritten."""
    try:
        os.replace(unfinished, target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        shutil.copyfile(unfinished, target)
        os.unlink(unfinished)
