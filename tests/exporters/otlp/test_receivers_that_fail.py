"""A real collector and a receiver that goes away and comes back: every span is counted once, memory stays bounded."""

import socket
import subprocess
from pathlib import Path

import pytest

from tests.helpers.collected_run import Run, until
from tests.helpers.otlp_receiver import Receiver

PROGRAM = """
    async def steps(n):
        for _ in range(n):
            await asyncio.sleep(0)
            if _ % 500 == 0:
                await asyncio.sleep(0.005)  # the collector keeps up: what is lost is lost on the way out
    async def main():
        await asyncio.gather(*(steps(4000) for _ in range(10)))
    run(main())
    print("first", flush=True)
    sys.stdin.readline()
    async def later(n):
        for _ in range(n):
            await asyncio.sleep(0)
    run(later(100))
    end()
"""
RECORDED = ("traceloop_spans_exported_total", "traceloop_spans_dropped_total")


def resident_mib(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the collector is gone")


@pytest.fixture
def make_run(tmp_path):
    made = []

    def make(environ):
        (tmp_path / "run").mkdir(mode=0o700)
        made.append(Run(tmp_path / "run", environ))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_one_that_is_gone_for_a_while(make_run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    run = make_run(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_BSP_MAX_QUEUE_SIZE": "5000",
         "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1000", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    )  # fmt: skip
    before = resident_mib(run.collector_pid)
    program = run.start(PROGRAM, stdin=subprocess.PIPE)
    assert program.stdout.readline() == "first\n"
    until(lambda: (run.value("asyncio_callback_runs_total") or 0) >= 40_000)
    assert run.value("traceloop_spans_exported_total") == 0
    # 5,000 are kept, one batch is on its way.
    until(lambda: run.value("traceloop_spans_dropped_total", reason="queue_full") >= 40_000 - 6_000)
    assert resident_mib(run.collector_pid) - before < 150
    receiver = Receiver(port=port)
    try:
        kept = 3_000
        receiver.wait_for(lambda spans: len(spans) >= kept)
        program.stdin.write("\n")
        program.stdin.flush()
        run.drained(program)
        # What ran after it had come back has arrived, all of it.
        spans = receiver.wait_for(lambda spans: sum(span.name == "__main__.later" for span in spans) >= 101)
        assert sum(span.name == "__main__.later" for span in spans) == 101

        def settled():
            sent, dropped = (run.value(name) for name in RECORDED)
            return sent == len(receiver.spans()) and sent + dropped >= run.value("asyncio_callback_runs_total")

        until(settled)
        ids = {(span.trace_id, span.span_id) for span in receiver.spans()}
        assert len(ids) == len(receiver.spans())
        assert run.value("traceloop_spans_dropped_total", reason="unavailable") == 0
    finally:
        receiver.close()
