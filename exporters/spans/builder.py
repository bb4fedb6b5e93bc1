"""Builds spans from decoded runs: which are sent, with which ids, parents and links.

The rules are those of docs/telemetry.md, "Spans". What follows from them here:

* Whether an iteration has a span is known when its second handle has run. So the first run of an iteration is held back
  until then, or until the iteration is over.
* A span names a parent or a link only if that span is sent too. For that, the traces of the latest 65,536 runs are
  remembered.
* A run in a trace that the application did not sample makes a span only if it was slow: a root, linked to the
  application's span.
* The spans of slow runs are handed over separately, with their runs: the rest about them (stacks, cause) is known a
  moment later.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from math import inf
from typing import Any, Final, NamedTuple

from traceloop.reading.decoding.decoded import Decoded, SpanContext
from traceloop.reading.decoding.runs import Iteration, Run
from traceloop.record.sites import site_of

from .ids import SpanIds
from .model import ITERATION, REMOTE, Extra, Kind, Link, SiteOf, Span, id_bytes
from .sampling import Sampling
from .slow import NO_SLOW_RUNS, SlowRuns

#: Runs whose trace is remembered, for parents and links.
RUN_MEMORY: Final = 65536


class _Context(NamedTuple):
    """An application's span as the builder needs it. ``sampled``: by the application."""

    trace_id: bytes
    span_id: bytes
    sampled: bool
    kept: bool
    extra: Extra | None


