"""What the watchdog writes about stalls: events in the process ring, and lines on stderr, both at a limited rate."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...record import layout
from ...record.frames import culprit_frame, held_by, whereabouts
from ...record.sites import UNKNOWN_LABEL
from ..current_frames import current_frames
from . import stacks
from .stall_notices import StallNotices
from .surroundings import Surroundings
from .throttling import Throttling
from .watched_loop import Stall, TokenBucket, Watched

if TYPE_CHECKING:
    from ..process import Process

# Whole stacks a minute; beyond it only the culprit is recorded, and beyond the second number nothing.
MAX_STACKS_A_MINUTE = 60
MAX_EVENTS_A_MINUTE = 1200
# The culprits of so many stacks of one stall are added up. The gaps between stacks double: a day has 21.
_MAX_HELD = 64
# A stack taken at most so many s after it was due shows what runs now.
_IN_TIME = 0.05


class StallEvents:
    """Writes the events of one process. For the watchdog's thread, or the holder of its ``_looking``."""

    def __init__(self, process: Process, glance: Callable[[], None], dumped_within: Callable[[float], bool]) -> None:
        """``glance()`` is called after each call that gives the GIL away. ``dumped_within(s)`` says whether the
        collector asked for a dump within the last s seconds: it has then reported itself what blocked the loop.
        """
        self._process = process
        self._glance = glance
        self._dumped_within = dumped_within
        self._suppressed = 0
        self._stack_budget = TokenBucket(MAX_STACKS_A_MINUTE)
        self._event_budget = TokenBucket(MAX_EVENTS_A_MINUTE)
        self.surroundings = Surroundings()
        self.throttling = Throttling(self.report)
        self.notices = StallNotices(os.path.dirname(process.directory) if process.directory else None)

    def label_of(self, ident: float) -> str:
        """The label of a run's ident."""
        sites = self._process.site_log.sites
        number = stacks.site_number(ident)
        return sites[number].label if 0 <= number < len(sites) else UNKNOWN_LABEL

    def stack(self, watched: Watched, stall: Stall, run: stacks.Run, now: float, due: float) -> None:
        """Writes down a stack taken at ``now``, which was due at ``due`` (s). If it was due long ago, the run has kept
        the GIL since then. It stands at the C call that did so: a waiting thread gets the GIL when that returns.
        """
        stall.seen = now
        if not self._event_budget.take(now):
            self._suppressed += 1
            return
        whole = self._stack_budget.take(now)
        if not whole:
            self._suppressed += 1
        own = culprit_frame(run.frames, run.awaiting)
        culprit = f"{own[2]}.{own[3]}" if own is not None else ""
        if len(stall.held) < _MAX_HELD:
            stall.held.append((due, culprit))
        label = self.label_of(run.ident)
        event: dict[str, Any] = {
            "kind": "stack",
            "ring": watched.ring,
            "run": run.start,
            "at": now,
            "due": due,
            "index": stall.stacks,
            "ident": run.ident,
            "callback": label,
            "culprit": culprit,
            "threshold": stall.threshold,
            "ready": len(watched.loop._ready),
            "before": stall.before,
            "samples": stall.samples[-1:],
            # The culprit's line, and where it stands: what every line and label shows.
            "frames": run.frames if whole else [frame for frame in run.frames[:-1] if frame is own] + run.frames[-1:],
            "suppressed": self._suppressed,
        }
        holder = None
        if whole:
            threads, holder = self.surroundings.look(watched, stall, run.frames, now)
            if threads:
                event["threads"] = threads
            if holder is not None:
                event["holder"] = holder
            if run.awaiting:
                event["awaiting"] = run.awaiting
            descriptors = stacks.ready_descriptors(watched.loop)
            self._glance()
            if descriptors:
                event["descriptors"] = descriptors
            if run.span is not None:
                event["span"] = run.span
        stall.stacks += 1
        self.write(event, now)
        line = whereabouts(run.frames, run.awaiting)
        if not stall.reported and now - stall.start >= stall.line_from:
            stall.reported = True
            stall.reported_culprit = culprit
            stall.announced = not self._dumped_within(now - stall.start) and self.notices.started(
                label, culprit, line, now - stall.start, event["ready"], watched.name, holder
            )
            if stall.announced:
                watched.words[layout.W_SAID] = stall.start
            stall.holder_in_line = holder is not None
        elif stall.announced and culprit not in ("", stall.reported_culprit) and now - due < _IN_TIME:
            # The same run has gone on to other code. (A stack that came late shows what is over by now.)
            stall.reported_culprit = culprit
            self.notices.goes_on(label, culprit, line, now - stall.start, watched.name, holder)
        elif stall.announced and holder is not None and not stall.holder_in_line:
            stall.holder_in_line = True
            self.notices.waits_for(holder, now - stall.start, watched.name)

    def end(self, watched: Watched, now: float, suspended: Callable[[float, float], float]) -> None:
        """Ends the stall of a loop, if it has one. ``suspended(from, to)``: for how long the process stood still, s."""
        stall = watched.stall
        if stall is None:
            return
        watched.stall = None
        # It ended somewhere between the look before this one and now.
        last = max(stall.seen, stall.samples[-1][0] if stall.samples else now)
        held = held_by(stall.held, stall.start, (last + now) / 2)
        held.pop("", None)
        after = watched.sample()
        self.throttling.look(now)
        self._glance()
        self.throttling.write(now)
        self.report(
            {
                "kind": "stall_end",
                "ring": watched.ring,
                "run": stall.start,
                "ident": stall.ident,
                "at": now,
                "culprit": next(iter(held), ""),
                "before": stall.before,
                "samples": [*stall.samples[:1], *stall.samples[-1:]],
                "after": after,
                "suspended": suspended(stall.start, now),
            },
            now,
        )
        if stall.announced:
            length = (last + now) / 2 - stall.start
            throttled = self.throttling.during(stall.start, (last + now) / 2)
            self.notices.ended(held or {self.label_of(stall.ident): length}, length, watched.name, throttled)

    def end_left(self, loops: list[Watched], now: float, suspended: Callable[[float, float], float]) -> None:
        """The process ends: ends the stalls that are over, of loops that were never stopped. Other libraries turn such
        loops, or their programs end without closing them.
        """
        for watched in loops:
            if watched.stall is None:
                continue
            run = stacks.find_run(current_frames().get(watched.thread), watched.loop)
            if run is None or run.start != watched.stall.start:
                self.end(watched, now, suspended)

    def name_dumped(self, text: str, now: float) -> None:
        """A dump was asked for from outside: it has files and bare function names, and the modules are known here."""
        files = {line.split('"')[1] for line in text.splitlines() if line.startswith('  File "')}
        modules = {}
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and file in files and (file not in modules or name == "__main__"):
                modules[file] = name
        self.write({"kind": "modules", "files": modules}, now)

    def report(self, event: dict[str, Any], now: float) -> bool:
        """Writes an event if there may be one more this minute; returns whether there may."""
        if not self._event_budget.take(now):
            return False
        self.write(event, now)
        return True

    def write(self, event: dict[str, Any], now: float) -> None:
        """Writes an event, however many there have been."""
        self._process.process_write(
            [now, layout.R_EVENT, float(self._process.next_event())], [json.dumps(event, separators=(",", ":"))], now
        )
