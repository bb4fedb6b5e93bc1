"""CPU time of a span: ours and the SDK's, side by side, in microseconds.

    python benchmarks/collector/span_cost.py [handles in an iteration]

The same runs are packed straight into OTLP bytes, as the collector does; go through the tuples that other exporters
get, and the packing of these; and through the SDK's objects and its encoder. Rounds alternate, and the median of each
is shown: on a busy machine compare them, not the figures.
"""

import gc
import os
import statistics
import sys
import time

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as sdk_encode
from opentelemetry.sdk.resources import Resource

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from traceloop.exporters.otel_sdk.spans import readable_span
from traceloop.exporters.otlp.encoder import encode_spans
from traceloop.exporters.otlp.packing import PackingBuilder
from traceloop.exporters.spans.builder import SpanBuilder
from traceloop.exporters.spans.sampling import Sampling
from traceloop.reading.decoding.decoded import Decoded, LoopInfo
from traceloop.reading.decoding.runs import Iteration
from traceloop.record.sites import Site

ROUNDS = 9
RUNS = 20_000
SDK_SPANS = 2_000


def chunks(per_iteration):
    """One chunk of the record for each round."""
    when, number, iteration = 1000.0, 0, 0
    for _ in range(ROUNDS):
        decoded = Decoded(LoopInfo(1, "MainThread", 0.0))
        while len(decoded.runs) < RUNS:
            iteration += 1
            start = when
            for index in range(per_iteration):
                number += 1
                run = (number, when, when + 1e-5, 3.0 + index, "soon", 1e-6, number - 1, 0, iteration, 0)
                decoded.runs.append(run)
                when += 1e-5
            decoded.iterations.append(Iteration(iteration, start, when, per_iteration, 1e-4, -1.0))
        yield decoded


def main():
    per_iteration = int(sys.argv[1]) if len(sys.argv) > 1 else 1

    def site(number):
        return Site("app.main", "handler", "/srv/app/main.py", number)

    builder = SpanBuilder(site, Sampling("all"), 10**18)
    packing = PackingBuilder(site, Sampling("all"), 10**18)
    resource = Resource({"service.name": "bench"})
    figures = {"packed straight": [], "tuples": [], "packing of tuples": [], "SDK objects and encoder": []}
    clock = time.process_time
    gc.disable()
    for decoded in chunks(per_iteration):
        begun = clock()
        packing.build(decoded)
        portions = packing.take_packed().portions
        start = clock()
        spans = builder.build(decoded)
        built = clock()
        data = encode_spans(spans)
        packed = clock()
        some = spans[:SDK_SPANS]
        before = clock()
        sdk_encode([readable_span(span, resource) for span in some]).SerializeToString()
        after = clock()
        figures["packed straight"].append((start - begun) / sum(spans for _, spans in portions))
        figures["tuples"].append((built - start) / len(spans))
        figures["packing of tuples"].append((packed - built) / len(spans))
        figures["SDK objects and encoder"].append((after - before) / len(some))
    for name, values in figures.items():
        print(f"{name}: {statistics.median(values) * 1e6:.2f} us a span")
    print(f"{len(data) / len(spans):.0f} bytes a span")


if __name__ == "__main__":
    main()
