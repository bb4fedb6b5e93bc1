"""Slow runs: which runs are slow, and what is known about them, before and after their spans are built.

A record is read, explained, built into spans, limited, encoded and sent, in that order. ``RingExplanations`` is the
second stage: it asks the index of stalls which runs of a chunk were slow, and which of the application's spans they
served. The builder takes the answer as data. The rest about a slow run (stacks, cause, who waited) comes through
another ring, a moment later: ``HeldSpans`` keeps the run's span until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Final, NamedTuple

from traceloop.reading.decoding.decoded import SpanContext
from traceloop.reading.decoding.runs import Run
from traceloop.reading.findings.slow_runs import finding_of
from traceloop.reading.follower import Chunk
from traceloop.reading.site_names import SiteNames
from traceloop.reading.stalls.index import StallIndex
from traceloop.reading.stalls.who_waited import SlowRun
from traceloop.reading.statistics.context import Context

from .model import Attributes, Link, Span, SpanEvent, finding_event

#: How long the span of a slow run waits at most for the rest about it, s.
_WAIT_SECONDS: Final = 0.3


class SlowRuns(NamedTuple):
    """The slow runs of a chunk. lowest: no shorter run (s) is slow. active: by number of each slow run, the
    application's span that was active when its stack was taken; None where there was none.
    """

    lowest: float
    active: Mapping[int, SpanContext | None]


NO_SLOW_RUNS: Final = SlowRuns(inf, {})


class Explanation(NamedTuple):
    """What is known about a slow run. complete: whether nothing more will come. stall: the span, in a trace of its own,
    that reported the run while it lasted.
    """

    attributes: Attributes
    events: tuple[SpanEvent, ...]
    complete: bool
    stall: Link | None = None


class RingExplanations:
    """What reading knows of the slow runs of one loop's ring."""

    def __init__(
        self,
        ring: int,
        clock_offset_ns: int,
        context: Context,
        sites: SiteNames,
        index_of: Callable[[], StallIndex],
        stall_of: Callable[[int, float, float], Link | None],
    ) -> None:
        """``ring``: its number. ``stall_of``: the span that reported the stall of this ring from start to end."""
        self._ring = ring
        self._clock_offset_ns = clock_offset_ns
        self._context = context
        self._sites = sites
        self._index_of = index_of
        self._stall_of = stall_of
        self._threshold = 0.1

    def slow_runs(self, chunk: Chunk) -> SlowRuns:
        """Which runs of the chunk are slow, by the threshold for their callback or culprit."""
        if chunk.threshold > 0.0:
            self._threshold = chunk.threshold
        lowest = self._context.lowest_threshold(self._threshold)
        if not chunk.slow:
            return NO_SLOW_RUNS
        index = self._index_of()
        active: dict[int, SpanContext | None] = {}
        for slow in chunk.slow:
            number, start, end, ident, *_ = slow.run
            label = self._sites.label_of(ident)
            if slow.duration >= index.limit(self._ring, start, end, label, self._threshold):
                active[number] = index.active_span(self._ring, start)
        return SlowRuns(lowest, active)

    def explain(self, run: Run) -> Explanation:
        """What is known of a slow run by now."""
        _, start, end, ident, *_ = run
        index = self._index_of()
        attributes, stacks, complete = index.span_details(self._ring, start, end)
        for name, value in attributes.items():
            if type(value) is int:  # seconds, as JSON had them: one type for one attribute
                attributes[name] = float(value)
        offset = self._clock_offset_ns
        events = tuple(SpanEvent("asyncio.stack", int(at * 1e9) + offset, each) for at, each in stacks)
        info = index.lookup(self._ring, start, end)
        if info is not None:
            limit = index.limit(self._ring, start, end, self._sites.label_of(ident), self._threshold)
            found = finding_of(index, info, end - start, limit)
            events += (finding_event(int(end * 1e9) + offset, found.kind, found.detail, found.title, found.remedy),)
        return Explanation(attributes, events, complete, self._stall_of(self._ring, start, end))


class _Held:
    """A slow run's span that waits for what is still to be learnt about it."""

    __slots__ = ("run", "slow", "span")

    def __init__(self, run: Run, span: Span, slow: SlowRun | None) -> None:
        self.run = run
        self.span = span
        self.slow = slow


class HeldSpans:
    """The spans of one ring's slow runs, until everything about them is known, or nothing more is expected."""

    def __init__(self, explain: Callable[[Run], Explanation]) -> None:
        self._explain = explain
        self._held: list[_Held] = []
        # By number, of the chunk read last and the one before it, whose last run the builder may have kept.
        self._found: dict[int, SlowRun] = {}
        self._before: dict[int, SlowRun] = {}

    def hold(self, made: Sequence[tuple[Run, Span]], slow: Iterable[SlowRun] = ()) -> None:
        """Takes the builder's spans, each with its run. ``slow``: the slow runs of a chunk, with their bills."""
        self._before, self._found = self._found, {each.run[0]: each for each in slow}
        for run, span in made:
            self._held.append(_Held(run, span, self._found.get(run[0]) or self._before.get(run[0])))

    def release(self, now: float, *, final: bool = False) -> list[Span]:
        """The spans that need not wait any more; ``now``: monotonic s. ``final``: nothing more will be read."""
        if not self._held:
            return []
        out: list[Span] = []
        kept: list[_Held] = []
        for held in self._held:
            known = self._explain(held.run)
            waiting = held.slow is not None and not held.slow.complete
            if not (final or (known.complete and not waiting) or now - held.run[2] > _WAIT_SECONDS):
                kept.append(held)
                continue
            extra = held.span[9]
            assert extra is not None
            blocked = held.slow.bill.handles if held.slow is not None else 0
            extra.attributes = {**extra.attributes, "asyncio.blocked.callbacks": blocked, **known.attributes}
            extra.events = known.events
            if known.stall is not None:
                extra.links = (*extra.links, known.stall)
            out.append(held.span)
        self._held = kept
        return out
