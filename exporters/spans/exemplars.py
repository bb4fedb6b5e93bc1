"""Exemplars: spans that stand for the buckets of the duration and delay histograms, once they have been sent.

A sink calls a hook with the spans of a batch. What the hook returns is called when that batch has arrived, from any
thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from .model import ITERATION, Span

if TYPE_CHECKING:
    from traceloop.reading.statistics.executors import ExecutorStatistics
    from traceloop.reading.statistics.loop import LoopStatistics

    from .sinks import SentHook

#: Spans looked at in each batch, beside the longest and the latest: enough to reach the common buckets soon.
_PICKED: Final = 8


def loop_hook(loop: LoopStatistics) -> SentHook:
    """Lets spans of handle runs and iterations stand for the buckets of their loop's histograms."""

    def choose(spans: Sequence[Span]) -> Callable[[], None]:
        chosen = _some(spans)
        # An iteration is as long as its longest run: each gets its own.
        durations = [span[5] - span[4] if span[0] is not ITERATION else 0 for span in spans]
        chosen.append(spans[durations.index(max(durations))])
        chosen.append(max(spans, key=_delay))
        iteration = None
        for span in spans:
            extra = span[9]
            if extra is None:
                continue
            if span[0] is ITERATION:
                if iteration is None or span[5] - span[4] > iteration[5] - iteration[4]:
                    iteration = span
            elif "asyncio.slow" in extra.attributes:
                chosen.append(span)
        if iteration is not None:
            chosen.append(iteration)

        def sent() -> None:
            for span in chosen:
                _offer(span, loop)

        return sent

    return choose


def executors_hook(executors: ExecutorStatistics) -> SentHook:
    """Lets spans of offloads stand for the buckets of their executor's histograms."""

    def choose(spans: Sequence[Span]) -> Callable[[], None]:
        chosen = _some(spans)
        for name in _OFFLOAD_PARTS:
            chosen.append(max(spans, key=lambda span: _part(span, name)))

        def sent() -> None:
            for span in chosen:
                _offer_offload(span, executors)

        return sent

    return choose


def _some(spans: Sequence[Span]) -> list[Span]:
    return list(spans[:: max(1, len(spans) // _PICKED)])


_delay: Final = itemgetter(6)


def _offer(span: Span, loop: LoopStatistics) -> None:
    kind, trace_id, span_id, _, start, end, delay, _, _, _ = span
    when = end / 1e9
    if kind is ITERATION:
        loop.iteration_durations.set_exemplar(trace_id.hex(), span_id.hex(), (end - start) / 1e9, when)
        return
    name = kind.attributes.get("asyncio.handle.kind")
    if name is None:
        return
    for family, value in ((loop.callbacks.durations, (end - start) / 1e9), (loop.callbacks.delays, delay)):
        histogram = family.get(name)
        if histogram is not None and value >= 0.0:
            histogram.set_exemplar(trace_id.hex(), span_id.hex(), value, when)


#: Attributes of an offload's span, in the order of ``ExecutorTotals.histograms``.
_OFFLOAD_PARTS: Final = (
    "asyncio.executor.queue.duration",
    "asyncio.executor.run.duration",
    "asyncio.executor.return.delay",
)


def _part(span: Span, name: str) -> float:
    extra = span[9]
    value: float = extra.attributes.get(name, -1.0) if extra is not None else -1.0
    return value


def _offer_offload(span: Span, executors: ExecutorStatistics) -> None:
    extra = span[9]
    totals = executors.labelled(extra.attributes["asyncio.executor.name"]) if extra is not None else None
    if totals is None:
        return
    for name, histogram in zip(_OFFLOAD_PARTS, totals.histograms, strict=True):
        value = _part(span, name)
        if value >= 0.0:
            histogram.set_exemplar(span[1].hex(), span[2].hex(), value, span[5] / 1e9)
