"""Whose code a frame is: the application's, a library's or ours; and which frame of a stack is named for a stall."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from types import CodeType
from typing import Final

# A frame as it is recorded: file, line, module, qualname.
Frame = tuple[str, int, str, str]

#: This package's folder, with a separator behind it.
OUR_FOLDER: Final = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_STDLIB_FOLDER = os.path.join(os.path.dirname(os.path.abspath(os.__file__)), "")
_ANY_STDLIB: Final = re.compile(r"/lib(64)?/python3\.\d+t?/")

# The functions of the loop that call handles, by file. In a stack the application begins below them. Only the last two
# names of a file count, because a record may come from another installation. Some are an earlier version's.
_LOOP_FUNCTIONS: Final = {
    os.path.join("core", "accelerated.py"): ("run_native",),
    os.path.join("core", "recorded_handles.py"): ("run_through_handles", "run_taken"),
    os.path.join("core", "recorded_iteration.py"): ("iterate_recorded", "_run_through_handles", "run_taken"),
    os.path.join("loop", "event_loop.py"): (
        "_iterate_recorded",
        "_run_recorded_debugged",
        "_run_recorded_for_others",
    ),
}
_POOL_FILE: Final = os.path.join("concurrent", "futures", "thread.py")
# Code that writes the record. While the loop itself calls it, no handle runs.
_RECORDING: Final = tuple(
    OUR_FOLDER + os.path.join(*place)
    for place in (
        ("recording", ""),
        ("record", ""),
        ("core", "buffer.py"),
        ("core", "identify.py"),
        ("core", "site_of.py"),
    )
)


def is_loop(file: str, function: str) -> bool:
    """Whether a frame is the loop's own, which calls handles. ``function``: its bare name."""
    return function in _LOOP_FUNCTIONS.get(os.sep.join(file.rsplit(os.sep, 2)[-2:]), ())


def is_recording(file: str) -> bool:
    """Whether the file is of the code that writes the record."""
    return file.startswith(_RECORDING)


def is_pools_call(code: CodeType) -> bool:
    """Whether this is code of a thread pool, below whose frame the call begins that a worker was given.

    With the C core it is the only such frame, because the core has none.
    """
    return code.co_name == "run" and code.co_filename.endswith(_POOL_FILE)


def is_application(file: str, module: str) -> bool:
    """Whether code of this file is the application's own: not of site-packages, the standard library or ours."""
    if file.startswith("<"):
        return module == "__main__"  # python -c, a notebook
    if "/site-packages/" in file or "/dist-packages/" in file:
        return False
    # The record may be of another interpreter.
    return bool(file) and not file.startswith((_STDLIB_FOLDER, OUR_FOLDER)) and not _ANY_STDLIB.search(file)


def is_ours(file: str) -> bool:
    """Whether the file is traceloop's, in this or another installation."""
    return file.startswith(OUR_FOLDER) or "-packages/traceloop/" in file


def is_library(file: str) -> bool:
    """Whether the file is a third party's: of site-packages, and not ours."""
    return ("/site-packages/" in file or "/dist-packages/" in file) and not is_ours(file)


def culprit_frame(frames: Sequence[Frame], awaiting: Sequence[Frame] = ()) -> Frame | None:
    """The innermost frame of the application's own code, of a stack with its outermost frame first.

    Where the stack has none: that of the coroutines that await it, then the innermost frame of a library, then None.
    """
    for frame in (*reversed(frames), *awaiting):
        if is_application(frame[0], frame[2]):
            return frame
    return next((frame for frame in reversed(frames) if is_library(frame[0])), None)


def waits_for_work(frames: Sequence[Frame]) -> bool:
    """Whether a thread with these frames (outermost first) is a worker without work: all its frames are of the standard
    library and ours; or a library's code, such as AnyIO's ``WorkerThread.run``, waits in a queue.
    """
    culprit = culprit_frame(frames)
    if culprit is None:
        return True
    if is_application(culprit[0], culprit[2]):
        return False
    above = frames[len(frames) - list(reversed(frames)).index(culprit) :]
    return any((module, qualname) == ("queue", "Queue.get") for _, _, module, qualname in above)


def culprit_of(frames: Sequence[Frame], awaiting: Sequence[Frame]) -> str:
    """``module.qualname`` of the culprit's frame; "" if there is none."""
    frame = culprit_frame(frames, awaiting)
    return f"{frame[2]}.{frame[3]}" if frame is not None else ""


def stretches(begins: Sequence[float], start: float, end: float) -> list[float]:
    """The seconds that each of ``begins`` (s, in order) stands for, of the time from ``start`` to ``end``: until the
    next one. The first also stands for the time before it.
    """
    moments = [start, *(min(max(each, start), end) for each in begins[1:]), end]
    return [max(0.0, until - begin) for begin, until in pairwise(moments)] if begins else []


def held_by(seen: Sequence[tuple[float, str]], start: float, end: float) -> dict[str, float]:
    """How long (s) each culprit held a run from ``start`` to ``end``, the longest first; equal ones in their order.

    ``seen``: the moments at which the run was seen, with the culprit, in order. Each counts until the next one; the
    first also counts for the time before it.
    """
    out: dict[str, float] = {}
    for (_, name), seconds in zip(seen, stretches([since for since, _ in seen], start, end), strict=True):
        out[name] = out.get(name, 0.0) + seconds
    return dict(sorted(out.items(), key=lambda item: -item[1]))


def called_by(frames: Sequence[Frame], culprit: Frame | None) -> Frame | None:
    """Where the stack stands below its culprit: its innermost frame that is not ours (a method of the loop counts for
    its caller). None if that is the culprit itself.
    """
    inner = _innermost(frames)
    return inner if inner != culprit else None


def _innermost(frames: Sequence[Frame]) -> Frame | None:
    return next((frame for frame in reversed(frames) if not is_ours(frame[0])), None)


def whereabouts(frames: Sequence[Frame], awaiting: Sequence[Frame] = ()) -> str:
    """``FILE:LINE`` of the culprit, and where the stack stands below it: ``FILE:LINE, in NAME at FILE:LINE``. Without a
    culprit, that of the innermost frame; "" if all frames are ours.
    """
    own = culprit_frame(frames, awaiting) if frames else None
    own = own or _innermost(frames)
    if own is None:
        return ""
    called = called_by(frames, own)
    line = f"{own[0]}:{own[1]}"
    return line if called is None else f"{line}, in {_name(called)} at {called[0]}:{called[1]}"


def place(frame: Frame) -> str:
    """``module.qualname (FILE:LINE)``."""
    return f"{_name(frame)} ({frame[0]}:{frame[1]})"


def _name(frame: Frame) -> str:
    return f"{frame[2]}.{frame[3]}" if frame[2] else frame[3]
