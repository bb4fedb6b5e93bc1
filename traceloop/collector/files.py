"""The collector's output: files in the run directory, and lines on the program's stderr."""

from __future__ import annotations

import os

from traceloop import notices
from traceloop.record import files


def say(line: str) -> None:
    """Lines to the program's stderr, as long as the collector holds it; never waits long for a reader."""
    notices.say(line)


def keep_traceback(run_dir: str) -> str:
    """Keeps the traceback of the exception that is being handled in the run directory; the file's path."""
    import traceback

    path = os.path.join(run_dir, files.COLLECTOR_TRACEBACK)
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(traceback.format_exc())
    except OSError:
        pass  # the folder is gone, or full
    return path


def release_stderr() -> None:
    """Closes the program's stderr where that is a pipe, since its reader waits for the end of the pipe."""
    if notices.is_pipe():
        try:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(null, 2)
            os.close(null)
        except OSError:
            pass  # no descriptor is left for it


def write_file(path: str, text: str, time_ns: int = 0) -> bool:
    """Writes a file that appears only when it is complete. Whether it did.

    Never raises OSError: the directory may be gone, or the memory that it is in full.

    ``time_ns``: the file's time (wall clock); 0 for that of now.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        if time_ns > 0:
            os.utime(temporary, ns=(time_ns, time_ns))
        os.rename(temporary, path)
        return True
    except OSError:
        return False
