"""A slow run's span, from a real program to a real receiver: in the request's trace, with cause, stacks, exemplar."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tests.helpers.collected_run import Run, until
from tests.helpers.otlp_receiver import Receiver, attributes_of

# Stacks and causes are told by clocks: on a busy machine something else is to blame.
pytestmark = pytest.mark.timing

PROGRAM = """
import json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
tracer = TracerProvider().get_tracer("app")
unsampled = TracerProvider(sampler=ALWAYS_OFF).get_tracer("app")

def tell(name, span):
    context = span.get_span_context()
    print(json.dumps([name, format(context.trace_id, "032x"), format(context.span_id, "016x")]), flush=True)

def waits():
    pass

def query():
    time.sleep(0.6)

def dropped():
    time.sleep(0.3)

async def request():
    with tracer.start_as_current_span("request") as span:
        tell("active", span)
        for _ in range(3):
            asyncio.get_running_loop().call_soon(waits)
        query()

async def without():
    with unsampled.start_as_current_span("request") as span:
        tell("unsampled", span)
        dropped()

def in_context():
    time.sleep(0.25)

async def main():
    with tracer.start_as_current_span("server") as span:
        tell("server", span)
        task = asyncio.create_task(request())
        asyncio.get_running_loop().call_soon(waits)
        await task
        await asyncio.sleep(0.05)
        asyncio.get_running_loop().call_soon(in_context)
        await asyncio.sleep(0.05)
    await asyncio.create_task(without())
    await asyncio.sleep(0.2)

run(main())
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    receiver = Receiver()
    folder = tmp_path_factory.mktemp("slow") / "run"
    folder.mkdir(mode=0o700)
    run = Run(folder, {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
    try:
        program = run.start(PROGRAM)
        told = {name: (trace, span) for name, trace, span in map(json.loads, program.stdout)}
        program.wait(120)
        names = {"__main__.request", "__main__.in_context", "__main__.without"}

        def arrived(spans):
            return names <= {span.name for span in spans if attributes_of(span).get("asyncio.slow")}

        spans = receiver.wait_for(arrived)
        slow = {span.name: span for span in spans if attributes_of(span).get("asyncio.slow")}
        assert names <= set(slow), sorted(slow)
        request = urllib.request.Request(
            run.handle.url, headers={"Accept": "application/openmetrics-text; version=1.0.0"}
        )

        def exemplars():
            with urllib.request.urlopen(request, timeout=120) as answer:
                text = answer.read().decode()
            # In a bucket of its own: the latest run of a bucket stands for it.
            pattern = (
                r'^asyncio_callback_duration_seconds_bucket{.*le="([^"]+)".*'
                r'# {span_id="(\w+)",trace_id="(\w+)"} (\S+)'
            )
            found = re.findall(pattern, text, re.MULTILINE)
            return found if any(float(value) >= 0.6 for *_, value in found) else None

        yield told, slow, spans, until(exemplars), run.handle.url
    finally:
        run.close()
        receiver.close()


def test_it_hangs_under_the_span_that_was_active(seen):
    told, slow, *_ = seen
    span = slow["__main__.request"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == told["active"]
    # Where none was made within the run, the one of its context.
    span = slow["__main__.in_context"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == told["server"]


def test_one_of_an_unsampled_trace_is_a_root_that_names_it(seen):
    told, slow, *_ = seen
    span = slow["__main__.without"]
    trace, parent = told["unsampled"]
    assert not span.parent_span_id and span.trace_id.hex() != trace
    assert (trace, parent) in [(link.trace_id.hex(), link.span_id.hex()) for link in span.links]


def test_it_is_linked_to_what_scheduled_it(seen):
    _, slow, spans, *_ = seen
    names = {(span.trace_id, span.span_id): span.name for span in spans}
    span = slow["__main__.request"]
    assert [names.get((link.trace_id, link.span_id)) for link in span.links] == ["__main__.main"]


def test_it_tells_the_cause_with_its_parts_and_the_stacks(seen):
    _, slow, *_ = seen
    span = slow["__main__.request"]
    attributes = attributes_of(span)
    assert attributes["asyncio.slow"] is True
    assert attributes["asyncio.stall.cause"] == "off_cpu"
    assert attributes["asyncio.stall.culprit"] == "__main__.query"
    # One stood ready. Three it put in itself: when within the run is not recorded, so they are not counted.
    assert attributes["asyncio.blocked.callbacks"] >= 1
    for part in ("cpu_time", "gc_time", "processor_wait"):
        assert 0.0 <= attributes[f"asyncio.stall.{part}"] < 0.4
    stacks = [event for event in span.events if event.name == "asyncio.stack"]
    assert len(stacks) >= 2  # at 0.1 s, and with doubling gaps
    for event in stacks:
        assert span.start_time_unix_nano < event.time_unix_nano < span.end_time_unix_nano
        assert "__main__.query" in attributes_of(event)["code.stacktrace"]
        assert re.search(r'File "<string>", line \d+', attributes_of(event)["code.stacktrace"])


def test_it_names_the_finding_that_it_belongs_to(seen):
    _, slow, *_ = seen
    span = slow["__main__.request"]
    (event,) = [each for each in span.events if each.name == "asyncio.finding"]
    found = attributes_of(event)
    assert (found["asyncio.finding.kind"], found["asyncio.finding.detail"]) == ("blocking-call", "waiting")
    # The source of a program given by -c cannot be read: what it called is not known.
    assert re.fullmatch(r"<string>:\d+ in query blocks the loop: it waits, .*", found["asyncio.finding.title"])
    assert "asyncio.to_thread" in found["asyncio.finding.remedy"]
    assert event.time_unix_nano == span.end_time_unix_nano


def test_the_exemplar_of_its_bucket_points_to_a_span_that_was_sent(seen):
    _, _, spans, exemplars, _ = seen
    sent = {(span.span_id.hex(), span.trace_id.hex()): span for span in spans}
    for _, span_id, trace_id, value in exemplars:
        span = sent[span_id, trace_id]
        assert float(value) == pytest.approx((span.end_time_unix_nano - span.start_time_unix_nano) / 1e9, abs=1e-6)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs a Prometheus")
def test_a_prometheus_stores_the_exemplars(seen, tmp_path):
    _, slow, spans, _, url = seen
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    target = urllib.parse.urlsplit(url).netloc
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(
        "scrape_configs:\n- {job_name: it, scrape_interval: 5s, scrape_timeout: 5s, "
        f"static_configs: [{{targets: ['{target}']}}]}}\n"
    )
    prometheus = subprocess.Popen(
        ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={tmp_path}/data",
         f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def stored():
        query = urllib.parse.urlencode(
            {"query": "asyncio_callback_duration_seconds_bucket", "start": time.time() - 600, "end": time.time() + 60}
        )
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query_exemplars?{query}", timeout=120) as got:
                series = json.load(got)["data"]
        except urllib.error.HTTPError as error:  # not ready yet
            error.close()
            return None
        except OSError:
            return None
        return [each["labels"] for item in series for each in item["exemplars"]]

    try:
        found = until(stored)
    finally:
        prometheus.kill()
        prometheus.wait()
    sent = {(span.trace_id.hex(), span.span_id.hex()) for span in spans}
    assert {(labels["trace_id"], labels["span_id"]) for labels in found} <= sent
    assert (slow["__main__.request"].trace_id.hex(), slow["__main__.request"].span_id.hex()) in {
        (labels["trace_id"], labels["span_id"]) for labels in found
    }
