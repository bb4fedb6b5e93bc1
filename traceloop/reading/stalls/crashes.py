"""What is known of a process that ended without a word: how, and where its loops stood.

Three sources, none of which needs the process: the word by which a loop says since when it has been off its poll, the
stacks that the watchdog took of a callback that ran too long, and the file into which faulthandler writes at a fatal
signal (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT). A callback that SIGKILL ended sooner than the watchdog looks is not
known by name: what it did is in none of them.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, NamedTuple

from ...record import files, layout
from ...record.frames import culprit_of
from ...record.text import printable
from . import parts as stall_statistics
from .index import UNKNOWN, StallInfo

if TYPE_CHECKING:
    from ..follower import FolderFollower, RingFollower

_FATAL = re.compile(rb"Fatal Python error: ([^\n]{1,200})")


class Interrupted(NamedTuple):
    """A loop that stood in a callback, or in its poll, when its process ended.

    since: wall clock, s; 0 where the loop was idle. callback, culprit, place (``file:line``): "" where not known.
    """

    loop: str
    since: float
    callback: str
    culprit: str
    place: str


class Crash(NamedTuple):
    """reason: faulthandler's word for it ("Segmentation fault"), "" where no fatal signal was caught."""

    pid: int
    reason: str
    loops: list[Interrupted]

    def __str__(self) -> str:
        text = f"process {self.pid} " + (f"crashed ({self.reason})" if self.reason else "ended without a word")
        running = [loop for loop in self.loops if loop.since]
        for loop in running:
            since = time.strftime("%H:%M:%S", time.localtime(loop.since))
            text += f"; its loop {loop.loop} had been running since {since}"
            if loop.callback:
                text += f": {loop.callback}"
                if loop.culprit not in ("", loop.callback):
                    text += f", in {loop.culprit}"
                if loop.place:
                    text += f" ({loop.place})"
        if not running and self.loops:
            text += f"; its loop {self.loops[0].loop} was idle"
        return text


def crash_of(follower: FolderFollower) -> Crash:
    """What a process left. After its rings were read to the end and its files taken in, before they are closed."""
    loops = [_interrupted(follower, ring) for ring in follower.rings.values() if ring.is_loop and ring.loop is not None]
    return Crash(follower.folder.pid, _reason(follower.folder.path), loops)


def _interrupted(follower: FolderFollower, ring: RingFollower) -> Interrupted:
    assert ring.loop is not None
    label = ring.loop.label
    since = ring.reader.word(layout.W_RUNNING)
    if not since > 0.0:
        return Interrupted(label, 0.0, "", "", "")
    info: StallInfo | None = None
    try:
        info = stall_statistics.stalls_of(follower.statistics).index.in_progress(ring.number, since)
    except LookupError:
        pass
    offset = ring.reader.clock_offset_ns / 1e9
    if info is None:
        return Interrupted(label, since + offset, "", "", "")
    stack = next((stack for stack in info.stacks if stack.frames and stack.source == "crash"), None)
    stack = stack or next((stack for stack in reversed(info.stacks) if stack.frames), None)
    callback = "" if info.callback == UNKNOWN else info.callback
    culprit, place = "" if info.culprit == UNKNOWN else info.culprit, ""
    if stack is not None:
        culprit = culprit_of(stack.frames, stack.awaiting) or culprit
        # The application's line, rather than that of the library that it called.
        named = [frame for frame in stack.frames if f"{frame[2]}.{frame[3]}" == culprit] or stack.frames
        place = f"{named[-1][0]}:{named[-1][1]}"
    return Interrupted(label, max(info.start, since) + offset, callback or culprit, culprit, place)


def _reason(folder: str) -> str:
    try:
        found = _FATAL.findall(files.read_file(os.path.join(folder, files.CRASH), 1 << 20))
    except OSError:
        return ""
    return printable(found[-1].decode("utf-8", "replace").strip()) if found else ""
