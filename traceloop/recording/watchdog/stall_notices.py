"""Lines about stalls for people: on stderr under ``traceloop run``, through the ``traceloop`` logger in library use.

Only the watchdog's thread calls this. Lines wait until ``flush``, after the turn's records are written. A full pipe, or
a logging handler whose lock the stalled loop holds, may block ``flush``, and the record must not wait for that.
"""

from __future__ import annotations

import logging
import os
import threading
from time import monotonic

from ... import notices
from ...record import files
from ...record.holders import Holder
from ...record.plumbing import readable
from ...record.proc import own_pid
from ...record.text import printable
from ...settings import ROOT_PID, in_run

_logger = logging.getLogger("traceloop")

_MAX_LINE = 2000
# So many parts of one stall are named, if each lasted this long (s).
_MAX_PARTS = 4
_LEAST_PART = 0.005
# The container's CPU limit is named where it took this share of a stall.
_LEAST_THROTTLED = 0.1


class StallNotices:
    """Prints lines about stalls, as many as the limit allows (``notices.StallLimit``), and about the ends of these.

    Without a run it prints nothing: a program that uses only the loop has not asked for lines.
    """

    def __init__(self, run_dir: str | None = None) -> None:
        """``run_dir``: the folder with the folders of the run's processes."""
        self._run_dir = run_dir
        self._lines: list[str] = []
        self._limit = notices.StallLimit()

    def started(
        self,
        callback: str,
        culprit: str,
        line: str,
        seconds: float,
        ready: int,
        thread: str,
        holder: Holder | None = None,
    ) -> bool:
        """A stall was seen. Returns whether a line reports it, and so its end too. ``holder``: of what it waits for."""
        if not in_run():
            return False
        more = self._limit.take(callback, culprit, monotonic())
        if more is None:
            return False
        waiting = f"{ready} callback{'' if ready == 1 else 's'} waiting"
        what = readable(culprit or callback)
        within = f" within {readable(callback)}" if culprit and culprit != callback else ""
        place = f" ({line})" if line else ""  # a C function that the loop called itself has none
        self._lines.append(
            # Names are the program's choice: none begins a line of its own.
            printable(
                f"stall: {what}{place}{within} blocks the loop of {thread} in process {own_pid()}: "
                f"{seconds:.2f} s so far, {waiting}{more}{_held(holder)}",
                _MAX_LINE,
            )
        )
        return True

    def goes_on(
        self, callback: str, culprit: str, line: str, seconds: float, thread: str, holder: Holder | None = None
    ) -> None:
        """The run of a reported stall has gone on to code of another culprit."""
        place = f" ({line})" if line else ""
        within = f" within {readable(callback)}" if culprit != callback else ""
        what = f"{readable(culprit)}{place}{within}"
        which = self._which("that loop", thread)
        text = f"stall: now {what} blocks {which}: {seconds:.2f} s so far{_held(holder)}"
        self._lines.append(printable(text, _MAX_LINE))

    def waits_for(self, holder: Holder, seconds: float, thread: str) -> None:
        """It became known what the run of a reported stall waits for."""
        which = self._which("that loop", thread)
        self._lines.append(printable(f"stall: {which} is blocked for {seconds:.2f} s so far: it {holder}", _MAX_LINE))

    def ended(self, held: dict[str, float], seconds: float, thread: str, throttled: float = 0.0) -> None:
        """A reported stall is over. ``held``: seconds by culprit, the longest first; ``seconds``: in all;
        ``throttled``: for how many of these the container's CPU limit held the process.
        """
        which = self._which("the loop", thread)
        parts = [(name, part) for name, part in held.items() if part >= _LEAST_PART]
        if len(parts) > 1:
            each = ", ".join(f"{part:.2f} s by {readable(name)}" for name, part in parts[:_MAX_PARTS])
            text = f"stall over: {which} was blocked for about {seconds:.2f} s: {each}"
        else:
            text = f"stall over: {readable(next(iter(held)))} blocked {which} for about {seconds:.2f} s"
        if throttled > 0.0 and throttled >= _LEAST_THROTTLED * seconds:
            text += f"; the container's CPU limit held the process for {throttled:.2f} s of it"
        self._lines.append(printable(text, _MAX_LINE))

    def _which(self, alone: str, thread: str) -> str:
        """The loop's thread and process, as in the line that began the stall; ``alone`` if the run has only one
        process.
        """
        try:
            names = map(files.parse_process_name, os.listdir(self._run_dir) if self._run_dir else ())
            several = len({name.pid for name in names if name is not None}) > 1
        except OSError:
            several = False
        return f"the loop of {thread} in process {own_pid()}" if several else alone

    def flush(self) -> None:
        """Prints the lines that wait, and those that the program's full screen held back, once that is gone."""
        if not self._lines:
            notices.release()
            return
        lines, self._lines = self._lines, []
        if ROOT_PID in os.environ:
            notices.say("\n".join(lines))
            return
        for line in lines:
            _logger.warning("traceloop: %s", line)
        # Logging asked for the current thread's name, so threading has registered a thread of its own for it. Programs
        # that count their threads must not find that.
        threads = getattr(threading, "_active", {})
        if isinstance(threads.get(threading.get_ident()), getattr(threading, "_DummyThread", ())):
            del threads[threading.get_ident()]


def _held(holder: Holder | None) -> str:
    return f": it {holder}" if holder is not None else ""
