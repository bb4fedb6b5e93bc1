"""The end of a run, in the process that `traceloop run` became: it waits for its collector and prints the summary.

Imported before the program's first line, like process_end.py, since an import during exit can fail.
"""

from __future__ import annotations

import os
import select
import time

from .. import notices
from ..record import files
from ..record.proc import is_alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..settings import Settings

# The collector has begun to write the summary: it is there in a moment.
_WRITING_SECONDS = 5.0


def finish_run(settings: Settings, run_dir: str, collector_pid: int, why_nothing: Callable[[], str]) -> None:
    """Waits until the collector has read everything, and says what it has to say. In the root process, at its exit.

    `why_nothing`: gives the line for a run that recorded nothing.
    """
    try:
        os.scandir(run_dir).close()
    except PermissionError:
        return  # the process has changed its user; the collector says how the run went
    except FileNotFoundError:
        # Unless the process has another root directory by now. The collector, which has the files open, prints the
        # summary; where a record was to be kept it says what this line says.
        if os.path.isdir(os.path.dirname(run_dir)) and (settings.collector != "process" or settings.record is None):
            notices.say(f"the record in {run_dir} was deleted while the program ran")
        return
    except OSError:
        pass
    recorded = any(name == files.RECORDED or files.parse_process_name(name) for name in _listing(run_dir))
    if settings.collector == "process":
        # It may be the parent of a pool, or a server's master process, which has no folder to say so in.
        _write_empty(os.path.join(run_dir, files.OVER))
        files.wake_reader(run_dir)
    if not recorded:
        notices.say(why_nothing())
        if settings.collector == "none":
            _remove_empty(run_dir)
        return
    if settings.collector == "none" and not os.path.exists(os.path.join(run_dir, files.READ_BY_PARENT)):
        notices.say(f"the record is in {run_dir}; `traceloop report {run_dir}` reads it")
    if settings.collector != "process":
        return
    path = os.path.join(run_dir, files.SUMMARY)
    summary = _wait_for(path, run_dir, settings.exit_timeout, collector_pid, report=settings.report)
    if not summary:  # "": the collector has said it, since it could write no file
        return
    report = _read(os.path.join(run_dir, files.REPORT)) if settings.report else None
    if report:
        # The report begins with what the summary's last line says.
        for line in summary.splitlines()[:-1]:
            notices.say(line)
        notices.say_report(report)
    else:
        notices.say(summary)


def tell_left(run_dir: str) -> None:
    """Lets the collector know that this process, which began the run, has no part in it any more."""
    _write_empty(os.path.join(run_dir, files.LEFT))
    files.wake_reader(run_dir)


def _wait_for(path: str, run_dir: str, timeout: float, collector_pid: int, *, report: bool) -> str | None:
    """The text of the file once it is there; None, with a notice where one is due, if it won't come in time.

    ``report``: whether one was asked for.
    """
    deadline = time.monotonic() + timeout
    is_being_written = False
    pause_ms = 2
    while True:
        text = _read(path)
        if text is not None:
            return text
        if collector_pid and not is_alive(collector_pid):
            text = _read(path)  # it may have written just before its end
            if text is None:
                traceback = os.path.join(run_dir, files.COLLECTOR_TRACEBACK)
                why = f"; its traceback is in {traceback}" if os.path.exists(traceback) else ""
                notices.say(f"the collector has ended before the program{why}; the record is in {run_dir}")
            return text
        others = _others_alive(run_dir)
        is_late = time.monotonic() >= deadline
        if is_late or (others and not is_being_written):
            # The collector goes on, and says the rest itself; unless it is about to write what is waited for here.
            if is_being_written or files.settle_who_prints(run_dir, "" if others else files.LATE):
                notices.say("the run goes on in other processes" if others else _late(timeout, report))
                return None
            is_being_written = True
            deadline = time.monotonic() + _WRITING_SECONDS
        select.poll().poll(pause_ms)
        pause_ms = min(pause_ms * 2, 20)


def _late(timeout: float, report: bool) -> str:
    late = f"the last records were not read within {timeout:g} s"
    if not report and notices.is_pipe():
        # Who reads a pipe to its end is not to wait for the collector.
        return f"{late}: the summary may be missing (--exit-timeout waits longer)"
    return f"{late}: the {'report' if report else 'summary'} follows when they are (--exit-timeout waits longer)"


def _write_empty(path: str) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError:
        pass  # the collector has gone, and its folder with it


def _listing(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def _others_alive(run_dir: str) -> bool:
    """Whether another traced process of the run lives."""
    for name in _listing(run_dir):
        process = files.parse_process_name(name)
        if process is None or process.pid == os.getpid() or os.path.exists(os.path.join(run_dir, name, files.ENDED)):
            continue
        if is_alive(process.pid, process.start_ticks):
            return True
    return False


def _remove_empty(run_dir: str) -> None:
    for name in _listing(run_dir):
        os.unlink(os.path.join(run_dir, name))
    os.rmdir(run_dir)
