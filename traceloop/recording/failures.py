"""Failures of the recording: reported once, never raised into the application.

A signal may come while the recording is at work. What its handler raises is the program's, and passes.

A shortage of memory is not a fault of the recording, and it passes: one line reports it, without a traceback, and the
recording tries again.
"""

from __future__ import annotations

import errno
import logging

from .. import notices
from ..record import signal_handlers
from ..settings import in_run

_logger = logging.getLogger("traceloop")
_reported: set[str] = set()


def is_shortage(error: BaseException) -> bool:
    """Whether ``error`` means that memory, address space or a thread could not be had."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOMEM, errno.EAGAIN)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "new thread" in str(error))


def is_handlers(error: BaseException) -> bool:
    """Whether a signal's handler has raised ``error``."""
    return not is_shortage(error) and signal_handlers.has_raised(error)


def pass_on(error: BaseException) -> None:
    """Raises ``error`` again if a signal's handler has raised it."""
    if is_handlers(error):
        raise error


def is_own(error: BaseException) -> bool:
    """Whether ``error`` was raised in our code, and not in an object of the program's that does as it likes."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("traceloop.")


def report_once(what: str, error: BaseException) -> None:
    """As ``report``, for what is tried again and again: only the first time in this process."""
    pass_on(error)
    if what not in _reported:
        _reported.add(what)
        report(what, error)


def report(what: str, error: BaseException) -> None:
    """Logs that ``what`` has failed. Called from any thread. Raises nothing but what a signal's handler has raised,
    even when memory is exhausted.
    """
    pass_on(error)
    try:
        if not is_shortage(error):
            _logger.error("traceloop: %s; the application runs on", what, exc_info=error)
        elif in_run():
            # Not through logging: its handlers print tracebacks of their own when they find no memory.
            notices.say_once(None, "no-memory", "memory is short: the record may have gaps; the application runs on")
        else:
            _logger.error("traceloop: %s, since memory is short; the application runs on", what)
    except Exception:
        pass
