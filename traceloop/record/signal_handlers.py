"""Exceptions that a signal's handler raises while our code runs: they are the program's, and pass.

Handlers run between two lines, and within system calls. Where a call of ours may fail, what a handler raises looks like
its failure: programs that limit a time by SIGALRM raise TimeoutError, which is an OSError.
"""

from __future__ import annotations

# No typing, collections or inspect: this is read at the program's start, before anything of its own.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any

_TAKES_ANY_NUMBER = 4  # inspect.CO_VARARGS


def has_raised(error: BaseException) -> bool:
    """Whether a signal's handler in Python has raised ``error``: one gets the frame that it interrupts."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        interrupted, trace = trace.tb_frame, trace.tb_next
        if str(trace.tb_frame.f_globals.get("__name__")).startswith("traceloop."):
            continue
        for value in _arguments(trace.tb_frame):
            if value is interrupted or (type(value) is tuple and any(each is interrupted for each in value)):
                return True
    return False


def _arguments(frame: FrameType) -> Iterator[Any]:
    """The arguments of a function. An audit hook, which is no handler, may have its caller's frame in another name."""
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & _TAKES_ANY_NUMBER)
    return map(frame.f_locals.get, code.co_varnames[:count])
