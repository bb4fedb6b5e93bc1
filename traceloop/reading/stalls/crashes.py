"""What is known of a process that crashed or was killed: how it ended, and where its loops stood.

It comes from three sources that outlive the process:

- the gauge in which a loop publishes when it last left its poll;
- the stacks that the watchdog took of a callback that ran too long;
- the file into which faulthandler writes at a fatal signal (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT).

A callback that SIGKILL ended before the watchdog looked is in none of them: its name is not known.
"""

from __future__ import annotations

import os
import re
import time
from typing import NamedTuple

from ...record import files
from ...record.frames import culprit_of
from ...record.sites import UNKNOWN_LABEL
from ...record.text import printable
from .index import StallIndex
from .last_words import LastWords, LoopLastWords

_MAX_FILE = 1 << 20
_DRIFT = 0.05
# No monotonic clock (s) has reached this: a larger value is damage.
_LATEST = 2.0**32
_FATAL = re.compile(rb"Fatal Python error: ([^\n]{1,200})")


class LastRun(NamedTuple):
    """Where a loop stood when its process ended: in a callback, or in its poll.

    since: wall clock, s; 0 where the loop was idle. callback, culprit, place (``file:line``): "" where not known.
    """

    loop: str
    since: float
    callback: str
    culprit: str
    place: str


class Crash(NamedTuple):
    """How a process ended.

    reason: in faulthandler's words ("Segmentation fault"); "" where no fatal signal was caught.
    """

    pid: int
    reason: str
    loops: list[LastRun]

    def __str__(self) -> str:
        how = f"crashed ({self.reason})" if self.reason else "ended without an exit record (killed, or os._exit)"
        text = f"process {self.pid} {how}"
        running = [loop for loop in self.loops if loop.since]
        for loop in running:
            since = time.strftime("%H:%M:%S", time.localtime(loop.since))
            text += f"; its loop {loop.loop} had not polled since {since}"
            if loop.callback:
                text += f", and ran {loop.callback}"
                if loop.culprit not in ("", loop.callback):
                    text += f", in {loop.culprit}"
                if loop.place:
                    text += f" ({loop.place})"
        if not running and self.loops:
            text += f"; its loop {self.loops[0].loop} was idle"
        return text


def take_files(words: LastWords, index: StallIndex) -> None:
    """Takes in the stacks that a process left in files. Called after its rings were read to the end.

    It wrote them at its crash, or when it was asked for them during a C call that never returned.
    """
    for name, source in ((files.DUMP, "dump"), (files.CRASH, "crash")):
        try:
            with files.open_file(os.path.join(words.folder, name)) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _MAX_FILE))
                text = file.read(_MAX_FILE).decode("utf-8", "replace")
                written = os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            continue
        for loop in words.loops:
            at = (written - loop.clock_offset_ns) / 1e9
            # An older dump tells of a stall that is over (the two clocks may have drifted apart by a little).
            if 0.0 < loop.running < at + _DRIFT:
                index.add_last_words(loop.ring, loop.running, at, loop.thread, text, source, words.module_of)


def crash_of(words: LastWords, index: StallIndex | None) -> Crash:
    """How a process ended. ``index``: its stalls, after ``take_files``; None where they are not looked for."""
    loops = [_interrupted(loop, index) for loop in words.loops if loop.label]
    return Crash(words.pid, _reason(words.folder), loops)


def _interrupted(loop: LoopLastWords, index: StallIndex | None) -> LastRun:
    if not 0.0 < loop.running < _LATEST:
        return LastRun(loop.label, 0.0, "", "", "")
    info = index.in_progress(loop.ring, loop.running) if index is not None else None
    offset = loop.clock_offset_ns / 1e9
    if info is None:
        return LastRun(loop.label, loop.running + offset, "", "", "")
    stack = next((stack for stack in info.stacks if stack.frames and stack.source == "crash"), None)
    stack = stack or next((stack for stack in reversed(info.stacks) if stack.frames), None)
    callback = "" if info.callback == UNKNOWN_LABEL else info.callback
    culprit, place = "" if info.culprit == UNKNOWN_LABEL else info.culprit, ""
    if stack is not None:
        culprit = culprit_of(stack.frames, stack.awaiting) or culprit
        # The application's line is preferred to that of the library that it called.
        named = [frame for frame in stack.frames if f"{frame[2]}.{frame[3]}" == culprit] or stack.frames
        place = f"{named[-1][0]}:{named[-1][1]}"
    return LastRun(loop.label, max(info.start, loop.running) + offset, callback or culprit, culprit, place)


def _reason(folder: str) -> str:
    try:
        found = _FATAL.findall(files.read_file(os.path.join(folder, files.CRASH), _MAX_FILE))
    except OSError:
        return ""
    return printable(found[-1].decode("utf-8", "replace").strip()) if found else ""
