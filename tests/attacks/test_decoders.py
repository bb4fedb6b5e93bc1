"""Batches that check and make no sense, by the million, through each decoder: none raises, grows, or tells nonsense.

``TRACELOOP_BATCHES=10000000`` decodes so many by each; the attack on whole records (test_damaged_records.py) has fewer,
and goes on through statistics, spans and reports.
"""

from __future__ import annotations

import math
import os
import random
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.attacks.test_damaged_records import KINDS, PROGRAM, SPECIAL
from tests.helpers.paths import ROOT
from traceloop.reading.decoding.ring_reader import Batch, RingReader
from traceloop.record import layout

Make = Callable[[], Any]


def decoders() -> dict[str, Make]:
    """What makes a stream, by name: plain Python's, and C's where it was built."""
    try:
        from traceloop.reading.decoding import choose
        from traceloop.reading.decoding.decoder import PythonModel
        from traceloop.reading.decoding.native_model import NativeModel
        from traceloop.reading.decoding.stream import LoopStream
    except ImportError:
        from traceloop.reading.decoding.decoder import LoopStream  # type: ignore[no-redef,attr-defined]

        return {"python": LoopStream}
    found: dict[str, Make] = {"python": lambda: LoopStream(model=PythonModel)}
    module = choose.load_native()
    if module is not None:
        found["c"] = lambda: LoopStream(model=lambda: NativeModel(module))
    return found


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> list[Batch]:
    """The batches of a real record, of its loop and of its other threads."""
    path = tmp_path_factory.mktemp("record")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OTEL_PYTHON_TRACELOOP_RUN_DIR": str(path)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM)], env=environ, capture_output=True)
    found = [batch for ring in sorted(path.rglob("*.ring")) for batch in RingReader(str(ring)).read(final=True)]
    assert sum(len(batch.records) for batch in found) > 300
    return found


class Mutations:
    """Draws batches of some genuine records each, of which some are changed. All that is drawn comes from the seed."""

    def __init__(self, genuine: list[Batch], seed: int) -> None:
        self._random = random.Random(seed)
        self._doubles = [value for batch in genuine for value in batch.records]
        genuine_text = layout.unpack_text(b"".join(batch.text for batch in genuine))
        self._text = [*genuine_text, "", "[]", "{}", '{"kind":1}', "[" * 10_000]
        self._values = [*SPECIAL, *KINDS, *(layout.OUTCOME * n for n in range(8)), 1e9, 65536.0, 65537.0, 1e6]
        self._values = [value for value in self._values if math.isfinite(value)]  # others the reader takes out

    def batches(self, count: int) -> Iterator[list[Batch]]:
        """So many, fifty at a time."""
        draw, below = self._random.random, self._random.randrange
        sequence = before = 0
        now = self._doubles[0]
        for _ in range(count // 50):
            out = []
            for _ in range(50):
                at = 3 * below(len(self._doubles) // 3 - 8)
                records = self._doubles[at : at + 3 * below(1, 9)]
                for _ in range(below(4)):
                    records[below(len(records))] = self._values[below(len(self._values))]
                if draw() < 0.05:
                    self._random.shuffle(records)
                text = [self._text[below(len(self._text))] for _ in range(below(4))] if draw() < 0.5 else []
                dropped = below(1000) if draw() < 0.02 else 0
                sequence += 1
                before += len(records) // 3 + dropped
                now = now + 1e-3 if draw() < 0.98 else abs(self._values[below(len(self._values))]) % 2.0**33
                out.append(Batch(sequence, records, layout.pack_text(text), before, now, dropped, dropped > 0))
            yield out


def check(decoded: Any, records: int) -> None:
    """Whether what was decoded can be counted and drawn by whoever comes next."""
    assert len(decoded.runs) <= records + 2
    for number, start, end, ident, kind, delay, scheduler, span, iteration, outcome in decoded.runs:
        assert number > 0 and start <= end and ident > 0.0 and delay >= -1.0 and scheduler < number
        assert math.isfinite(end) and math.isfinite(delay) and kind and iteration >= 0 and outcome >= 0, span
    for number, start, end, callbacks, _, _ in decoded.iterations:
        assert number >= 0 and start <= end and math.isfinite(end - start) and callbacks >= 0
    assert 0.0 <= decoded.active_s < math.inf and 0.0 <= decoded.idle_s < math.inf


def attack(make: Make, genuine: list[Batch], count: int) -> None:
    stream = make()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = 0
    for number, batches in enumerate(Mutations(genuine, count).batches(count)):
        if number % 20 == 0:
            check(stream.finish(), 2)
            stream = make()
        records = sum(len(batch.records) // 3 for batch in batches)
        found = stream.feed(batches)
        for decoded in found:
            check(decoded, records)
        total += sum(len(decoded.runs) for decoded in found)
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown) >> 10
    print(f"{count:,} batches, {total:,} runs, {used} MiB more")
    assert total > count // 2 and used < 500


@pytest.mark.parametrize("name", decoders())
def test_no_batch_fails_a_decoder(genuine: list[Batch], name: str) -> None:
    attack(decoders()[name], genuine, 20_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", decoders())
def test_nor_does_one_of_ten_million(genuine: list[Batch], name: str) -> None:
    attack(decoders()[name], genuine, int(os.environ.get("TRACELOOP_BATCHES", "10000000")))


@pytest.mark.skipif("c" not in decoders(), reason="the decoder in C was not built")
def test_the_decoders_agree_on_nonsense(genuine: list[Batch]) -> None:
    both = [make() for make in decoders().values()]
    for batches in Mutations(genuine, 1).batches(20_000):
        rows = [
            [
                (list(each.runs), [tuple(row) for row in each.iterations], each.active_s, each.idle_s)
                for each in stream.feed(batches)
            ]
            for stream in both
        ]
        assert rows[0] == rows[1]


