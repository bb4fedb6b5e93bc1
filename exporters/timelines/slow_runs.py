"""The slow runs of a chunk with what is known of them, for every timeline."""

from __future__ import annotations

from collections.abc import Iterator

from traceloop.reading.decoding.runs import Run
from traceloop.reading.follower import Chunk
from traceloop.reading.stalls.model import StackTaken, StallInfo
from traceloop.reading.stalls.parts import stalls_of


def slow_runs(chunk: Chunk) -> Iterator[tuple[Run, StallInfo]]:
    """Each slow run with its stacks, culprit and cause. Its stacks were written while it lasted: they have been read
    before it.
    """
    if not chunk.slow:
        return
    index, ring = stalls_of(chunk.ring.process.statistics).index, chunk.ring.number
    for slow in chunk.slow:
        _, start, end, ident, *_ = slow.run
        if end - start >= index.limit(ring, start, end, index.label(ident), chunk.threshold):
            info = index.lookup(ring, start, end)
            if info is not None:
                yield slow.run, info


def culprit_line(info: StallInfo) -> str:
    """``function (file:line)`` of the culprit where a stack names it, else the name of the callback."""
    for stack in info.stacks:
        for file, line, module, qualname in reversed([*stack.awaiting, *stack.frames]):
            if f"{module}.{qualname}" == info.culprit:
                return f"{info.culprit} ({file}:{line})"
    return info.callback


def stack_text(stack: StackTaken, start: float) -> str:
    """The stack as Python prints one, with the moment at which it was taken."""
    return f"after {stack.at - start:.3f} s\n{stack.text}"
