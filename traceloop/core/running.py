"""What a thread's loop runs at this moment, found from outside: by the watchdog, and within a collection."""

from __future__ import annotations

from types import FrameType
from typing import Any

from .interface import Running


def running(frame: FrameType) -> Running | None:
    """The run under way in ``frame``, one of the core's (``record.frames.is_loop``). For any thread that has the GIL.

    The Python iteration shows it by its locals ``now``, ``ident`` and ``handle``, which costs it nothing. The C one has
    no frame: ``run_native`` called it, and the loop says what runs.
    """
    values = frame.f_locals
    loop = None
    try:
        if frame.f_code.co_name == "run_native":
            loop = values.get("loop")
            run = loop._run_under_way() if loop is not None else None
            return None if run is None else Running(*run)
        start, ident, handle = values.get("now"), values.get("ident", 0.0), values.get("handle")
        if type(start) is not float or not isinstance(ident, float | int) or (handle is None and not ident):
            return None
        return Running(start, float(ident), handle)
    finally:
        # Up to 3.12 the frame keeps this dict, and with it a handle and its arguments.
        if type(values) is dict:
            values.clear()
        del values, loop


def running_on_another_stack(loop: Any) -> Running | None:
    """The run under way in a loop whose thread stands on a stack that the loop's frame is not part of: a greenlet's.
    As for ``running``.
    """
    run = loop._run_under_way() if hasattr(loop, "_run_under_way") else None
    if run is not None:
        return Running(*run)
    frame: FrameType | None = loop._iteration_frame
    return running(frame) if frame is not None else None
