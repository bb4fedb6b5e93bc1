"""From what was read of a run to the exporters: spans of every process, to every exporter that was asked for.

Which exporters: those of OTEL_TRACES_EXPORTER; ``otlp`` where an OTLP endpoint was named; else none, since nobody is
dialled unasked. Called by the reader's thread alone; the exporters send in threads of their own.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from traceloop.reading.decoding.decoded import SpanContext
from traceloop.reading.follower import ProcessFollower, RingFollower, Stretch
from traceloop.reading.stalls import parts as stall_statistics
from traceloop.reading.stalls.index import StallIndex
from traceloop.reading.statistics.parts import Sample
from traceloop.reading.statistics.run import Statistics
from traceloop.record.sites import Site
from traceloop.settings import Settings

from .otlp.packing import PackingBuilder
from .otlp.sender import OtlpSender
from .span_exporters import make_sinks, sampling_of
from .spans.builder import SpanBuilder
from .spans.exemplars import executors_hook, loop_hook
from .spans.heap_growth import growth_span
from .spans.limits import SpanLimits
from .spans.model import Link, ProcessNames, Span, SpanEvent
from .spans.offloads import OffloadSpans
from .spans.resource import detected_attributes, resource_attributes
from .spans.sinks import DAMAGED, SentHook, SpanSink
from .spans.stalls import StallSpans

_UNKNOWN: Final = Site("", "unknown", "", 0)
_MAX_PROCESSES: Final = 10_000


class _Process:
    """The spans of one process."""

    def __init__(self, pipeline: SpanPipeline, follower: ProcessFollower) -> None:
        self.pipeline = pipeline
        self.follower = follower
        self.rings: dict[RingFollower, SpanBuilder] = {}
        #: What tells the loop's histograms of spans that have arrived.
        self.hooks: dict[RingFollower, SentHook] = {}
        self.offloads: OffloadSpans | None = None
        self.stalls = StallSpans(follower, self._index, self._site)
        self._resource: dict[str, Any] | None = None

    @property
    def resource(self) -> dict[str, Any]:
        if self._resource is None:
            description = dict(self.follower.statistics.description)
            description.setdefault("pid", self.follower.statistics.pid)
            self._resource = resource_attributes(self.pipeline.environ, description, self.pipeline.detected)
        return self._resource

    def _site(self, number: int) -> Site:
        return self.follower.statistics.sites.site(number) or _UNKNOWN

    def _index(self) -> StallIndex:
        return stall_statistics.stalls_of(self.follower.statistics).index

    def _details(self, ring: RingFollower) -> Callable[[float, float], tuple[Any, tuple[SpanEvent, ...], bool]]:
        offset = ring.reader.clock_offset_ns

        def details(start: float, end: float) -> tuple[Any, tuple[SpanEvent, ...], bool]:
            attributes, stacks, complete = self._index().span_details(ring.number, start, end)
            for name, value in attributes.items():
                if type(value) is int:  # seconds, as JSON had them: one type for one attribute
                    attributes[name] = float(value)
            events = tuple(SpanEvent("asyncio.stack", int(at * 1e9) + offset, each) for at, each in stacks)
            return attributes, events, complete

        return details

    def builder_of(self, ring: RingFollower) -> SpanBuilder:
        builder = self.rings.get(ring)
        if builder is None:
            statistics = self.follower.statistics.context
            index_of = self._index

            def active(start: float, end: float) -> SpanContext | None:
                return index_of().active_span(ring.number, start)

            def limit(start: float, end: float, label: str, threshold: float) -> float:
                return index_of().limit(ring.number, start, end, label, threshold)

            def stall(start: float, end: float) -> Link | None:
                return self.stalls.link(ring.number, start, end)

            names = ProcessNames(
                self._site,
                statistics.threshold_for,
                statistics.lowest_threshold,
                self._details(ring),
                active,
                limit,
                stall,
            )
            make = PackingBuilder if self.pipeline.packs else SpanBuilder
            builder = self.rings[ring] = make(names, self.pipeline.sampling, ring.reader.clock_offset_ns)
        return builder

    def offloads_of(self, ring: RingFollower) -> OffloadSpans:
        if self.offloads is None:
            names = ProcessNames(self._site)
            self.offloads = OffloadSpans(names, self.pipeline.sampling, ring.reader.clock_offset_ns)
        return self.offloads


class SpanPipeline:
    """Turns stretches of the record into spans and hands them out."""

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
        self._limits = SpanLimits.from_environ(environ, notice) if self.sinks else None
        #: Whether every span only goes to OTLP receivers as it is, so that it is packed at once.
        self.packs = self._limits is None and all(isinstance(sink, OtlpSender) for sink in self.sinks)
        #: What resource detectors say of this machine.
        self.detected = detected_attributes(environ, notice) if self.sinks else {}
        self._processes: dict[ProcessFollower, _Process] = {}
        self._notice = notice
        self._told_damage = False

    @property
    def active(self) -> bool:
        """Whether spans go anywhere."""
        return bool(self.sinks)

    def take(self, stretches: Sequence[Stretch], now: float) -> None:
        """Makes and queues the spans of what was read; ``now``: monotonic s. Also to be called when nothing was."""
        if not self.sinks:
            return
        for stretch in stretches:
            process = self._process(stretch.ring.process)
            try:
                self._take_stretch(process, stretch)
            except (ValueError, OverflowError, ArithmeticError, struct.error) as error:
                # A record that passed its checksum and still makes no sense: times before the epoch, infinities.
                process.rings.pop(stretch.ring, None)
                self._count_damaged(len(stretch.decoded.runs), error)
        for process in self._processes.values():
            late: list[Span] = []
            offloads: list[Span] = []
            try:
                for ring, builder in process.rings.items():
                    slow = builder.release(now)
                    if slow:
                        self._put(process, slow, process.hooks.get(ring))
                late = process.stalls.take()
                if late:
                    self._put(process, late)
                if process.offloads is not None:
                    offloads = process.offloads.take(now)
                    self._put_offloads(process, offloads)
            except (ValueError, OverflowError, ArithmeticError, struct.error) as error:
                process.offloads = None
                self._count_damaged(len(late) + len(offloads) or 1, error)

    def _take_stretch(self, process: _Process, stretch: Stretch) -> None:
        decoded = stretch.decoded
        builder = None
        if stretch.ring.is_loop:
            builder = process.builder_of(stretch.ring)
            threshold = stretch.threshold if stretch.threshold > 0.0 else None
            spans = builder.build(decoded, threshold, stretch.thread_id)
            if stretch.loop is not None:
                process.hooks[stretch.ring] = loop_hook(stretch.loop)
            if spans:
                self._put(process, spans, process.hooks.get(stretch.ring))
            self._put_packed(process, builder, process.hooks.get(stretch.ring))
        if decoded.offloads or decoded.threads or decoded.executors:
            process.offloads_of(stretch.ring).feed(decoded, builder)
        for event in decoded.events:
            span = growth_span(event, stretch.ring.reader.clock_offset_ns)
            if span is not None:
                self._put(process, [span])

    def _count_damaged(self, count: int, error: Exception) -> None:
        for sink in self.sinks:
            sink.exported.count_dropped(DAMAGED, count)
        if not self._told_damage:
            self._told_damage = True
            self._notice(f"a record makes no sense and gives no spans: {error!r}")

    def _process(self, follower: ProcessFollower) -> _Process:
        process = self._processes.get(follower)
        if process is None:
            process = self._processes[follower] = _Process(self, follower)
        return process

    def _put(self, process: _Process, spans: list[Span], on_sent: SentHook | None = None) -> None:
        if self._limits is not None:
            spans = self._limits.apply(spans)
        for sink in self.sinks:
            sink.put(process, process.resource, spans, on_sent)

    def _put_packed(self, process: _Process, builder: SpanBuilder, on_sent: SentHook | None) -> None:
        packed = builder.take_packed() if isinstance(builder, PackingBuilder) else None
        if packed is None:
            return
        sent = on_sent(packed.offered) if on_sent is not None and packed.offered else None
        for sink in self.sinks:
            if isinstance(sink, OtlpSender):
                sink.put_packed(process, process.resource, packed.pieces, sent)

    def _put_offloads(self, process: _Process, spans: list[Span]) -> None:
        if spans:
            self._put(process, spans, executors_hook(process.follower.statistics.executors))

    def end_process(self, follower: ProcessFollower) -> None:
        """The process is over and read: what was held back goes out."""
        process = self._processes.pop(follower, None)
        if process is None:
            return
        spans: list[Span] = []
        try:
            for ring, builder in process.rings.items():
                held = builder.finish()
                if held:
                    self._put(process, held, process.hooks.get(ring))
                self._put_packed(process, builder, process.hooks.get(ring))
            if process.offloads is not None:
                spans = process.offloads.take(0.0, final=True)
                self._put_offloads(process, spans)
        except (ValueError, OverflowError, ArithmeticError, struct.error) as error:
            self._count_damaged(len(spans) or 1, error)
        for sink in self.sinks:
            sink.forget(process)

    def flush(self, timeout: float) -> None:
        """Sends what is queued; waits at most that many seconds in all."""
        for sink in self.sinks:
            sink.flush(timeout / len(self.sinks))

    def shutdown(self, timeout: float) -> None:
        """Sends what can be sent in that many seconds; the exporters are of no use afterwards."""
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
    return pipeline
