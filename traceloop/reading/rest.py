"""The collector's rest, in C: what it would look at several times a second, and find as it was."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..record import layout
from .decoding.choose import native
from .follower import FolderFollower, RunFollower

# What C takes (native/rest.c).
_MOST_FOLDERS = 33
_MOST_RINGS = 64


def rest(
    follower: RunFollower, descriptors: tuple[int, ...], pace: float, until: float, *, until_new: bool
) -> bool | None:
    """Rests until a descriptor can be read, a ring has to be read, a loop runs, or it is ``until`` (monotonic s).

    It looks every ``pace`` seconds. ``until_new``: a ring has to be read as soon as ``ProcessFollower.is_quiet`` is
    false, and once a second it looks whether a process or a ring has come, or a process has ended; else a ring has to
    be read when ``RingFollower.is_filling`` is true. Returns whether there is something to read; None where it cannot
    rest in C.
    """
    module = native()
    if module is None:
        return None
    with follower.statistics.lock:
        living = [process for name, process in follower.processes.items() if name not in follower.ended]
        rings = _rings(living, until_new=until_new)
        if rings is None or not 0 < len(rings) <= _MOST_RINGS or len(living) >= _MOST_FOLDERS:
            return None
        folders: list[tuple[bytes, int]] = []
        if until_new:
            folders = [(os.fsencode(process.folder.path), process.folder.pid) for process in living]
            folders.append((os.fsencode(follower.directory.path), 0))
    return bool(module.rest(descriptors, tuple(folders), rings, pace, until))


def _rings(living: Iterable[FolderFollower], *, until_new: bool) -> tuple[tuple[int, int, bool, float], ...] | None:
    out: list[tuple[int, int, bool, float]] = []
    for process in living:
        for ring in process.rings.values():
            if ring.reader.descriptor < 0:
                return None
            limit = ring.left_alone(until_new=until_new)
            out.append((ring.reader.descriptor, layout.WORDS_OFFSET, ring.is_loop, limit))
    return tuple(out)
