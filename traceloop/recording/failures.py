"""Failures of the recording: reported once, never raised into the application.

A shortage of memory is not a fault of the recording, and it passes: one line reports it, without a traceback, and the
recording tries again.
"""

from __future__ import annotations

import errno
import logging

from .. import notices
from ..settings import in_run

_logger = logging.getLogger("traceloop")


def is_shortage(error: BaseException) -> bool:
    """Whether ``error`` means that memory, address space or a thread could not be had."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOMEM, errno.EAGAIN)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "new thread" in str(error))


def report(what: str, error: BaseException) -> None:
    """Logs that ``what`` has failed. Called from any thread; never raises, even when memory is exhausted."""
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
