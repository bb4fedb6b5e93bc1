"""Exceptions that a signal's handler raises while our code runs: they are the program's, and pass.

Handlers run between two lines, and within system calls. Where a call of ours may fail, what a handler raises looks like
its failure: programs that limit a time by SIGALRM raise TimeoutError, which is an OSError.
"""

from __future__ import annotations


def has_raised(error: BaseException) -> bool:
    """Whether a signal's handler in Python has raised ``error``: one gets the frame that it interrupts."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        interrupted, trace = trace.tb_frame, trace.tb_next
        if trace.tb_frame.f_globals.get("__name__", "").startswith("traceloop."):
            continue
        for value in trace.tb_frame.f_locals.values():
            if value is interrupted or (type(value) is tuple and any(each is interrupted for each in value)):
                return True
    return False
