"""The collector process with real programs: counts, scrapes, spans, ends and crashes."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import urllib.request
from bisect import bisect_left

import pytest

from tests.helpers.collected_run import PREAMBLE, STEPS, until
from tests.helpers.otlp_receiver import attributes_of
from tests.helpers.paths import ROOT
from traceloop.collector.errors import CollectorError
from traceloop.reading.statistics.histograms import DURATION_BOUNDS
from traceloop.record.proc import is_alive, process_usage
from traceloop.settings import RUN_DIR


def test_counts_are_exact_in_counters_histograms_and_spans(make_run, receiver):
    run = make_run({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_SERVICE_NAME": "steps"})
    program = run.start(STEPS + "    end()\n")
    run.drained(program)
    assert run.value("asyncio_callback_runs_total", callback="__main__.steps") == 1001
    runs = run.value("asyncio_callback_runs_total")
    assert run.value("asyncio_callback_duration_seconds_count") == runs
    assert run.value("asyncio_callback_schedule_delay_seconds_count") == runs
    assert run.value("traceloop_records_dropped_total") == 0

    def arrived(spans):
        return sum(span.name == "__main__.steps" for span in spans) >= 1001

    spans = receiver.wait_for(arrived)
    ids = {(span.trace_id, span.span_id) for span in spans}
    assert len(ids) == len(spans)
    assert sum(span.name == "__main__.steps" for span in spans) == 1001
    assert sum(span.name != "asyncio.iteration" for span in spans) == runs
    assert all((span.trace_id, span.parent_span_id) in ids for span in spans if span.parent_span_id)
    assert all((link.trace_id, link.span_id) in ids for span in spans for link in span.links)
    # Each step was scheduled by the one before it.
    assert sum(bool(span.links) for span in spans if span.name == "__main__.steps") == 1001
    until(lambda: run.value("traceloop_spans_exported_total") == len(spans))
    assert run.value("traceloop_spans_dropped_total") == 0
    resource = attributes_of(receiver.resource_spans()[0].resource)
    assert resource["service.name"] == "steps" and resource["process.pid"] == program.pid


def test_exemplars_point_at_spans_that_arrived(make_run, receiver):
    run = make_run({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
    run.drained(run.start(STEPS + "    end()\n"))
    until(lambda: (run.value("traceloop_spans_exported_total") or 0) > 1000)
    request = urllib.request.Request(run.handle.url, headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    def exemplars():
        with urllib.request.urlopen(request, timeout=120) as answer:
            return re.findall(r'# {span_id="(\w+)",trace_id="(\w+)"}', answer.read().decode())

    found = until(exemplars)
    sent = {(span.span_id.hex(), span.trace_id.hex()) for span in receiver.spans()}
    assert set(found) <= sent


DURATION = "asyncio.executor.run.duration"

OFFLOADS = """
    async def main():
        loop = asyncio.get_running_loop()
        for seconds in (0.0, 0.03, 0.6):
            await loop.run_in_executor(None, time.sleep, seconds)
    run(main())
    end()
