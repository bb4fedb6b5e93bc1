"""Failures of the recording: reported once, never raised into the application.

Where memory is short, that is no fault of ours, and passes: one line says so, without a traceback, and what failed is
tried again.
"""

from __future__ import annotations

import errno
import logging

from .. import notices
from ..settings import in_run

_logger = logging.getLogger("traceloop")


def is_shortage(error: BaseException) -> bool:
    """Whether memory (or address space, or a thread) was not to be had."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOMEM, errno.EAGAIN)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "new thread" in str(error))


def report(what: str, error: BaseException) -> None:
    """Logs that ``what`` has failed. From any thread; never raises, whatever is left of the memory."""
    try:
        if not is_shortage(error):
            _logger.error("traceloop: %s; the application runs on", what, exc_info=error)
        elif in_run():
            # Past logging, whose handlers print tracebacks of their own where they find no memory.
            notices.say_once(None, "no-memory", "memory is short: the record may have gaps; the application runs on")
        else:
            _logger.error("traceloop: %s, since memory is short; the application runs on", what)
    except Exception:
        pass
