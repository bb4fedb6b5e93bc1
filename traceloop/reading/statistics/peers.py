"""Peers that do not read what is written to them: transports whose writing is paused now, and how bad it was."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ...record.peers import KINDS
from ..decoding.decoded import Decoded
from .parts import Sample

# How long a report is current, s. While a pause lasts, it is reported once a second.
_HOLDS_SECONDS: Final = 15.0
_MAX_LOOPS: Final = 1_000
_LARGEST: Final = 2.0**53


class Paused(NamedTuple):
    """Transports of one kind whose writing is paused: how many, bytes that wait in them, the longest pause (s)."""

    transports: int
    waiting_bytes: int
    longest_s: float


class Peers:
    """A part of a process's statistics (``parts.Part``). most: by kind, the largest value of each number so far."""

    def __init__(self) -> None:
        # By ring: when it was reported (s), and what by kind.
        self._loops: dict[int, tuple[float, dict[str, Paused]]] = {}
        self.most: dict[str, Paused] = {}

    def new_process(self) -> None:
        """Another process takes the slot."""
        self._loops.clear()

    def feed(self, decoded: Decoded) -> None:
        """Takes in what the watchdog wrote down."""
        for event in decoded.events:
            if event.data.get("kind") == "peers":
                try:
                    self._take(event.data)
                except (KeyError, TypeError, ValueError, OverflowError):
                    pass  # of another version, or damaged

    def _take(self, data: Any) -> None:
        ring, at = int(data["ring"]), float(data["at"])
        found: dict[str, Paused] = {}
        for kind, transports, waiting, longest in data["paused"]:
            numbers = float(transports), float(waiting), float(longest)
            if kind in KINDS and all(0.0 <= each < _LARGEST for each in numbers):
                found[kind] = Paused(int(transports), int(waiting), float(longest))
        if not math.isfinite(at) or (ring not in self._loops and len(self._loops) >= _MAX_LOOPS):
            return
        self._loops[ring] = at, found
        for kind, each in self.now(at).items():
            most = self.most.get(kind, Paused(0, 0, 0.0))
            self.most[kind] = Paused(*map(max, most, each))  # type: ignore[arg-type]

    def now(self, now: float) -> dict[str, Paused]:
        """Those that are paused at ``now`` (monotonic s), by kind, over all loops of the process."""
        out: dict[str, Paused] = {}
        for at, found in self._loops.values():
            if now - at > _HOLDS_SECONDS:
                continue
            for kind, each in found.items():
                sofar = out.get(kind, Paused(0, 0, 0.0))
                out[kind] = Paused(
                    sofar.transports + each.transports,
                    sofar.waiting_bytes + each.waiting_bytes,
                    max(sofar.longest_s, each.longest_s + max(0.0, now - at)),
                )
        return out

    def metrics(self) -> Iterator[Sample]:
        """The series as they stand, without the label ``process``, of each kind that was ever paused."""
        now = self.now(time.monotonic())
        for kind in self.most:
            each = now.get(kind, Paused(0, 0, 0.0))
            labels = (("transport", kind),)
            yield Sample("asyncio_transports_paused", labels, each.transports)
            yield Sample("asyncio_transport_paused_bytes", labels, each.waiting_bytes)
            yield Sample("asyncio_transport_paused_longest_seconds", labels, each.longest_s)
