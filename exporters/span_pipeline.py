"""Makes spans of what was read of a run, for every process, and hands them to every exporter that was asked for.

A chunk of a record goes one way: it is explained (spans/slow.py), built into spans (spans/builder.py), limited
(spans/limits.py), and handed to the sinks. The OTLP sink encodes at once, the others in their threads; each sends in a
thread of its own. Where only OTLP receivers get spans and no limits are set, otlp/packing.py builds and encodes most
spans in one step. Called by the reader's thread only.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from traceloop.reading.follower import Chunk, ProcessFollower, RingFollower
from traceloop.reading.requests.parts import keep_spanned, spanned_of
from traceloop.reading.stalls import parts as stall_statistics
from traceloop.reading.stalls.index import StallIndex
from traceloop.reading.statistics.loop import LoopStatistics
from traceloop.reading.statistics.parts import Sample
from traceloop.reading.statistics.run import Statistics
from traceloop.record.sites import UNKNOWN_SITE, Site
from traceloop.settings import Settings

from .otlp.packing import PackedSpans, PackingBuilder, native_packer
from .otlp.sender import OtlpSender
from .span_exporters import make_sinks, notice_of_default, sampling_of
from .spans.builder import SpanBuilder
from .spans.exemplars import executors_hook, loop_hook
from .spans.heap_growth import growth_span
from .spans.limits import SpanLimits
from .spans.model import SiteOf, Span
from .spans.offloads import OffloadSpans
from .spans.own_work import own_work_span
from .spans.requests import request_span
from .spans.resource import detected_attributes, resource_attributes
from .spans.sampling import Sampling
from .spans.sinks import DAMAGED, SentHook, SpanSink
from .spans.slow import HeldSpans, RingExplanations
from .spans.stalls import StallSpans

#: The exceptions that a damaged record causes although its checksum is right: times before the epoch, infinities.
_NO_SENSE: Final = (ValueError, OverflowError, ArithmeticError, struct.error)


#: Makes the builder of a ring's spans, from the ring's sites, the sampling, and the clock's offset (ns).
MakeBuilder = Callable[[SiteOf, Sampling, int], SpanBuilder]


class _Made(NamedTuple):
    """Spans of one process that are ready to be sent. on_sent: called with those that have arrived."""

    spans: Sequence[Span]
    packed: PackedSpans | None = None
    on_sent: SentHook | None = None


class _Ring:
    """The stages for one loop's ring, and the hook that gives the loop's histograms exemplars of spans that arrived."""

    def __init__(self, explanations: RingExplanations, builder: SpanBuilder) -> None:
        self.explanations = explanations
        self.builder = builder
        self.held = HeldSpans(explanations.explain)
        self.on_sent: SentHook | None = None

    def take(self, chunk: Chunk) -> _Made:
        """The spans of a chunk, and of earlier slow runs whose spans need not wait any more."""
        runs = chunk.decoded.runs
        spans = self.builder.build(chunk.decoded, self.explanations.slow_runs(chunk), chunk.thread_id)
        if chunk.loop is not None:
            self.on_sent = loop_hook(chunk.loop)
        self.held.hold(self.builder.take_slow(), chunk.slow)
        if chunk.loop is not None:
            spans += self._of_requests(chunk.loop, chunk.threshold)
        spans += self.held.release(runs[-1][2] if len(runs) else 0.0)
        return self._made(spans)

    def _of_requests(self, loop: LoopStatistics, threshold: float) -> list[Span]:
        made = [request_span(*answered, self.builder, threshold) for answered in spanned_of(loop)]
        return [span for span in made if span is not None]

    def release(self, now: float) -> _Made:
        """The spans of slow runs that need not wait any more; ``now``: monotonic s."""
        return self._made(self.held.release(now))

    def finish(self) -> _Made:
        """Everything that was held back."""
        spans = self.builder.finish()
        self.held.hold(self.builder.take_slow())
        return self._made(spans + self.held.release(0.0, final=True))

    def _made(self, spans: list[Span]) -> _Made:
        packed = self.builder.take_packed() if isinstance(self.builder, PackingBuilder) else None
        return _Made(spans, packed, self.on_sent)


class _Process:
    """The spans of one process. ``on_damage``: called with the number of spans lost to a damaged record, and why."""

    def __init__(
        self,
        follower: ProcessFollower,
        sampling: Sampling,
        make_builder: MakeBuilder,
        on_damage: Callable[[int, Exception], None],
    ) -> None:
        self.follower = follower
        self.resource: dict[str, Any] | None = None
        self._sampling = sampling
        self._make_builder = make_builder
        self._on_damage = on_damage
        self._rings: dict[RingFollower, _Ring] = {}
        self._offloads: OffloadSpans | None = None
        self._stalls = StallSpans(follower, self._index, self._site)

    def take(self, chunks: Sequence[Chunk], now: float) -> Iterator[_Made]:
        """The spans of what was read, and held-back spans that need not wait any more; ``now``: monotonic s."""
        for chunk in chunks:
            try:
                yield from self._take_chunk(chunk)
            except _NO_SENSE as error:
                self._rings.pop(chunk.ring, None)
                self._on_damage(len(chunk.decoded.runs), error)
        yield from self._safely(lambda: [ring.release(now) for ring in self._rings.values()])
        yield from self._safely(lambda: [_Made(self._stalls.take())])
        yield from self._safely(lambda: self._offload_spans(now))

    def finish(self) -> Iterator[_Made]:
        """All spans that were held back. Called when the process has ended and was read to its end."""
        for ring in self._rings.values():
            yield from self._safely(lambda ring=ring: [ring.finish()])  # type: ignore[misc]
        yield from self._safely(lambda: self._offload_spans(0.0, final=True))

    def _take_chunk(self, chunk: Chunk) -> Iterator[_Made]:
        decoded = chunk.decoded
        builder = None
        if chunk.ring.is_loop:
            ring = self._ring(chunk.ring)
            builder = ring.builder
            yield ring.take(chunk)
        if decoded.offloads or decoded.threads or decoded.executors:
            if self._offloads is None:
                self._offloads = OffloadSpans(self._site, self._sampling, chunk.ring.reader.clock_offset_ns)
            self._offloads.feed(decoded, builder)
        for event in decoded.events:
            offset = chunk.ring.reader.clock_offset_ns
            thread = decoded.loop.thread if decoded.loop is not None else ""
            span = growth_span(event, offset) or own_work_span(event, self.follower.statistics.sites, thread, offset)
            if span is not None:
                yield _Made([span])

    def _offload_spans(self, now: float, *, final: bool = False) -> list[_Made]:
        if self._offloads is None:
            return []
        try:
            spans = self._offloads.take(now, final=final)
        except _NO_SENSE:
            self._offloads = None
            raise
        return [_Made(spans, None, executors_hook(self.follower.statistics.executors))]

    def _safely(self, make: Callable[[], list[_Made]]) -> list[_Made]:
        try:
            return make()
        except _NO_SENSE as error:
            self._on_damage(1, error)
            return []

    def _ring(self, ring: RingFollower) -> _Ring:
        known = self._rings.get(ring)
        if known is None:
            statistics, offset = self.follower.statistics, ring.reader.clock_offset_ns
            explanations = RingExplanations(
                ring.number, offset, statistics.context, statistics.sites, self._index, self._stalls.link
            )
            known = self._rings[ring] = _Ring(explanations, self._make_builder(self._site, self._sampling, offset))
        return known

    def _site(self, number: int) -> Site:
        return self.follower.statistics.sites.site(number) or UNKNOWN_SITE

    def _index(self) -> StallIndex:
        return stall_statistics.stalls_of(self.follower.statistics).index


class SpanPipeline:
    """Turns chunks of the record into spans and hands them out."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        notice: Callable[[str], None],
        sinks: list[SpanSink] | None = None,
    ) -> None:
        """``sinks``: where spans go, instead of where the variables say."""
        self.environ = environ
        self.sampling = sampling_of(settings, environ, notice)
        disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        if self.sampling.off or disabled:
            self.sinks: list[SpanSink] = []
        else:
            self.sinks = make_sinks(settings, environ, notice) if sinks is None else sinks
        if self.sinks and sinks is None:
            notice_of_default(settings, environ, self.sampling, notice)
        self._limits = SpanLimits.from_environ(environ, notice) if self.sinks else None
        # Where spans go to OTLP receivers only, and need no limits, they are encoded as they are built.
        senders = [sink for sink in self.sinks if isinstance(sink, OtlpSender)]
        self._make_builder: MakeBuilder = SpanBuilder
        if senders and len(senders) == len(self.sinks) and self._limits is None:
            self._make_builder = functools.partial(
                PackingBuilder,
                max_portion_spans=min(sender.settings.max_request_spans for sender in senders),
                native=native_packer(),
                room=lambda: max(sender.room_bytes for sender in senders),
            )
        # The attributes that resource detectors found for this machine.
        self._detected = detected_attributes(environ, notice) if self.sinks else {}
        self._processes: dict[ProcessFollower, _Process] = {}
        self._notice = notice
        self._told_damage = False

    @property
    def active(self) -> bool:
        """Whether spans go anywhere."""
        return bool(self.sinks)

    def take(self, chunks: Sequence[Chunk], now: float) -> None:
        """Makes and queues the spans of what was read; ``now``: monotonic s. Also called when nothing was read."""
        if not self.sinks:
            return
        read: dict[ProcessFollower, list[Chunk]] = {follower: [] for follower in self._processes}
        for chunk in chunks:
            read.setdefault(chunk.ring.process, []).append(chunk)
        for follower, own in read.items():
            process = self._processes.get(follower)
            if process is None:
                process = _Process(follower, self.sampling, self._make_builder, self._count_damaged)
                self._processes[follower] = process
            for made in process.take(own, now):
                self._send(process, made)

    def followers(self) -> list[ProcessFollower]:
        """The processes for which something may be held back."""
        return list(self._processes)

    def end_process(self, follower: ProcessFollower) -> None:
        """Sends what was held back. Called when the process has ended and was read to its end."""
        process = self._processes.pop(follower, None)
        if process is not None:
            for made in process.finish():
                self._send(process, made)
            for sink in self.sinks:
                sink.forget(process)

    def _send(self, process: _Process, made: _Made) -> None:
        """Limits the spans and hands them to every sink."""
        if not made.spans and made.packed is None:
            return
        resource = process.resource
        if resource is None:
            description = dict(process.follower.statistics.description)
            description.setdefault("pid", process.follower.statistics.pid)
            resource = process.resource = resource_attributes(self.environ, description, self._detected)
        if made.spans:
            spans = made.spans if self._limits is None else self._limits.apply(made.spans)
            try:
                for sink in self.sinks:
                    sink.put(process, resource, spans, made.on_sent)
            except _NO_SENSE as error:
                self._count_damaged(len(spans), error)
        packed = made.packed
        if packed is not None:
            sent = made.on_sent(packed.offered) if made.on_sent is not None and packed.offered else None
            for sink in self.sinks:
                if isinstance(sink, OtlpSender):
                    sink.put_packed(process, resource, packed.portions, sent, packed.refused)

    def _count_damaged(self, count: int, error: Exception) -> None:
        for sink in self.sinks:
            sink.exported.count_dropped(DAMAGED, count)
        if not self._told_damage:
            self._told_damage = True
            self._notice(f"a record makes no sense and gives no spans: {error!r}")

    def flush(self, timeout: float) -> bool:
        """Sends what is queued; waits at most ``timeout`` s in all. Returns whether everything was sent."""
        done = [sink.flush(timeout / len(self.sinks)) for sink in self.sinks]  # every one of them, also after a failure
        return all(done)

    def shutdown(self, timeout: float) -> None:
        """Sends what can be sent within ``timeout`` s. The exporters cannot be used afterwards."""
        for sink in self.sinks:
            sink.shutdown(timeout / len(self.sinks))

    def samples(self) -> Iterator[Sample]:
        """Spans exported and dropped."""
        if not self.sinks:
            return
        yield Sample("traceloop_spans_exported_total", (), sum(sink.exported.sent for sink in self.sinks))
        dropped: dict[str, int] = {}
        for sink in self.sinks:
            for reason, count in sink.exported.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
        for reason, count in dropped.items():
            yield Sample("traceloop_spans_dropped_total", (("reason", reason),), count)


def make_pipeline(
    settings: Settings,
    statistics: Statistics,
    notice: Callable[[str], None],
    environ: Mapping[str, str] | None = None,
    sinks: list[SpanSink] | None = None,
) -> SpanPipeline:
    """A pipeline whose counters are among the statistics' series. ``sinks``: instead of those of the variables."""
    pipeline = SpanPipeline(settings, os.environ if environ is None else environ, notice, sinks)
    statistics.extra.append(pipeline.samples)
    if pipeline.active and settings.requests:
        keep_spanned(statistics)
    return pipeline
