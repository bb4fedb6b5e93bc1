"""Peers that do not read: the transports of a loop whose writing is paused, how much waits in them, and since when.

The watchdog looks once a second, and only while the loop's counters say that transports are paused. It records the kind
of a peer, never its address.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from ...record.peers import KINDS
from .watched_loop import Watched

_logger = logging.getLogger("traceloop")
_LOOK_SECONDS: Final = 1.0
# Transports whose buffers are measured; more are counted only.
_MAX_MEASURED: Final = 1_000


class SlowPeers:
    """Looks at the loops of one process. Called by the watchdog, in its thread."""

    def __init__(self, report: Callable[[dict[str, Any], float], bool]) -> None:
        """``report(event, now)`` writes an event, if the budget allows one more."""
        self._report = report
        self._looked = 0.0
        # Rings of the loops that had paused transports at the last look.
        self._known: set[int] = set()
        self._failed = False

    @property
    def found(self) -> bool:
        """Whether a transport was paused at the last look."""
        return bool(self._known)

    def poll(self, now: float, loops: Sequence[Watched]) -> None:
        """Looks at the loops that run, once a second. Never raises."""
        if self._failed or now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        known: set[int] = set()
        try:
            for watched in loops:
                found = paused_by_kind(getattr(watched.loop, "_io_counters", None), now)
                if found:
                    known.add(watched.ring)
                if found or watched.ring in self._known:
                    self._report({"kind": "peers", "ring": watched.ring, "at": now, "paused": found}, now)
            self._known = known
        except Exception as error:
            self._failed = True
            _logger.error("traceloop: looking at paused transports failed and has stopped", exc_info=error)


def paused_by_kind(io: Any, now: float) -> list[list[Any]]:
    """Transports whose writing is paused, from the loop's ``IOCounters``: kind, how many, bytes that wait in them, the
    longest pause (s).
    """
    if io is None or not io.paused_transports:
        return []
    found: dict[str, list[Any]] = {}
    for reference in list(io.paused_transports.values())[:_MAX_MEASURED]:
        transport = reference()
        if transport is None or not transport._paused_at:
            continue
        kind = getattr(transport, "_kind", "pipe")
        entry = found.setdefault(kind if kind in KINDS else "pipe", [0, 0, 0.0])
        entry[0] += 1
        try:
            entry[1] += int(transport.get_write_buffer_size())
        except RuntimeError:
            pass  # the loop's thread writes just now
        entry[2] = max(entry[2], now - transport._paused_at)
        del transport
    return [[kind, *entry] for kind, entry in found.items()]
