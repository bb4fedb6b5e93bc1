"""Exemplars: spans that stand for the buckets of the duration and delay histograms, once they have been sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from .spans import ITERATION, Span

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
