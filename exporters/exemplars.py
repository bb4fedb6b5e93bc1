"""Exemplars: spans that stand for the buckets of the duration and delay histograms, once they have been sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from .spans import Span

if TYPE_CHECKING:
    from traceloop.reading.loop_statistics import LoopStatistics

#: Spans looked at in each batch, beside the longest and the latest: enough to reach the common buckets soon.
_PICKED: Final = 8


class Exemplars:
    """The exemplars that one batch of spans has to offer to a loop's histograms."""

    @staticmethod
    def hook(loop: LoopStatistics) -> Callable[[Sequence[Span]], Callable[[], None]]:
        """What a sink calls with the spans of a batch, and then, from any thread, when that batch has arrived."""

        def choose(spans: Sequence[Span]) -> Callable[[], None]:
            chosen = list(spans[:: max(1, len(spans) // _PICKED)])
            chosen.append(max(spans, key=_duration))
            chosen.append(max(spans, key=_delay))

            def sent() -> None:
                for span in chosen:
                    _offer(span, loop)

            return sent

        return choose


def _duration(span: Span) -> int:
    return span[5] - span[4]


def _delay(span: Span) -> float:
    return span[6]


def _offer(span: Span, loop: LoopStatistics) -> None:
    kind, trace_id, span_id, _, start, end, delay, _, _, _ = span
    name = kind.attributes.get("asyncio.handle.kind")
    if name is None:
        return
    when = end / 1e9
    for family, value in ((loop.callbacks.durations, (end - start) / 1e9), (loop.callbacks.delays, delay)):
        histogram = family.get(name)
        if histogram is not None and value >= 0.0:
            histogram.set_exemplar(trace_id.hex(), span_id.hex(), value, when)
