"""The packer in C makes the bytes that the packer in Python makes of the same runs, and leaves the same behind."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.made_up_runs import LOOP, OFFSET, cut, record, site
from traceloop.exporters.otlp.encoder import encode_spans
from traceloop.exporters.otlp.packing import MAX_PORTION_BYTES, PackedSpans, PackingBuilder
from traceloop.exporters.spans import builder as builder_module
from traceloop.exporters.spans.ids import SpanIds
from traceloop.exporters.spans.sampling import Sampling
from traceloop.exporters.spans.slow import SlowRuns
from traceloop.reading.decoding.choose import load, load_native
from traceloop.reading.decoding.decoded import KINDS, Decoded, NewTask, SpanContext
from traceloop.reading.decoding.runs import Iteration, Run

packer, reader = load("traceloop.exporters.otlp._packer"), load_native()
pytestmark = pytest.mark.skipif(packer is None or reader is None, reason="the C half was not built (make native)")

TRACE = "0af7651916cd43dd8448eb211c80319c"
TIME = st.one_of(st.integers(0, 400).map(lambda n: 3e6 + n / 4), st.floats(0.0, 1e9))
# Longer ones the statistics have cut off by then (forget_lengths).
LENGTH = st.one_of(st.sampled_from([0.0, 1e-6, 0.05, 0.2]), st.floats(0.0, 2.0), st.floats(0.0, 2.0**33))
RUN = st.tuples(
    st.floats(0.0, 1e-3),
    LENGTH,
    st.sampled_from([1.0, 2.0, 65537.0, 131073.0, 0.0, 2.0**53, 0.5]),
    st.sampled_from(KINDS),
    st.one_of(st.sampled_from([-1.0, 0.0, -0.5, 3.0]), st.floats(0.0, 1e300), st.just(float("inf"))),
    st.one_of(st.integers(0, 9), st.integers(-5, 2**53)),
    st.sampled_from([0, 0, 0, 1, 2, 3, 4, 50, -3, 2**60]),
    st.sampled_from([0, 0, 0, 1, 1, 2, 70000]),
)
ITERATION = st.tuples(
    st.integers(0, 5), st.floats(0.0, 10.0), st.one_of(st.sampled_from([-1.0, 0.0]), st.floats(0.0, 1e9)), st.booleans()
)
CHUNKS = st.lists(
    st.tuples(st.lists(RUN, max_size=30), st.lists(ITERATION, max_size=30), st.booleans()), min_size=1, max_size=4
)
CONTEXTS = [
    SpanContext(1, TRACE, "00f067aa0ba902b7", 1, ""),
    SpanContext(2, TRACE[:-1] + "d", "00f067aa0ba902b7", 0x201, "a=b"),
    SpanContext(3, TRACE, "00f067aa0ba902b8", 0, ""),
    SpanContext(4, "0" * 32, "00f067aa0ba902b8", 1, ""),
]


def in_rows(decoded: Decoded) -> Decoded:
    """The same in the rows of the reader's extension."""
    runs, iterations, *_ = reader.new_columns()
    for run in decoded.runs:
        runs.append(run)
    for iteration in decoded.iterations:
        iterations.append(iteration)
    decoded.runs, decoded.iterations = runs, iterations
    return decoded


class Made:
    """What a builder makes of chunks."""

    def __init__(self, sampling: Any, offset: int, *, native: bool, portion: int = 4096) -> None:
        self.native = native
        self.builder = PackingBuilder(
            site, Sampling(sampling), offset, ids=SpanIds(random.Random(5).randbytes(40)), max_portion_spans=portion,
            native=packer if native else None,
        )  # fmt: skip
        self.packed: list[PackedSpans] = []
        self.others = b""
        self.slow: list[Any] = []

    def feed(self, decoded: Decoded, lowest: float = 0.1) -> None:
        # Not all that are long enough are slow: patterns may have other thresholds.
        slow = {run[0]: None for run in decoded.runs if run[2] - run[1] >= lowest and run[3] != 2.0}
        given = in_rows(decoded) if self.native else decoded
        self.take(self.builder.build(given, SlowRuns(lowest, slow), 7))

    def take(self, spans: list[Any]) -> None:
        self.others += encode_spans(spans)
        self.slow += [(run, span[1:]) for run, span in self.builder.take_slow()]
        packed = self.builder.take_packed()
        if packed is not None:
            self.packed.append(packed)

    def result(self) -> Any:
        self.take(self.builder.finish())
        builder = self.builder
        state = (builder._iteration, builder._trace, builder._parent, builder._kept, builder._runs, builder._last_run)
        slow = [(run, *span[:-1], vars_of(span[-1])) for run, span in self.slow]
        data = [b"".join(data for data, _ in packed.portions) for packed in self.packed]
        spans = [sum(spans for _, spans in packed.portions) for packed in self.packed]
        return {
            "data": data, "spans": spans, "others": self.others, "slow": slow, "state": state,
            "traces": [builder._traces[number] for number in range(500)],
        }  # fmt: skip


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """In what they differ: names, since pytest takes minutes to show where."""
    return [name for name, value in one.items() if value != other[name]]


