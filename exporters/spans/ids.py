"""Ids of spans and traces, made from the numbers that the record has anyway.

A random id for each span would cost more than the rest of the span (``os.urandom`` 0.4 us). So each ring that is read
gets random bases, and counts from there: within a ring no two ids are the same, and between rings, processes and runs
they are as unlikely to meet as random ones.

An id is the eight bytes of a double. Its base has a random sign, exponent and mantissa, and a number moves it by as
many of its own last places: that is exact, stays within the exponent for 2**51 numbers, and one floating-point addition
with the packing of a double costs a third of what an integer of 64 bits takes. A trace's id is a random prefix and such
a double, whose mantissa goes forward by an odd constant, modulo 2**52: it visits all of them, and its low bytes, which
stand first, are evenly spread over any range. The ratio samplers of other programs look at these.
"""

from __future__ import annotations

import os
from math import ldexp
from struct import Struct
from typing import Final

#: What a trace's mantissa goes forward by: 2**52 divided by the golden ratio, made odd.
STRIDE: Final = 0x9E3779B97F4A7
_MANTISSA: Final = (1 << 52) - 1
pack_id: Final = Struct("<d").pack


def _exponent(word: int) -> int:
    """A random one that is far from where doubles end."""
    return 200 + (word >> 52) % 1600


class SpanIds:
    """The ids of one ring. Numbers are counts from 1; the results are 8 and 16 bytes as they go on the wire.

    The bases and units are for who makes many ids: ``run(number)`` is ``pack_id(run_base + number * run_unit)``, and
    the end of ``trace(iteration + 1)`` is that of ``trace(iteration)`` as a double, plus ``trace_step``, less
    ``trace_span`` where it would reach ``trace_end``.
    """

    __slots__ = (
        "_other_base",
        "_other_unit",
        "iteration_base",
        "iteration_unit",
        "prefix",
        "run_base",
        "run_unit",
        "trace_end",
        "trace_first",
        "trace_span",
        "trace_step",
    )

    def __init__(self, random: bytes | None = None) -> None:
        """``random``: 40 bytes, the operating system's by default."""
        random = os.urandom(40) if random is None else random
        words = [int.from_bytes(random[start : start + 8], "big") for start in range(0, 40, 8)]
        # The first half of every trace id of the ring.
        self.prefix = (words[0] or 1).to_bytes(8, "big")
        self.run_base, self.run_unit = _base(words[1])
        self.iteration_base, self.iteration_unit = _base(words[2])
        self._other_base, self._other_unit = _base(words[3])
        self.trace_first = words[4]
        unit = ldexp(1.0, _exponent(words[4]) - 1075)
        self.trace_span = (_MANTISSA + 1) * unit
        self.trace_end = 2 * self.trace_span
        self.trace_step = STRIDE * unit

    def run(self, number: int) -> bytes:
        """The span id of a handle run."""
        return pack_id(self.run_base + number * self.run_unit)

    def iteration(self, number: int) -> bytes:
        """The span id of an iteration."""
        return pack_id(self.iteration_base + number * self.iteration_unit)

    def other(self, number: int) -> bytes:
        """The span id of anything else that is counted (offloads, growth)."""
        return pack_id(self._other_base + number * self._other_unit)

    def trace(self, iteration: int) -> bytes:
        """The id of the trace that an iteration begins."""
        return self.prefix + pack_id(self.trace_value(iteration))

    def trace_value(self, iteration: int) -> float:
        """The end of that id, as a double."""
        mantissa = (self.trace_first + iteration * STRIDE) & _MANTISSA
        return self.trace_span + mantissa * (self.trace_step / STRIDE)


def _base(word: int) -> tuple[float, float]:
    # The mantissa's first bit is 0: so much can be added before the exponent changes.
    unit = ldexp(1.0, _exponent(word) - 1075)
    base = ((1 << 52) + (word & (_MANTISSA >> 1))) * unit
    return (-base, -unit) if word >> 51 & 1 else (base, unit)
