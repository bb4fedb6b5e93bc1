"""What a process left that was killed or crashed, as plain values: filled in from its rings, read by crashes.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class LoopLastWords(NamedTuple):
    """One of its loops, by the always-current words of its ring.

    ring: number. label: of its statistics, "" where nothing of it was read. running: since when it had been off its
    poll (monotonic s); 0 where it polled. thread: as pthreads and faulthandler number it. clock_offset_ns: wall clock
    minus monotonic clock.
    """

    ring: int
    label: str
    running: float
    thread: int
    clock_offset_ns: int


class LastWords(NamedTuple):
    """folder: of the process, with what faulthandler wrote. module_of: the module of a source file, "" if unknown."""

    pid: int
    folder: str
    loops: list[LoopLastWords]
    module_of: Callable[[str], str]
