"""Spans packed straight from runs are those that the builder of tuples makes of the same runs."""

import random

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans

from tests.helpers.made_up_runs import LOOP, OFFSET, cut, record, site
from traceloop.exporters.otlp.encoder import encode_spans
from traceloop.exporters.otlp.packing import PackingBuilder
from traceloop.exporters.spans.builder import SpanBuilder
from traceloop.exporters.spans.exemplars import loop_hook
from traceloop.exporters.spans.ids import SpanIds
from traceloop.exporters.spans.sampling import Sampling
from traceloop.exporters.spans.slow import SlowRuns
from traceloop.reading.decoding.decoded import Decoded
from traceloop.reading.decoding.runs import Iteration, IterationRows, RunRows


def data_of(packed):
    return b"".join(data for data, _ in packed.portions)


def parsed(data):
    spans = ScopeSpans.FromString(data).spans
    return {(bytes(span.trace_id), bytes(span.span_id)): span for span in spans}


def spans_of(kind, seed, sampling, start, offset):
    generator = random.Random(seed)
    builder = kind(site, Sampling(sampling), offset, ids=SpanIds(random.Random(5).randbytes(40)))
    data, count, offered = b"", 0, []
    for decoded in cut(record(generator, start, 400), generator):
        # Not all that are long enough are slow: patterns may have other thresholds.
        slow = {run[0]: None for run in decoded.runs if run[2] - run[1] >= 0.1 and run[3] != 2.0}
        spans = builder.build(decoded, SlowRuns(0.1, slow), 7) + [span for _, span in builder.take_slow()]
        data += encode_spans(spans)
        count += len(spans)
        packed = builder.take_packed() if kind is PackingBuilder else None
        if packed is not None:
            data += data_of(packed)
            count += sum(spans for _, spans in packed.portions)
            offered += packed.offered
    last = builder.finish() + [span for _, span in builder.take_slow()]
    packed = builder.take_packed() if kind is PackingBuilder else None
    data += encode_spans(last) + (data_of(packed) if packed is not None else b"")
    count += len(last) + (sum(spans for _, spans in packed.portions) if packed is not None else 0)
    return parsed(data), count, offered


def comparable(span):
    """The span without its times, its attributes by name."""
    out = type(span)()
    out.CopyFrom(span)
    out.start_time_unix_nano = out.end_time_unix_nano = 0
    attributes = sorted(out.attributes, key=lambda attribute: attribute.key)
    del out.attributes[:]
    out.attributes.extend(attributes)
    return out


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sampling", ["all", 0.4, "slow"])
# A clock that has just begun, one of a year, and one whose nanoseconds pass a multiple of 2**52 within the record.
@pytest.mark.parametrize("where", ["young", "old", "edge"])
def test_they_are_what_tuples_make(seed, sampling, where):
    start = {"young": 3.0, "old": 3e7, "edge": 5e5}[where]
    offset = OFFSET if where != "edge" else (400 << 52) - int((start + 0.5) * 1e9)
    expected, expected_count, _ = spans_of(SpanBuilder, seed, sampling, start, offset)
    found, count, offered = spans_of(PackingBuilder, seed, sampling, start, offset)
    assert (len(found), count) == (len(expected), expected_count)
    assert found.keys() == expected.keys()
    for ids, span in found.items():
        other = expected[ids]
        assert comparable(span) == comparable(other)
        # The one rounds where the other cuts off, and the clock itself is a double.
        assert abs(span.start_time_unix_nano - other.start_time_unix_nano) <= 8
        assert abs(span.end_time_unix_nano - other.end_time_unix_nano) <= 8
        assert span.end_time_unix_nano >= span.start_time_unix_nano
    for span in offered:
        assert found[span[1], span[2]].name == span[0].name


def test_numbers_that_are_missing_after_a_gap_in_the_record():
    made = PackingBuilder(site, Sampling("all"), OFFSET)
    decoded = Decoded(LOOP)
    decoded.runs = RunRows((n, 5.0 + n, 5.5 + n, 3.0, "soon", 0.5, 0, 0, n, 0) for n in (1, 3, 4, 9))
    decoded.iterations = IterationRows(Iteration(n, 5.0 + n, 5.5 + n, 1, 0.0, -1.0) for n in (1, 3, 4, 9))
    spans = made.build(decoded)
    assert [span[5] - span[4] for span in spans] == [500_000_000] * 4
    assert len({span[2] for span in spans}) == 4


def test_the_longest_and_the_latest_are_offered_as_exemplars():
    builder = PackingBuilder(site, Sampling("all"), OFFSET)
    decoded = Decoded(LOOP)
    decoded.runs = RunRows(
        (n, 5.0 + n, 5.0 + n + 1e-6 * (n % 7), 3.0, "soon", 0.001 * (n % 11), 0, 0, n, 0) for n in range(1, 99)
    )
    decoded.runs[50] = (51, 56.0, 56.05, 3.0, "soon", 0.0, 0, 0, 51, 0)
    decoded.runs[60] = (61, 66.0, 66.0, 4.0, "timer", 3.0, 0, 0, 61, 0)
    decoded.iterations = IterationRows(Iteration(n, 5.0 + n, 5.5 + n, 1, 0.0, -1.0) for n in range(1, 99))
    assert builder.build(decoded) == []
    packed = builder.take_packed()
    assert [spans for _, spans in packed.portions] == [98]
    durations = [span[5] - span[4] for span in packed.offered]
    assert max(durations) == pytest.approx(50_000_000, abs=10)
    assert max(span[6] for span in packed.offered) == 3.0
    assert callable(loop_hook(None)(packed.offered))