def vars_of(extra: Any) -> Any:
    return extra.attributes, extra.links, extra.events, extra.trace_state, extra.remote_parent


def decoded_of(drawn: Any) -> list[Decoded]:
    """Chunks whose runs are numbered as the model numbers them, at any times."""
    out, number, iteration, when = [], 0, 0, 3e6
    for chunk, (runs, iterations, gap) in enumerate(drawn):
        decoded = Decoded(LOOP)
        if not chunk:
            decoded.spans = list(CONTEXTS)
        number += 5 * gap
        begun = iteration
        for wait, length, ident, kind, delay, scheduler, context, step in runs:
            number += 1
            iteration += step
            when += wait
            end = when + length
            made: Run = (number, when, end, ident, kind, delay, scheduler, context, iteration, 0)
            decoded.runs.append(made)
            if length < 10.0:
                when = end
            if kind == "task" and not number % 3:
                decoded.tasks.append(NewTask(ident, f"Task-{number}", number, when, 0, 0.0, True))
            elif kind == "task" and not number % 5:
                decoded.finished.append((ident, 1, when, number))
        for each, (callbacks, poll, late, lost) in zip(range(begun, begun + 30), iterations, strict=False):
            if not lost:
                decoded.iterations.append(Iteration(each, when - 1.0, when, callbacks, poll, late))
        out.append(decoded)
    return out


@settings(max_examples=60)
@given(CHUNKS, st.sampled_from(["all", 0.4, "slow"]), st.sampled_from([OFFSET, (400 << 52) - 3_000_005 * 10**9]))
def test_the_same_runs_give_the_same_bytes(drawn: Any, sampling: Any, offset: int) -> None:
    expected, found = Made(sampling, offset, native=False), Made(sampling, offset, native=True)
    for decoded in decoded_of(drawn):
        expected.feed(decoded)
    for decoded in decoded_of(drawn):
        found.feed(decoded)
    assert differences(found.result(), expected.result()) == []


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sampling", ["all", 0.4, "slow"])
@pytest.mark.parametrize("start", [3.0, 3e7, 5e5])
def test_whole_records_give_the_same_bytes(seed: int, sampling: Any, start: float) -> None:
    # The last passes a multiple of 2**52 ns within the record.
    offset = OFFSET if start != 5e5 else (400 << 52) - int((start + 0.5) * 1e9)
    results = []
    for native in (False, True):
        generator = random.Random(seed)
        made = Made(sampling, offset, native=native)
        for decoded in cut(record(generator, start, 400), generator):
            made.feed(decoded)
        results.append(made.result())
        for packed in made.packed:
            for span in packed.offered:
                assert span[2] in b"".join(data for data, _ in packed.portions)
    assert differences(*results) == []
    if start != 5e5:  # there all are packed run by run
        assert (sum(results[0]["spans"]) > 50) == (sampling != "slow")


def test_portions_are_as_large_as_they_may_be() -> None:
    found = Made("all", OFFSET, native=True, portion=100)
    whole = Made("all", OFFSET, native=True)
    for made in (found, whole):
        decoded = Decoded(LOOP)
        for number in range(1, 351):
            decoded.runs.append((number, 5.0 + number, 5.5 + number, 3.0, "soon", 0.5, 0, 0, number, 0))
            decoded.iterations.append(Iteration(number, 5.0 + number, 5.5 + number, 1, 0.0, -1.0))
        made.feed(decoded, float("inf"))
    assert [spans for _, spans in found.packed[0].portions] == [100, 100, 100, 50]
    assert found.result()["data"] == whole.result()["data"]