class SpanBuilder:
    """Makes the spans of one loop's ring. Not thread-safe."""

    def __init__(
        self,
        site: SiteOf,
        sampling: Sampling,
        clock_offset_ns: int,
        *,
        ids: SpanIds | None = None,
    ) -> None:
        """``clock_offset_ns``: wall clock minus monotonic clock."""
        self.site = site
        self.sampling = sampling
        self.clock_offset_ns = clock_offset_ns
        self.ids = ids if ids is not None else SpanIds()
        self.thread_id = 0
        self._loop: object = None
        self._thread_name = ""
        self._contexts: dict[int, _Context | None] = {}
        self._kinds: dict[str, dict[float, Kind]] = {}
        self._retiring: list[float] = []
        # By number of a run modulo RUN_MEMORY: the trace in which its span is sent, b"" where it is not.
        self._traces: MutableSequence[bytes] = [b""] * RUN_MEMORY
        self._last_run = 0
        self._held: Run | None = None
        #: Of the slow runs whose spans are still to be made: see ``SlowRuns``.
        self._lowest = inf
        self._active: dict[int, SpanContext | None] = {}
        self._slow: list[tuple[Run, Span]] = []
        # The iteration that the latest run belongs to.
        self._iteration = -1
        self._trace = b""
        self._parent = b""  # its span, if it has one
        self._kept = False
        self._first_start = 0.0
        self._last_end = 0.0
        self._runs = 0

    # -- what spans have in common

    def _kind(self, ident: float, kind: str, task_name: str | None = None) -> Kind:
        site = self.site(site_of(ident))
        attributes: dict[str, Any] = {"asyncio.handle.kind": kind}
        if task_name is not None:
            attributes["asyncio.task.name"] = task_name
        attributes["code.function.name"] = f"{site.module}.{site.qualname}" if site.module else site.qualname
        if site.file:
            attributes["code.file.path"] = site.file
            attributes["code.line.number"] = site.line
        if self.thread_id:
            attributes["thread.id"] = self.thread_id
        attributes["thread.name"] = self._thread_name
        made = Kind(site.label, attributes)
        kinds = self._kinds.setdefault(kind, {})
        if len(kinds) >= 2 * RUN_MEMORY:  # tasks whose ends were lost
            kinds.clear()
        kinds[ident] = made
        return made

    def _add_context(self, context: SpanContext) -> None:
        # A span that is defined again becomes the latest.
        self._contexts.pop(context.number, None)
        if len(self._contexts) >= RUN_MEMORY:
            for number in list(self._contexts)[: RUN_MEMORY // 2]:
                del self._contexts[number]
        self._contexts[context.number] = self._context_of(context)

    def _context_of(self, context: SpanContext) -> _Context | None:
        trace_id, span_id = id_bytes(context.trace_id, 16), id_bytes(context.span_id, 8)
        if not any(trace_id) or not any(span_id):
            return None  # OpenTelemetry's own invalid ids, or no ids
        extra = None
        if context.trace_state or context.flags & REMOTE:
            extra = Extra(trace_state=context.trace_state, remote_parent=bool(context.flags & REMOTE))
        sampled = bool(context.flags & 1)
        kept = sampled and self.sampling.keeps_sampled(trace_id)
        return _Context(trace_id, span_id, sampled, kept, extra)

    # -- for offloads

    def where(self, number: int) -> tuple[bytes, bytes]:
        """Trace and span id of a run whose span is sent; empty where it is not, or was too long ago to know."""
        trace = self._traces[number % RUN_MEMORY] if 0 <= self._last_run - number < RUN_MEMORY else b""
        return (trace, self.ids.run(number)) if trace else (b"", b"")

    def context(self, number: int) -> _Context | None:
        """The application's span of that number."""
        return self._contexts.get(number)

    def reached(self, number: int) -> bool:
        """Whether the run was seen, so that ``where`` knows."""
        return self._last_run >= number

    # -- the spans

    def build(self, decoded: Decoded, slow: SlowRuns = NO_SLOW_RUNS, thread_id: int = 0) -> list[Span]:
        """The spans of a chunk, without those of slow runs, which ``take_slow`` returns.

        ``slow``: which runs of the chunk are slow. ``thread_id``: the native id of the loop's thread.
        """
        out: list[Span] = []
        if self.sampling.off:
            return out
        if decoded.loop is not self._loop:
            self._loop = decoded.loop
            self._thread_name = decoded.loop.thread if decoded.loop is not None else ""
            self._kinds.clear()
        if thread_id != self.thread_id:
            self.thread_id = thread_id
            for kind in [kind for kind in self._kinds if kind != "task"]:
                del self._kinds[kind]
        for context in decoded.spans:
            self._add_context(context)
        for task in decoded.tasks:
            self._kind(task.ident, "task", task.name)
        self._active.update(slow.active)
        # The span of a run of the chunk before may still be missing.
        self._lowest = slow.lowest if self._held is None else min(slow.lowest, self._lowest)
        self._build_decoded(decoded, out)
        # A task's end may be known before its last run is over.
        tasks = self._kinds.get("task", {})
        for ident in self._retiring:
            tasks.pop(ident, None)
        self._retiring = [ident for ident, *_ in (*decoded.finished, *decoded.abandoned)]
        return out

    def _build_decoded(self, decoded: Decoded, out: list[Span]) -> None:
        runs: Sequence[Run] = list(decoded.runs)
        if self._held is not None:
            runs = [self._held, *runs]
            self._held = None
        ended = {iteration.number: iteration for iteration in decoded.iterations}
        self._build_runs(runs, ended, out)
        if runs:
            self._last_run = runs[-1][0] - (self._held is not None)

    def finish(self) -> list[Span]:
        """The spans still held back; the ring says nothing more."""
        out: list[Span] = []
        if self._held is not None:
            held, self._held = self._held, None
            self._build_runs([held], {held[8]: Iteration(held[8], held[1], held[2], 1, 0.0, -1.0)}, out)
        self._end_iteration({}, out)
        return out

    def take_slow(self) -> list[tuple[Run, Span]]:
        """The spans of slow runs that were made since the last call, each with its run."""
        slow, self._slow = self._slow, []
        return slow

    def _build_runs(self, runs: Sequence[Run], ended: dict[int, Iteration], out: list[Span]) -> None:
        append = out.append
        traces = self._traces
        kinds_of = self._kinds
        contexts = self._contexts
        id_of = self.ids.run
        keeps = self.sampling.keeps
        keep_all = self.sampling.bound >> 64 == 1
        offset = self.clock_offset_ns
        lowest, active = self._lowest, self._active
        memory = RUN_MEMORY - 1
        iteration_now = self._iteration
        trace, parent, kept = self._trace, self._parent, self._kept
        last = len(runs) - 1
        previous_end = end_ns = -1
        count = self._runs
        first_start, last_end = self._first_start, self._last_end
        for index, run in enumerate(runs):
            number, start, end, ident, kind_name, delay, scheduler, context_number, iteration, _ = run
            if iteration != iteration_now:
                if parent:
                    self._first_start, self._last_end, self._runs = first_start, last_end, count
                    self._end_iteration(ended, out)
                known = ended.get(iteration)
                if known is not None:
                    has_span = known.callbacks > 1
                elif index < last:
                    has_span = runs[index + 1][8] == iteration
                else:
                    # Whether it is the only one of its iteration will be seen: it is asked for again.
                    self._held = run
                    self._iteration, self._trace, self._parent, self._kept, self._runs = -1, b"", b"", False, 0
                    return
                iteration_now = self._iteration = iteration
                self._trace = trace = self.ids.trace(iteration)
                self._kept = kept = keep_all or keeps(trace)
                self._parent = parent = self.ids.iteration(iteration) if has_span and kept else b""
                first_start = start
                count = 0
            count += 1
            last_end = end
            is_slow = end - start >= lowest and number in active
            if not (kept or context_number or is_slow):
                traces[number & memory] = b""
                continue
            kinds = kinds_of.get(kind_name)
            kind = kinds.get(ident) if kinds is not None else None
            if kind is None:
                kind = self._kind(ident, kind_name)
            if context_number or is_slow:
                context = contexts.get(context_number)
                if context is not None or is_slow:
                    span = self._special(run, kind, context, is_slow)
                    if span is None:
                        traces[number & memory] = b""
                        continue
                    traces[number & memory] = span[1]
                    if is_slow:
                        self._slow.append((run, span))
                    else:
                        append(span)
                    continue
                if not kept:
                    traces[number & memory] = b""
                    continue
            traces[number & memory] = trace
            start_ns = end_ns if start == previous_end else int(start * 1e9) + offset
            end_ns = int(end * 1e9) + offset
            previous_end = end  # type: ignore[assignment]
            link_trace = link_id = b""
            if scheduler and number - scheduler <= memory:
                link_trace = traces[scheduler & memory]
                if link_trace:
                    link_id = id_of(scheduler)
            append(
                (
                    kind,
                    trace,
                    id_of(number),
                    parent,
                    start_ns,
                    end_ns,
                    delay,
                    link_trace,
                    link_id,
                    None,
                )
            )
        self._first_start, self._last_end, self._runs = first_start, last_end, count
        if self._parent and iteration_now in ended:
            self._end_iteration(ended, out)

    def _special(self, run: Run, kind: Kind, context: _Context | None, is_slow: bool) -> Span | None:
        """The span of a run that is slow or has an application's span in its context."""
        number, start, end, _, _, delay, scheduler, _, _, _ = run
        trace, parent, extra = self._trace, self._parent, None
        links: tuple[Link, ...] = ()
        if is_slow:
            # The one active when its stack was taken, else the one in its handle's context.
            found = self._active.pop(number, None)
            context = (self._context_of(found) if found is not None else None) or context
        if context is not None:
            if context.sampled and (context.kept or is_slow):
                trace, parent, extra = context.trace_id, context.span_id, context.extra
            elif is_slow:
                # The application left its trace unsampled: a root, that names it.
                trace, parent = self.ids.trace(-number), b""
                links = (Link(context.trace_id, context.span_id),)
            else:
                return None
        link_trace = link_id = b""
        if scheduler and number - scheduler < RUN_MEMORY:
            link_trace = self._traces[scheduler % RUN_MEMORY]
            if link_trace:
                link_id = self.ids.run(scheduler)
        if is_slow:
            state, remote = (extra.trace_state, extra.remote_parent) if extra is not None else ("", False)
            extra = Extra({"asyncio.slow": True}, links=links, trace_state=state, remote_parent=remote)
        start_ns, end_ns = self._ns(start), self._ns(end)
        return kind, trace, self.ids.run(number), parent, start_ns, end_ns, delay, link_trace, link_id, extra

    def _ns(self, moment: float) -> int:
        return int(moment * 1e9) + self.clock_offset_ns

    def _end_iteration(self, ended: dict[int, Iteration], out: list[Span]) -> None:
        """The span of the iteration that is over, where its runs name one."""
        parent, self._parent = self._parent, b""
        if not parent:
            return
        known = ended.get(self._iteration)
        if known is not None:
            start, end = known.start, max(known.end, self._last_end)
            attributes: dict[str, Any] = {
                "asyncio.iteration.callbacks": known.callbacks,
                "asyncio.poll.duration": known.poll_duration,
            }
            if known.poll_delay >= 0.0:
                attributes["asyncio.poll.delay"] = known.poll_delay
        else:  # its end was lost; its runs name it all the same
            start, end = self._first_start, self._last_end
            attributes = {"asyncio.iteration.callbacks": self._runs}
        out.append(
            (ITERATION, self._trace, parent, b"", self._ns(start), self._ns(end), -1.0, b"", b"", Extra(attributes))
        )