"""


def test_exemplars_of_executors_point_at_offloads_that_arrived(make_run, receiver):
    run = make_run({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
    run.drained(run.start(OFFLOADS))
    request = urllib.request.Request(run.handle.url, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    pattern = r'asyncio_executor_(\w+)_bucket{.*executor="default".*} .* # {span_id="(\w+)",trace_id="(\w+)"} (\S+)'

    def exemplars():
        with urllib.request.urlopen(request, timeout=120) as answer:
            return re.findall(pattern, answer.read().decode())

    def offloads():
        spans = [span for span in receiver.spans() if span.name == "time.sleep"]
        return {(span.span_id.hex(), span.trace_id.hex()): attributes_of(span)[DURATION] for span in spans}

    sent = until(lambda: len(offloads()) == 3 and offloads())
    # On a busy machine two of the three may have run equally long.
    buckets = {bisect_left(DURATION_BOUNDS, seconds) for seconds in sent.values()}

    def run_durations():
        return {each[1:3]: float(each[3]) for each in exemplars() if each[0] == "run_duration_seconds"}

    ran = until(lambda: len(run_durations()) == len(buckets) and run_durations())
    until(lambda: len({each[0] for each in exemplars()}) == 3)  # waiting, running, on the way back
    assert set(ran) <= set(sent)
    for ids, value in ran.items():
        assert sent[ids] == pytest.approx(value)


def test_a_scrape_is_answered_while_the_loop_is_blocked(make_run):
    run = make_run()
    program = run.start(
        """
        async def main():
            print("blocking", flush=True)
            time.sleep(600)
        run(main())
        """
    )
    program.stdout.readline()
    first = until(lambda: run.value("asyncio_eventloop_running_seconds"))
    assert until(lambda: run.value("asyncio_eventloop_running_seconds") > first)
    assert program.poll() is None


def test_forked_children_appear_and_an_ended_one_leaves_nothing(make_run):
    run = make_run()
    program = run.start(
        """
        async def main():
            await asyncio.sleep(0)
        run(main())
        for _ in range(3):
            if os.fork() == 0:
                run(main())
                end()
                os._exit(0)
            os.wait()
        end()
        """
    )
    run.drained(program)
    until(lambda: not list(run.path.glob("p-*")))
    assert run.value("asyncio_callback_runs_total", callback="__main__.main") == 8


@pytest.mark.timing  # hundreds of processes one after the other
def test_the_collector_keeps_nothing_of_processes_that_have_ended(make_run):
    """It kept a file and 22 KiB for each; a service may have thousands of children in its life."""
    run = make_run()
    code = """
        async def main():
            await asyncio.sleep(0)
        run(main())
        for number in range(300):
            if os.fork() == 0:
                run(main())
                end()
                os._exit(0)
            os.wait()
            if number in (149, 299):
                print(number, flush=True)
                sys.stdin.readline()
        end()
        """
    program = run.start(code, stdin=subprocess.PIPE)
    pid = until(
        lambda: (run.path / "collector.json").exists() and json.loads((run.path / "collector.json").read_text())
    )["pid"]
    sizes = []
    for _ in range(2):
        program.stdout.readline()
        until(lambda: len(list(run.path.glob("p-*"))) == 1)
        run.value("asyncio_callback_runs_total", callback="__main__.main")
        sizes.append(process_usage(pid).resident_bytes)
        program.stdin.write("\n")
        program.stdin.flush()
    run.drained(program)
    # The second 150 cost nothing that stays; 15 KB each were 2.2 MB.
    assert sizes[1] - sizes[0] < 1 << 20, sizes
    assert not [name for name in os.listdir(run.path) if "drained" in name]


def test_a_crash_keeps_the_record(make_run):
    run = make_run()
    program = run.start(
        """
        async def stuck():
            print("in", flush=True)
            time.sleep(60)
        run(stuck())
        """
    )
    program.stdout.readline()
    until(lambda: run.value("asyncio_eventloop_running_seconds"))
    program.kill()
    program.wait()
    run.drained(program)
    assert (run.path / "crashed").exists()
    assert list(run.path.glob("p-*/loop-0.ring"))


def test_the_root_gets_its_summary_and_the_run_leaves_nothing(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    code = PREAMBLE + textwrap.dedent(
        f"""
        from traceloop.collector import start as collector
        from traceloop.settings import Settings
        handle = collector.start(Settings(run_dir={str(folder)!r}, metrics_port=0, report=True))
        os.environ[{RUN_DIR!r}] = {str(folder)!r}
        async def main():
            await asyncio.sleep(0.01)
        run(main())
        end()
        deadline = time.monotonic() + 120
        while not os.path.exists({str(folder)!r} + "/summary.txt") and time.monotonic() < deadline:
            time.sleep(0.001)
        print(handle.pid)
        print(open({str(folder)!r} + "/summary.txt").read())
        assert "main" in open({str(folder)!r} + "/report.txt").read()
        try:
            os.wait()
        except ChildProcessError:
            print("childless")
        """
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    pid, summary, *_, childless = done.stdout.split("\n")[:-1]
    assert "1 loop" in summary and "callbacks" in summary and childless == "childless"
    until(lambda: not is_alive(int(pid)))
    assert not folder.exists()


def test_a_killed_collector_leaves_the_program_alone(make_run):
    run = make_run()
    program = run.start(
        """
        async def main():
            print("up", flush=True)
            for _ in range(100):
                await asyncio.sleep(0.005)
        run(main())
        print("done")
        """
    )
    program.stdout.readline()
    collector = run.collector_pid
    os.kill(run.handle.pid, signal.SIGKILL)  # its supervisor
    os.kill(collector, signal.SIGKILL)
    assert program.stdout.read() == "done\n"
    assert program.wait() == 0


IN_PORTIONS = """
    async def steps(n):
        for _ in range(n):
            await asyncio.sleep(0)
    async def main():
        while True:
            line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
            if not line:
                break
            await asyncio.create_task(steps(int(line) - 1))
    run(main())
