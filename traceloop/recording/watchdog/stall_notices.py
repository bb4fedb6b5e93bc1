"""Lines about stalls for people: on stderr under ``traceloop run``, through the ``traceloop`` logger in library use.

Called by the watchdog's thread only. Lines wait until ``flush``, after the turn's records are written: a full pipe or a
logging handler whose lock the stalled loop holds may keep us here, and the record must not wait for that.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from time import monotonic

from ... import notices
from ...record.holders import Holder
from ...record.plumbing import readable
from ...record.text import printable
from ...settings import ROOT_PID, in_run

_logger = logging.getLogger("traceloop")

MAX_STALLS_A_MINUTE = 12
#: The same callback and culprit are said again after so many s, with how often it happened meanwhile.
REPEAT_SECONDS = 30.0
_MAX_KINDS = 200
_MAX_LINE = 2000
# Of the parts of one stall: as many are named, and each lasted this long (s).
_MAX_PARTS = 4
_LEAST_PART = 0.005
# The container's CPU limit is named where it took this share of a stall.
_LEAST_THROTTLED = 0.1


class StallNotices:
    """Says the first stall of each kind (callback and culprit), then one every ``REPEAT_SECONDS`` with how many there
    were meanwhile; at most ``MAX_STALLS_A_MINUTE`` in all, and how many were left out.

    Nothing where there is no run: a program that takes the loop alone has not asked for it.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._said: deque[float] = deque(maxlen=MAX_STALLS_A_MINUTE)
        self._left_out = 0
        # When a kind was said, and how many of it were not, since.
        self._kinds: dict[tuple[str, str], list[float]] = {}

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
        """A stall was seen. Returns whether it is said, so that its end is too. holder: who has what it waits for."""
        if not in_run():
            return False
        now = monotonic()
        kind = self._kinds.get((callback, culprit))
        if kind is not None and now - kind[0] < REPEAT_SECONDS:
            kind[1] += 1
            return False
        if len(self._said) == MAX_STALLS_A_MINUTE and now - self._said[0] < 60:
            self._left_out += 1
            return False
        self._said.append(now)
        more = ""
        if kind is not None and kind[1]:
            more = f", {kind[1] + 1:.0f} times in the last {now - kind[0]:.0f} s"
        if len(self._kinds) >= _MAX_KINDS:
            self._kinds.clear()
        self._kinds[callback, culprit] = [now, 0]
        if self._left_out:
            more += f" ({self._left_out} more stalls were not logged)"
        self._left_out = 0
        waiting = f"{ready} callback{'' if ready == 1 else 's'} waiting"
        what = readable(culprit or callback)
        within = f" within {readable(callback)}" if culprit and culprit != callback else ""
        place = f" ({line})" if line else ""  # a C function that the loop called itself has none
        self._lines.append(
            # Names are the program's choice: none begins a line of its own.
            printable(
                f"stall: {what}{place}{within} blocks the loop of {thread} in process {os.getpid()}: "
                f"{seconds:.2f} s so far, {waiting}{more}{_held(holder)}",
                _MAX_LINE,
            )
        )
        return True

    def goes_on(self, callback: str, culprit: str, line: str, seconds: float, holder: Holder | None = None) -> None:
        """The run of a stall that was said has gone on to code of another culprit."""
        place = f" ({line})" if line else ""
        within = f" within {readable(callback)}" if culprit != callback else ""
        text = f"stall: now {readable(culprit)}{place}{within} blocks that loop: {seconds:.2f} s so far{_held(holder)}"
        self._lines.append(printable(text, _MAX_LINE))

    def waits_for(self, holder: Holder, seconds: float) -> None:
        """Only now is it known what the run of a stall that was said waits for."""
        self._lines.append(printable(f"stall: that loop is blocked for {seconds:.2f} s so far: it {holder}", _MAX_LINE))

    def ended(self, held: dict[str, float], seconds: float, throttled: float = 0.0) -> None:
        """A stall that was said is over. ``held``: seconds by culprit, the longest first; ``seconds``: in all;
        ``throttled``: for how many of these the container's CPU limit held the process.
        """
        parts = [(name, part) for name, part in held.items() if part >= _LEAST_PART]
        if len(parts) > 1:
            each = ", ".join(f"{part:.2f} s by {readable(name)}" for name, part in parts[:_MAX_PARTS])
            text = f"stall over: the loop was blocked for about {seconds:.2f} s: {each}"
        else:
            text = f"stall over: {readable(next(iter(held)))} blocked the loop for about {seconds:.2f} s"
        if throttled > 0.0 and throttled >= _LEAST_THROTTLED * seconds:
            text += f"; the container's CPU limit held the process for {throttled:.2f} s of it"
        self._lines.append(printable(text, _MAX_LINE))

    def flush(self) -> None:
        """Says what waits to be said, and what the program's screen held back, once that is gone."""
        if not self._lines:
            notices.release()
            return
        lines, self._lines = self._lines, []
        if ROOT_PID in os.environ:
            notices.say("\n".join(lines))
            return
        for line in lines:
            _logger.warning("traceloop: %s", line)
        # Logging asked for the current thread's name, and threading made it one of its own for that: programs that
        # count their threads must not find it.
        threads = getattr(threading, "_active", {})
        if isinstance(threads.get(threading.get_ident()), getattr(threading, "_DummyThread", ())):
            del threads[threading.get_ident()]


def _held(holder: Holder | None) -> str:
    return f": it {holder}" if holder is not None else ""