def test_a_portion_of_large_spans_fits_into_a_request() -> None:
    def long_site(number: int) -> Any:
        return site(number)._replace(qualname="x" * 50_000)

    results = []
    for native in (False, True):
        builder = PackingBuilder(long_site, Sampling("all"), OFFSET, ids=SpanIds(bytes(range(40))), native=packer)
        decoded = Decoded(LOOP)
        for number in range(1, 101):
            decoded.runs.append((number, 5.0 + number, 5.5 + number, 3.0, "soon", 0.5, number - 1, 0, number, 0))
            decoded.iterations.append(Iteration(number, 5.0 + number, 5.5 + number, 1, 0.0, -1.0))
        builder.build(in_rows(decoded) if native else decoded)
        packed = builder.take_packed()
        assert packed is not None
        assert len(packed.portions) > 1
        assert all(len(data) <= MAX_PORTION_BYTES for data, _ in packed.portions)
        results.append(b"".join(data for data, _ in packed.portions))
    same = results[0] == results[1]
    assert same


@pytest.mark.parametrize("room", [-1, 0, 1, 300_000, 1 << 40])
def test_what_no_queue_has_room_for_is_counted_and_not_kept(room: int) -> None:
    decoded = Decoded(LOOP)
    for number in range(1, 4001):
        decoded.runs.append((number, 5.0 + number, 5.5 + number, 3.0, "soon", 0.5, number - 1, 0, number, 0))
        decoded.iterations.append(Iteration(number, 5.0 + number, 5.5 + number, 1, 0.0, -1.0))
    made = []
    for each in (lambda: 1 << 40, lambda: room):
        builder = PackingBuilder(
            site, Sampling("all"), OFFSET, ids=SpanIds(bytes(range(40))), max_portion_spans=1000, native=packer,
            room=each,
        )  # fmt: skip
        builder.build(in_rows(decoded))
        made.append(builder.take_packed())
        assert builder.take_packed() is None
    every, kept = made
    assert every is not None and kept is not None and every.refused == 0
    total = sum(spans for _, spans in every.portions)
    assert sum(spans for _, spans in kept.portions) + kept.refused == total
    # What is kept is the beginning, and ends with the portion that fills the room.
    count = len(kept.portions)
    assert [bytes(data) for data, _ in kept.portions] == [bytes(data) for data, _ in every.portions[:count]]
    sizes = [len(data) for data, _ in every.portions]
    assert count == next((index for index in range(len(sizes)) if sum(sizes[:index]) >= room), len(sizes))


def test_what_both_halves_have_in_common() -> None:
    assert packer.RUN_MEMORY == builder_module.RUN_MEMORY


def test_a_builder_that_fails_fails_the_call() -> None:
    class Failing(PackingBuilder):
        def _kind(self, ident: float, kind: str, task_name: str | None = None) -> Any:
            raise ValueError("no kind")

    builder = Failing(site, Sampling("all"), OFFSET, native=packer)
    decoded = Decoded(LOOP)
    decoded.runs.append((1, 5.0, 5.5, 3.0, "soon", 0.5, 0, 0, 1, 0))
    decoded.runs.append((2, 5.0, 5.5, 3.0, "soon", 0.5, 0, 0, 1, 0))
    with pytest.raises(ValueError, match="no kind"):
        builder.build(in_rows(decoded))
    assert builder.take_packed() is None


def test_rows_of_another_sort_are_refused() -> None:
    builder = PackingBuilder(site, Sampling("all"), OFFSET, native=packer)
    runs, iterations, *_ = reader.new_columns()
    state = (-1, b"", b"", False, 0.0, 0.0, 0)
    for wrong in ((iterations, iterations), (runs, runs), (bytearray(80), iterations)):
        with pytest.raises(TypeError):
            builder._packer.pack(builder, *wrong, 1, None, state, {}, {}, 1.0, 0.0, 1.0, 1)


def test_rows_that_somebody_looks_at_stay_where_they_are() -> None:
    runs, *_ = reader.new_columns()
    row: Run = (1, 5.0, 5.5, 3.0, "soon", 0.5, 0, 0, 1, 0)
    runs.append(row)
    with memoryview(runs) as view:
        assert view.readonly and (len(view), view.nbytes) == (1, view.itemsize)
        for number in range(2, 2000):
            try:
                runs.append((number, *row[1:]))
            except BufferError:
                break
        else:
            pytest.fail("the rows moved")
    runs.append((number, *row[1:]))
    assert len(runs) == number
