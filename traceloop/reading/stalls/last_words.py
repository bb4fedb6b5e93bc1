"""The last state of a process that was killed or crashed, as plain values from its rings; crashes.py reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class LoopLastWords(NamedTuple):
    """One loop of the process, by the always-current words of its ring.

    ring: its number. label: of its statistics; "" where nothing of the loop was read. running: when it last left its
    poll (monotonic s); 0 where it polled. thread: the number that pthreads and faulthandler use. clock_offset_ns: wall
    clock minus monotonic clock.
    """

    ring: int
    label: str
    running: float
    thread: int
    clock_offset_ns: int


class LastWords(NamedTuple):
    """folder: of the process, with faulthandler's files. module_of: the module of a source file, "" if unknown."""

    pid: int
    folder: str
    loops: list[LoopLastWords]
    module_of: Callable[[str], str]
