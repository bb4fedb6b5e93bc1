"""Spans of stalls, sent while they last: what is known of a handle run that has not ended, and perhaps never will.

One ``asyncio.stall`` for each stack taken. The first reaches from the run's start to that stack, each further one from
the stack before it: together they cover the stall as far as it has been seen. They hang under the application's span
that was active in the run, as the run's own span will; where there is none they make a trace of their own, which the
run's span is linked to when it comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from traceloop.reading.follower import ProcessFollower, RingFollower
from traceloop.reading.stalls.index import StallIndex
from traceloop.reading.stalls.model import StallStack
from traceloop.record import layout
from traceloop.record.sites import Site, site_of

from .ids import SpanIds
from .model import REMOTE, Extra, Kind, Link, Span, SpanEvent, id_bytes

_STALL: Final = Kind("asyncio.stall", {})
_ROOTS: Final = 256


class _Stall:
    """The latest stall of a ring. at: of its latest stack, s; first: its first span; root: it made that trace."""

    __slots__ = ("at", "first", "root")

    def __init__(self, at: float, first: Link, root: bool) -> None:
        self.at = at
        self.first = first
        self.root = root


class StallSpans:
    """The spans of the stalls of one process. For one thread."""

    def __init__(
        self, follower: ProcessFollower, index_of: Callable[[], StallIndex], site_of: Callable[[int], Site]
    ) -> None:
        self._follower = follower
        self._index_of = index_of
        self._site_of = site_of
        self._ids = SpanIds()
        self._number = 0
        self._stalls: dict[int, _Stall] = {}
        self._roots: deque[tuple[int, float, Link]] = deque(maxlen=_ROOTS)

    def take(self) -> list[Span]:
        """The spans of the stacks that were taken since the last call, of runs that have not ended by now."""
        index = self._index_of()
        out: list[Span] = []
        while index.fresh:
            stack = index.fresh.popleft()
            ring = next((ring for ring in self._follower.rings.values() if ring.number == stack.ring), None)
            if ring is None or not ring.is_loop or not index.lasts(stack):
                continue
            try:
                out.append(self._span(stack, ring))
            except (ValueError, OverflowError):
                pass  # times that make no sense: a damaged record
        return out

    def link(self, ring: int, start: float, end: float) -> Link | None:
        """The first span of the stall that the run from ``start`` to ``end`` was, if that is in a trace of its own."""
        return next((link for number, at, link in self._roots if number == ring and start <= at <= end), None)

    def _span(self, stack: StallStack, ring: RingFollower) -> Span:
        at, begin = stack.taken.at, stack.start
        self._number += 1
        span_id = self._ids.other(self._number)
        before = self._stalls.get(ring.number)
        links: tuple[Link, ...] = ()
        # Between its stack before and this one no other run can have begun.
        if before is not None and before.at > stack.start:
            begin = before.at
            links = (before.first,)
        else:
            before = None
        trace, parent = self._active(stack)
        active = stack.span if parent else None
        if not parent:
            if trace:  # the application left its trace unsampled
                links = (*links, Link(trace, id_bytes(stack.span.span_id if stack.span is not None else "", 8)))
            root = before is not None and before.root
            trace = before.first.trace_id if before is not None and root else self._ids.trace(self._number)
        if before is None:
            self._stalls[ring.number] = _Stall(at, Link(trace, span_id), not parent)
            if not parent:
                self._roots.append((ring.number, at, Link(trace, span_id)))
        else:
            before.at = at
        offset = ring.reader.clock_offset_ns
        event = SpanEvent("asyncio.stack", int(at * 1e9) + offset, stack.taken.attributes)
        extra = Extra(
            self._attributes(stack, ring),
            links=links,
            events=(event,) if stack.taken.frames else (),
            trace_state=active.trace_state if active is not None else "",
            remote_parent=active is not None and bool(active.flags & REMOTE),
        )
        start_ns, end_ns = int(begin * 1e9) + offset, int(max(begin, at) * 1e9) + offset
        return _STALL, trace, span_id, parent, start_ns, end_ns, -1.0, b"", b"", extra

    def _active(self, stack: StallStack) -> tuple[bytes, bytes]:
        """Trace and span id of the application's span that the run serves; no span id where it is not sampled."""
        if stack.span is None:
            return b"", b""
        trace, span = id_bytes(stack.span.trace_id, 16), id_bytes(stack.span.span_id, 8)
        if not trace or not span:
            return b"", b""
        return trace, span if stack.span.flags & 1 else b""

    def _attributes(self, stack: StallStack, ring: RingFollower) -> dict[str, Any]:
        attributes: dict[str, Any] = {"code.function.name": stack.callback}
        site = self._site_of(site_of(stack.ident)) if stack.ident else None
        if site is not None and site.file:
            attributes["code.file.path"] = site.file
            attributes["code.line.number"] = site.line
        attributes["asyncio.stall.culprit"] = stack.culprit
        if stack.taken.holder is not None:
            attributes["asyncio.stall.holder"] = str(stack.taken.holder)
        attributes["asyncio.stall.duration"] = stack.taken.at - stack.start
        attributes["asyncio.blocked.callbacks"] = stack.taken.ready
        thread = ring.reader.word(layout.W_THREAD)
        if 0.0 < thread < 2.0**32:
            attributes["thread.id"] = int(thread)
        if ring.decoder.loop is not None:
            attributes["thread.name"] = ring.decoder.loop.thread
        return attributes
