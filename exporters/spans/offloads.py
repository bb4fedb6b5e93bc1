"""Spans of offloads: from the submit in a loop to the delivery of the result, with the worker's part in between.

Submit and delivery come through the loop's ring, start and end through the process ring, in no certain order. So each
offload is put together here, and its span is made a moment after its delivery was read.
"""

from __future__ import annotations

from typing import Any, Final

from traceloop.reading.decoding.decoded import Decoded
from traceloop.record.sites import site_of

from .builder import SpanBuilder
from .ids import SpanIds
from .model import Extra, Kind, Link, SiteOf, Span
from .sampling import Sampling

_OUTCOMES: Final = {1: "result", 2: "exception", 3: "cancelled"}
_MAX_OPEN: Final = 100_000
_MAX_WORKERS: Final = 4096
#: How long the worker's part of a delivered offload is waited for, s.
_WAIT_SECONDS: Final = 0.5


class _OpenOffload:
    __slots__ = (
        "builder", "context", "delivered", "executor", "finish", "ident", "outcome", "run", "start", "submit", "worker"
    )  # fmt: skip

    def __init__(self) -> None:
        self.builder: SpanBuilder | None = None
        self.submit = self.start = self.finish = self.delivered = 0.0
        self.executor = self.run = self.context = self.outcome = self.worker = 0
        self.ident = 0.0


class OffloadSpans:
    """Puts the offloads of one process together. Not thread-safe."""

    def __init__(self, site_of_number: SiteOf, sampling: Sampling, clock_offset_ns: int) -> None:
        self._site = site_of_number
        self._sampling = sampling
        self._clock_offset_ns = clock_offset_ns
        self._ids = SpanIds()
        self._open: dict[int, _OpenOffload] = {}
        self._delivered: list[int] = []
        self._executors: dict[int, str] = {}
        self._workers: dict[int, tuple[str, int]] = {}
        self._kinds: dict[int, Kind] = {}

    def feed(self, decoded: Decoded, builder: SpanBuilder | None) -> None:
        """Takes in a chunk of one ring. ``builder``: that of the ring; None for the process ring."""
        for executor in decoded.executors:
            self._executors[executor.number] = executor.label
        for worker in decoded.threads:
            if len(self._workers) >= _MAX_WORKERS:
                self._workers.clear()
            self._workers[worker.number] = (worker.name, worker.thread_id)
        for step in decoded.offloads:
            offload = self._open.get(step.number)
            if offload is None:
                if len(self._open) >= _MAX_OPEN:  # results that were never asked for
                    del self._open[next(iter(self._open))]
                offload = self._open[step.number] = _OpenOffload()
            if step.step == "submit":
                offload.submit, offload.executor, offload.ident = step.when, step.executor, step.ident
                offload.run, offload.context, offload.builder = step.run, step.context, builder
            elif step.step == "start":
                offload.start, offload.worker = step.when, step.worker
            elif step.step == "finish":
                offload.finish, offload.outcome = step.when, step.outcome
            elif step.step == "deliver":
                offload.delivered = step.when
                self._delivered.append(step.number)

    def take(self, now: float, *, final: bool = False) -> list[Span]:
        """The spans of offloads that were delivered; ``now``: monotonic s."""
        out: list[Span] = []
        waiting: list[int] = []
        for number in self._delivered:
            offload = self._open.get(number)
            if offload is None or not offload.submit:
                self._open.pop(number, None)
                continue
            known = bool(offload.finish) and (
                offload.builder is None or not offload.run or offload.builder.reached(offload.run)
            )
            if not (known or final or now - offload.delivered > _WAIT_SECONDS):
                waiting.append(number)
                continue
            del self._open[number]
            span = self._span(number, offload)
            if span is not None:
                out.append(span)
        self._delivered = waiting
        return out

    def _span(self, number: int, offload: _OpenOffload) -> Span | None:
        builder = offload.builder
        trace = run_trace = run_id = parent = b""
        trace_state, remote, kept = "", False, False
        if builder is not None:
            run_trace, run_id = builder.where(offload.run)
            context = builder.context(offload.context)
            if context is not None:
                if not context.kept:
                    return None
                trace, parent, kept = context.trace_id, context.span_id, True
                if context.extra is not None:
                    trace_state, remote = context.extra.trace_state, context.extra.remote_parent
        if not trace:
            trace, parent = run_trace, run_id
        if not trace:  # the run that made it is not known: a trace of its own
            trace = self._ids.trace(number)
        if self._sampling.off or not (kept or self._sampling.keeps(trace)):
            return None
        links = (Link(run_trace, run_id),) if run_trace else ()
        extra = Extra(self._attributes(offload), links=links, trace_state=trace_state, remote_parent=remote)
        start, end = self._ns(offload.submit), self._ns(max(offload.submit, offload.delivered))
        return self._kind(offload.ident), trace, self._ids.other(number), parent, start, end, -1.0, b"", b"", extra

    def _attributes(self, offload: _OpenOffload) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "asyncio.executor.name": self._executors.get(offload.executor, str(offload.executor))
        }
        if offload.start:
            attributes["asyncio.executor.queue.duration"] = max(0.0, offload.start - offload.submit)
            if offload.finish:
                attributes["asyncio.executor.run.duration"] = max(0.0, offload.finish - offload.start)
        if offload.finish:
            attributes["asyncio.executor.return.delay"] = max(0.0, offload.delivered - offload.finish)
        outcome = _OUTCOMES.get(offload.outcome)
        if outcome is not None and outcome != "result":
            attributes["asyncio.executor.outcome"] = outcome
        worker = self._workers.get(offload.worker)
        if worker is not None:
            attributes["thread.name"], attributes["thread.id"] = worker
        return attributes

    def _kind(self, ident: float) -> Kind:
        number = site_of(ident)
        kind = self._kinds.get(number)
        if kind is None:
            site = self._site(number)
            name = f"{site.module}.{site.qualname}" if site.module else site.qualname
            attributes: dict[str, Any] = {"code.function.name": name}
            if site.file:
                attributes["code.file.path"] = site.file
                attributes["code.line.number"] = site.line
            kind = self._kinds[number] = Kind(site.label, attributes)
        return kind

    def _ns(self, moment: float) -> int:
        return int(moment * 1e9) + self._clock_offset_ns