"""


def test_counters_go_on_where_a_killed_collector_left_them(make_run):
    """They began again from what the rings held, and what these held was counted a second time by Prometheus."""
    run = make_run({"OTEL_PYTHON_TRACELOOP_RING_SIZE": "64K"})
    program = run.start(IN_PORTIONS, stdin=subprocess.PIPE)

    counted = 0

    def step():
        nonlocal counted
        counted += 500
        program.stdin.write("500\n")
        program.stdin.flush()
        until(lambda: run.value("asyncio_callback_runs_total", callback="__main__.steps") == counted)

    def noted():
        try:
            counters = json.loads((run.path / "counters").read_text())["counters"]
        except OSError:
            return 0
        wanted = ["callback", "__main__.steps"]
        return sum(each[2] for each in counters if each[0] == "asyncio_callback_runs_total" and wanted in each[1])

    for _ in range(8):  # the ring holds five
        step()
    while noted() != counted:  # a note is taken when something has been read, two seconds after the last one
        step()
    before = run.collector_pid
    os.kill(before, signal.SIGKILL)
    until(lambda: run.collector_pid != before)
    assert run.value("asyncio_callback_runs_total", callback="__main__.steps") == counted
    step()
    assert run.value("asyncio_callback_duration_seconds_count", kind="task") >= counted
    assert run.value("traceloop_records_dropped_total") == 0
    program.stdin.close()


def test_a_taken_port(make_run, tmp_path):
    run = make_run()
    port = int(run.handle.url.rpartition(":")[2].partition("/")[0])
    other = make_run(metrics_port=port)
    assert other.handle.url != run.handle.url
    assert len(other.handle.notices) == 1 and str(port) in other.handle.notices[0]
    with pytest.raises(CollectorError, match=str(port)):
        make_run(metrics_port=port, metrics_port_required=True)


def test_stop_drains(make_run, receiver):
    run = make_run({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "60000"})
    run.drained(run.start(STEPS + "    end()\n"))
    run.handle.stop()
    until(lambda: not is_alive(run.handle.pid))
    assert sum(span.name == "__main__.steps" for span in receiver.spans()) == 1001


def test_spans_on_the_console(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    code = PREAMBLE + textwrap.dedent(
        f"""
        from traceloop.collector import start as collector
        from traceloop.settings import Settings
        collector.start(Settings(run_dir={str(folder)!r}, metrics=False))
        os.environ[{RUN_DIR!r}] = {str(folder)!r}
        async def main():
            await asyncio.sleep(0)
        run(main())
        end()
        """
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OTEL_TRACES_EXPORTER": "console"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=120)
    # Not among the program's own output.
    assert done.stderr.count('"name": "__main__.main"') == 2 and done.stdout == ""


def test_a_burst_wakes_the_thread(tmp_path):
    """It slept on, and what came after an idle time overwrote what it had not read."""
    code = PREAMBLE + textwrap.dedent(
        """
        import time
        from traceloop.collector import collector_thread
        from traceloop.settings import Settings
        collector_thread.MIN_POLL_SECONDS = 1000.0  # its first pause
        thread = collector_thread.start_thread(Settings(collector="thread", metrics_port=0))
        def read():
            return sum(loop.callbacks.runs for loop in thread.statistics.loops())
        async def main():
            deadline = time.monotonic() + 200
            while not read() and time.monotonic() < deadline:  # a quarter of a ring is soon written
                await asyncio.sleep(0)
        run(main())
        print(read() > 0, flush=True)
        os._exit(0)
        """
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    environ.pop(RUN_DIR, None)
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=300)
    assert done.stdout == "True\n", done.stderr


def test_the_thread_reads_private_memory(tmp_path):
    code = PREAMBLE + textwrap.dedent(
        """
        import urllib.request
        from traceloop.collector import collector_thread
        from traceloop.settings import Settings
        thread = collector_thread.start_thread(Settings(collector="thread", metrics_port=0))
        async def main():
            await asyncio.sleep(0.01)
        run(main())
        text = urllib.request.urlopen(thread.url).read().decode()
        thread.stop()
        assert 'asyncio_callback_runs_total{callback="__main__.main"' in text, text
        (info,) = [line for line in text.splitlines() if line.startswith("traceloop_process_info")]
        version = ".".join(map(str, sys.version_info[:3]))
        assert f'pid="{os.getpid()}"' in info and f'python="{version}"' in info and 'command=""' not in info, info
        assert 'reader="c"' in info or 'reader="python"' in info, info
        assert "traceloop_collector_cpu_seconds_total" not in text    # that of the whole program
        assert thread._pace.pause() <= 0.2    # spans may wait for what it reads
        print("ok")
        """
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    environ.pop(RUN_DIR, None)
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=120)
    assert done.stdout == "ok\n", done.stderr


def test_a_request_its_handles_and_its_offload_are_one_trace(make_run, receiver):
    run = make_run({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
    program = run.start(
        """
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        unsampled = TracerProvider(sampler=ALWAYS_OFF).get_tracer("app")

        def work():
            time.sleep(0.01)

        async def request(tracer, name):
            with tracer.start_as_current_span(name):
                await asyncio.sleep(0.01)
                await asyncio.to_thread(work)

        async def unseen():
            with unsampled.start_as_current_span("unsampled"):
                for _ in range(5):
                    await asyncio.sleep(0)

        async def main():
            tracer = provider.get_tracer("app")
            await asyncio.gather(request(tracer, "a"), request(tracer, "b"), asyncio.create_task(unseen()))

        run(main())
        provider.shutdown()
        end()
        """
    )
    run.drained(program)
    spans = receiver.wait_for(lambda spans: sum(span.name == "__main__.work" for span in spans) == 2)
    ids = {(span.trace_id, span.span_id) for span in spans}
    assert all((span.trace_id, span.parent_span_id) in ids for span in spans if span.parent_span_id)
    requests = [span for span in spans if span.name in ("a", "b")]
    assert len(requests) == 2
    for request in requests:
        below = [span.name for span in spans if span.parent_span_id == request.span_id]
        assert below.count("__main__.work") == 1
        assert below.count("__main__.request") >= 2  # the step in which it was opened came before
        assert all(span.trace_id == request.trace_id for span in spans if span.parent_span_id == request.span_id)
    # Its first step came before the span; the others were left unsampled with their trace.
    assert sum(span.name == "__main__.unseen" for span in spans) == 1
