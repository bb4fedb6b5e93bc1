"""CPU time that the collector spends on a kept record, in microseconds a handle run: metrics only, and with spans.

    traceloop run --ring-size 64M --record DIR app.py
    python benchmarks/collector/reading_cost.py DIR/traceloop-... [--spans] [--rounds 5] [--profile]

It reads the record as the collector does, in turns, with everything but the sending: spans are packed and queued, and
what is queued is thrown away. Rounds of both arms alternate in one process, and the least of each is shown as well as
the median: on a busy machine the least is nearest to the truth.
"""

import argparse
import gc
import os
import resource
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from traceloop.exporters.otlp.sender import OtlpSender
from traceloop.exporters.span_pipeline import make_pipeline
from traceloop.reading.follower import RunFollower
from traceloop.reading.new_statistics import make_statistics
from traceloop.settings import Settings


class NullSender(OtlpSender):
    """Packs and queues as the real one does; what has been queued counts as sent."""

    def _send(self, batch):
        return sum(item.spans for item in batch), ""


def read(path, spans):
    """Reads the record once; returns CPU seconds, handle runs, spans."""
    settings = Settings.from_environ({}, on_error=print).replace(run_dir=path)
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1"} if spans else {}
    numbers = make_statistics(settings)
    pipeline = make_pipeline(settings, numbers, print, environ)
    if spans:
        pipeline.sinks = [NullSender(sink.settings, print) for sink in pipeline.sinks]
    begun = time.process_time()
    follower = RunFollower(path, numbers)
    for chunks in follower.chunks(last=True):
        pipeline.take(chunks, time.monotonic())
    for process in follower.processes.values():
        pipeline.end_process(process)
    pipeline.shutdown(60)
    spent = time.process_time() - begun
    runs = sum(loop.callbacks.runs for loop in numbers.loops())
    return spent, runs, sum(sink.exported.sent for sink in pipeline.sinks)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arm", choices=("metrics", "spans"))
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)
    arms = [options.arm] if options.arm else ["metrics", "spans"]
    costs = {arm: [] for arm in arms}
    for _ in range(options.rounds):
        for arm in arms:
            if options.profile:
                import cProfile
                import pstats

                profile = cProfile.Profile()
                profile.runcall(read, options.record, arm == "spans")
                pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            spent, runs, sent = read(options.record, arm == "spans")
            costs[arm].append(spent / runs * 1e6)
    for arm, values in costs.items():
        print(f"{arm}: {min(values):.2f} us a handle run at least, {statistics.median(values):.2f} us median", end=" ")
        print(f"({runs:,} runs" + (f", {sent:,} spans)" if arm == "spans" else ")"))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak_mb:.0f} MB, {os.path.basename(options.record)}")


if __name__ == "__main__":
    main()
