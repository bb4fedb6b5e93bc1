"""The end of this process's recording: writes the records that wait, and the marker after which none follows.

Everything used here is imported with this module, since an import while the interpreter ends can fail. The functions
may be called at any moment: at exit, in a signal handler, before `os._exit` and before an exec.
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
from ..core.choose import load_native
from ..record import files, layout
from ..record.proc import own_pid, signal_masks
from . import failures, own_threads, process
from .heaps.sampler import sampler_of
from .outbox import outbox_of
from .process import Process
from .recorder import Recorder
from .watchdog import process_watchdog

# Whichever core runs the loops.
_native, _ = load_native()
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
    """Whether a signal interrupted the recording's own code. ``frame``: what the signal's handler was given."""
    while frame is not None:
        name = dict.get(frame.f_globals, "__name__")
        if isinstance(name, str) and name.startswith(_RECORDING):
            return True
        frame = frame.f_back
    return False


is_handlers = failures.is_handlers
start_without_signals = own_threads.start_without_signals
start_new_thread = own_threads.start_new_thread
sleep = own_threads.sleep


def signal_action(number: int) -> int:
    """What a signal does: 0 for its default action, else a number that is another for each handler, where the extension
    tells them apart. Python knows only the handlers that were set by ``signal.signal``, and not those of C code.
    """
    if _native is not None:
        return int(_native.signal_action(number))
    masks = signal_masks()
    return (masks.get("SigCgt", 0) | masks.get("SigIgn", 0)) >> (number - 1) & 1


def flush() -> None:
    """Writes the waiting records of the loop that runs in this thread; the recording goes on."""
    loop = events._get_running_loop()
    recorder: Any = getattr(loop, "_recorder", None)
    # In the child of a fork the running loop is the parent's, and so is its ring.
    if recorder is None or recorder.process.pid != own_pid():
        return
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code in _WRITING:
            return  # a signal interrupted the write itself
    # The signal may also have come between the three appends of one record.
    recorder.record.drop_partial()
    recorder.flush(loop, time.monotonic())


def has_no_room() -> bool:
    """Whether the process had to record into private memory, and has said so."""
    current = _current()
    return current is not None and current.notice is not None


def close() -> None:
    """Ends the recording: writes what is left, then the end marker. Does nothing where nothing was recorded."""
    current = _current()
    if current is None:
        return
    # The process may now wait for the collector. That wait is ours: the watchdog must not report it as a stall.
    process_watchdog.end()
    flush()
    try:
        # Some offloads ended after the last loop had flushed for the last time.
        outbox_of(current).drain(time.monotonic())
        for each in sampler_of(current).at_samples:
            each(math.inf)
    except Exception as error:
        failures.pass_on(error)
        # Else nothing: the end of a process is no place for a failing recorder.
    current.end()


def leave() -> None:
    """Ends the recording of a run in a process that goes on, as `close` does. Later loops record into another run.

    Loops that run in other threads are not stopped; their unwritten records (of the last 20 ms) are lost.
    """
    current = _current()
    close()
    if current is not None:
        sampler_of(current).end()
    process.leave()


def alone() -> None:
    """Ends our thread before a system call that requires a single-threaded process. The next flush starts it again."""
    process_watchdog.pause()


def change_user() -> None:
    """Prepares the recording for a change of user, after which the run directory may be out of reach."""
    if os.geteuid() != 0:
        return  # without root's rights, a change of user takes away nothing that we need
    flush()
    process.prepare_change_of_user()
    process_watchdog.withdraw()


def hand_over() -> None:
    """Called before an exec: writes the waiting records, and how many records there are by then (``files.EXEC``).

    The process may go on as a program that does not record. Its end is then not taken for a crash of this one. If more
    records follow, readers know that the exec failed.
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
