"""Ids of spans and traces, made from the numbers that the record has anyway.

A random id for each span would cost more than the rest of the span (``os.urandom`` 0.4 us). So each ring that is read
gets random bases. A span's id is its base, exclusive-or its number: within a ring no two are the same, and between
rings, processes and runs they are as unlikely to meet as random ones. A trace's id is its base plus the number times
an odd constant, modulo 2**64, which is as unique (multiplying by an odd number permutes the 64-bit integers) and lies
evenly spread over the whole range. The ratio samplers of other programs rely on that: they look at its last bytes.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import Final

MASK: Final = (1 << 64) - 1
#: 2**64 divided by the golden ratio, made odd: consecutive multiples lie as far from each other as they can.
STRIDE: Final = 0x9E3779B97F4A7C15
pack_id: Final = Struct(">Q").pack


class SpanIds:
    """The ids of one ring. Numbers are counts from 1; the results are 8 and 16 bytes as they go on the wire."""

    __slots__ = ("iteration_base", "other_base", "prefix", "run_base", "trace_base")

    def __init__(self, random: bytes | None = None) -> None:
        """``random``: 40 bytes, the operating system's by default."""
        random = os.urandom(40) if random is None else random
        words = [int.from_bytes(random[start : start + 8], "big") for start in range(0, 40, 8)]
        # The first half of every trace id of the ring; never all zero, which would make an invalid id possible.
        self.prefix = pack_id(words[0] or 1)
        # The highest bit set: no number turns an id into the invalid one, zero.
        self.run_base, self.iteration_base, self.other_base = (word | 1 << 63 for word in words[1:4])
        self.trace_base = words[4]

    def run(self, number: int) -> bytes:
        """The span id of a handle run."""
        return pack_id(self.run_base ^ number)

    def iteration(self, number: int) -> bytes:
        """The span id of an iteration."""
        return pack_id(self.iteration_base ^ number)

    def other(self, number: int) -> bytes:
        """The span id of anything else that is counted (offloads, growth)."""
        return pack_id(self.other_base ^ number)

    def trace(self, iteration: int) -> bytes:
        """The id of the trace that an iteration begins."""
        return self.prefix + pack_id((self.trace_base + iteration * STRIDE) & MASK)


class Sampling:
    """Which traces are kept: ``all``, ``slow`` (none but slow runs), ``off``, or a ratio of traces from 0 to 1.

    A ratio is decided by the trace id as OpenTelemetry's TraceIdRatioBased does it, so that a kept trace is whole,
    whichever process looks at it.
    """

    __slots__ = ("bound", "off")

    def __init__(self, spans: str | float) -> None:
        self.off = spans == "off"
        if spans == "all":
            self.bound = 1 << 64
        elif isinstance(spans, str):
            self.bound = 0
        else:
            self.bound = round(spans * (1 << 64))

    def keeps(self, trace_id: bytes) -> bool:
        """Whether ordinary spans of this trace are exported."""
        return self.bound >> 64 == 1 or int.from_bytes(trace_id[8:], "big") < self.bound
