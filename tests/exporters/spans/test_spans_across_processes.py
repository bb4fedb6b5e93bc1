"""Spans of several processes: whole traces across them, no id twice, each under its own process's resource."""

from collections import defaultdict

import pytest

from tests.helpers.collected_run import Run, until
from tests.helpers.otlp_receiver import Receiver, attributes_of

OWN_SPANS = """
    from opentelemetry import context, propagate, trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
"""

POOL = (
    OWN_SPANS
    + """
    import multiprocessing.util
    from concurrent.futures import ProcessPoolExecutor

    async def part():
        await asyncio.sleep(0.001)

    def work(carrier):
        context.attach(propagate.extract(carrier))
        run(part())
        return os.getpid()

    def begin():
        multiprocessing.util.Finalize(None, end, exitpriority=10)

    async def main(pool):
        with provider.get_tracer("app").start_as_current_span("request"):
            carrier = {}
            propagate.inject(carrier)
            loop = asyncio.get_running_loop()
            pids = await asyncio.gather(*(loop.run_in_executor(pool, work, carrier) for _ in range(4)))
        print(*sorted(set(pids)))

    if __name__ == "__main__":
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(2, fork, begin) as pool:
            run(main(pool))
        provider.shutdown()
        end()
    """
)

FORKS = """
    async def main():
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(20)))
    run(main())
    for _ in range(4):
        if os.fork() == 0:
            run(main())
            run(main())
            end()
            os._exit(0)
    for _ in range(4):
        os.wait()
    run(main())
    end()
"""


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def make_run(tmp_path, receiver):
    made = []

    def make():
        folder = tmp_path / f"run{len(made)}"
        folder.mkdir(mode=0o700)
        made.append(Run(folder, {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def by_process(receiver):
    out = defaultdict(list)
    for resource in receiver.resource_spans():
        for scope in resource.scope_spans:
            out[attributes_of(resource.resource).get("process.pid")] += scope.spans
    return out


def close(run, program, pids=()):
    run.drained(program)
    for pid in pids:  # a worker's folder goes when it was read to its end, or says so
        until(lambda pid=pid: all((each / "usage").exists() for each in run.path.glob(f"p-{pid}-*")))
    run.handle.stop()
    run.close()


def test_handles_in_a_pools_processes_are_in_the_trace_of_the_request(make_run, receiver):
    run = make_run()
    program = run.start(POOL)
    pids = [int(pid) for pid in until(program.stdout.readline).split()]
    close(run, program, pids)
    processes = by_process(receiver)
    spans = receiver.spans()
    (request,) = [span for span in spans if span.name == "request"]
    offloads = [span for span in processes[program.pid] if span.name == "__main__.work"]
    assert len(offloads) == 4
    assert all((span.trace_id, span.parent_span_id) == (request.trace_id, request.span_id) for span in offloads)
    runs = [span for pid in pids for span in processes[pid] if span.name == "__main__.part"]
    assert len(runs) == 8  # two steps each
    assert all((span.trace_id, span.parent_span_id) == (request.trace_id, request.span_id) for span in runs)
    assert all(span.flags & 0x200 for span in runs)  # the parent is another process's
    assert len({(span.trace_id, span.span_id) for span in spans}) == len(spans)


def test_no_id_is_there_twice_across_forks_and_restarts(make_run, receiver):
    for _ in range(2):
        run = make_run()
        close(run, run.start(FORKS))
    processes = by_process(receiver)
    assert len(processes) == 10
    spans = receiver.spans()
    assert len({span.span_id for span in spans}) == len(spans)
    traces = defaultdict(set)
    for pid, some in processes.items():
        for span in some:
            traces[span.trace_id].add(pid)
    assert all(len(pids) == 1 for pids in traces.values())
    ids = {(span.trace_id, span.span_id) for span in spans}
    assert all((span.trace_id, span.parent_span_id) in ids for span in spans if span.parent_span_id)
    assert all((link.trace_id, link.span_id) in ids for span in spans for link in span.links)
