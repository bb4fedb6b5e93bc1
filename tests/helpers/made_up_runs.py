"""Made up records as they are decoded: with everything that a span depends on."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from traceloop.reading.decoding.decoded import Decoded, LoopInfo, NewTask, SpanContext
from traceloop.reading.decoding.runs import Iteration
from traceloop.record.layout import SITE_LIMIT
from traceloop.record.sites import Site

LOOP = LoopInfo(1, "MainThread", 0.0)
OFFSET = 1_790_000_000 * 10**9
TRACE = "0af7651916cd43dd8448eb211c80319c"


def site(number: int) -> Site:
    return Site("app", f"site{number}", "/app.py", number)


def record(generator: random.Random, start: float, runs: int) -> Iterator[Decoded]:
    """Chunks of a record: iterations of any length, tasks, contexts of every sort, slow runs, unknown delays."""
    when, number, iteration = start, 0, 0
    decoded = Decoded(LOOP)
    contexts = [
        SpanContext(number, TRACE[:-1] + f"{number % 3:x}", f"{number:016x}", flags, state)
        for number, (flags, state) in enumerate(itertools.product((0, 1, 0x201), ("", "a=b")), 1)
    ]
    decoded.spans = [*contexts, SpanContext(99, "x", "y", 1, "")]
    alive: list[float] = []
    while number < runs:
        iteration += generator.choice((1, 1, 1, 2))
        first, begun = number, when
        for _ in range(generator.choice((0, 1, 1, 2, 3, 30))):
            number += 1
            length = generator.choice((0.0, 1e-6, generator.random() / 1000, generator.choice((0.001, 0.2))))
            ident, kind = float(generator.randrange(1, 5)), generator.choice(("soon", "timer", "reader"))
            if generator.random() < 0.3:
                ident, kind = float(generator.randrange(1, 4) + SITE_LIMIT * number), "task"
                decoded.tasks.append(NewTask(ident, f"Task-{number}", number, when, 0, 0.0, True))
                alive.append(ident)
            elif alive and generator.random() < 0.5:
                ident, kind = generator.choice(alive), "task"
                if generator.random() < 0.3:
                    alive.remove(ident)
                    decoded.finished.append((ident, 1, when, number))
            delay = generator.choice((-1.0, 0.0, generator.random()))
            scheduler = generator.choice((0, 0, max(0, number - generator.randrange(1, 9))))
            context = generator.choice((0, 0, 0, *range(1, 7), 99, 50))
            decoded.runs.append((number, when, when + length, ident, kind, delay, scheduler, context, iteration, 0))
            when += length + generator.choice((0.0, 0.0, 1e-4))
        if generator.random() < 0.95:
            decoded.iterations.append(
                Iteration(iteration, begun, when, number - first, generator.random(), generator.choice((-1.0, 0.5)))
            )
        when += 1e-3
        if generator.random() < 0.2:
            yield decoded
            decoded = Decoded(LOOP)
    yield decoded


def cut(chunks: Iterator[Decoded], generator: random.Random) -> Iterator[Decoded]:
    """The same chunks, some with the end of their last iteration in the next one."""
    late: list[Iteration] = []
    for decoded in chunks:
        decoded.iterations[:0] = late
        late = []
        if decoded.iterations and generator.random() < 0.5:
            late = [decoded.iterations.pop()]
        yield decoded
