"""The end of this process's recording: what its loops have not written yet, and the word that nothing follows.

Everything used here is imported with this module, since an import while the interpreter ends can fail. The functions
are called from any place: at exit, in a signal handler, before `os._exit` and before an exec.
"""

from __future__ import annotations

import math
import os
import sys
import time
from asyncio import events
from types import FrameType
from typing import Any

from .. import notices
from ..record import files, layout
from . import process
from .heaps.sampler import sampler_of
from .outbox import outbox_of
from .process import Process
from .recorder import Recorder
from .watchdog import process_watchdog

_WRITING = (Recorder.flush.__code__, Recorder.write.__code__)
# Not the core's iterations: those stand below every handle.
_RECORDING = (
    "traceloop.recording.",
    "traceloop.record.",
    "traceloop.core.buffer",
    "traceloop.core.identify",
    "traceloop.core.site_of",
)


def is_interrupted(frame: FrameType | None) -> bool:
    """Whether a signal whose handler was given this frame came in the middle of the recording's own work."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_RECORDING):
            return True
        frame = frame.f_back
    return False


def flush() -> None:
    """Writes what the loop that runs in this thread has not written yet; the recording goes on."""
    loop = events._get_running_loop()
    recorder: Any = getattr(loop, "_recorder", None)
    # In the child of a fork the running loop is the parent's, and so is its ring.
    if recorder is None or recorder.process.pid != os.getpid():
        return
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code in _WRITING:
            return  # a signal came in the middle of it
    # Or between the three appends of a record.
    recorder.record.drop_partial()
    recorder.flush(loop, time.monotonic())


def has_no_room() -> bool:
    """Whether the process had to record into private memory, and has said so."""
    current = _current()
    return current is not None and current.notice is not None


def close() -> None:
    """Ends the recording: writes what is left and says that nothing follows. Nothing, where nothing was recorded."""
    current = _current()
    if current is None:
        return
    # The wait that may follow is ours, and no stall of the program's.
    process_watchdog.end()
    flush()
    try:
        # Offloads that ended after the last loop's last flush.
        outbox_of(current).drain(time.monotonic())
        for each in sampler_of(current).at_samples:
            each(math.inf)
    except Exception:
        pass  # the end of a process is no place for a failing recorder
    current.end()


def leave() -> None:
    """The run is over, the process goes on: as `close`, and what is recorded from now on belongs to another run.

    Loops that run in other threads are not stopped: what they have not written yet (of the last 20 ms) is lost.
    """
    current = _current()
    close()
    if current is not None:
        sampler_of(current).end()
    process.leave()


def alone() -> None:
    """Before a system call that wants a process of one thread: ours is gone until a loop flushes next."""
    process_watchdog.pause()


def change_user() -> None:
    """Before the process may lose its rights to the run directory."""
    if os.geteuid() != 0:
        return  # it has no more rights than any user it may become
    flush()
    process.prepare_change_of_user()
    process_watchdog.withdraw()


def hand_over() -> None:
    """Before an exec: writes what is left, and how many records the loops have written by then (``files.EXEC``).

    The process may go on as a program that does not record: its end is then not this one's crash. Records that follow
    tell readers that the exec has failed.
    """
    flush()
    notices.hand_over_held()
    current = _current()
    if current is None or current.directory is None:
        return
    written = sum(ring.words[layout.W_RECORDS] for ring in current.rings)
    try:
        path = os.path.join(current.directory, files.EXEC)
        file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, f"{written:.0f}\n".encode("ascii"))
        finally:
            os.close(file)
    except OSError:
        pass


def _current() -> Process | None:
    return process.existing_process()
