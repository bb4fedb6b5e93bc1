"""Spans to whatever else exports them: a user's own exporter by its entry point, and the program's own provider."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.helpers.collected_run import PREAMBLE, ROOT, STEPS, Run, until
from traceloop.settings import RUN_DIR

EXPORTER = """
import os
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

class ToFile(SpanExporter):
    def __init__(self):
        self._file = open(os.environ["SPANS_FILE"], "a", buffering=1)

    def export(self, spans):
        for span in spans:
            self._file.write(span.to_json(indent=None) + "\\n")
        return SpanExportResult.SUCCESS

    def shutdown(self):
        self._file.close()
"""


@pytest.fixture
def run(tmp_path):
    runs = []

    def make(environ):
        folder = tmp_path / "run"
        folder.mkdir(mode=0o700)
        runs.append(Run(folder, environ))
        return runs[-1]

    yield make
    for each in runs:
        each.close()


def test_a_users_own_by_its_entry_point(run, tmp_path):
    package = tmp_path / "site"
    (package / "spans_to_file-1.0.dist-info").mkdir(parents=True)
    (package / "spans_to_file.py").write_text(EXPORTER)
    (package / "spans_to_file-1.0.dist-info" / "METADATA").write_text("Name: spans-to-file\nVersion: 1.0\n")
    (package / "spans_to_file-1.0.dist-info" / "entry_points.txt").write_text(
        "[opentelemetry_traces_exporter]\nto_file = spans_to_file:ToFile\n"
    )
    file = tmp_path / "spans"
    made = run(
        {"OTEL_TRACES_EXPORTER": "to_file", "SPANS_FILE": str(file), "OTEL_SERVICE_NAME": "own",
         "PYTHONPATH": f"{ROOT}{os.pathsep}{package}"}
    )  # fmt: skip
    made.drained(made.start(STEPS + "    end()\n"))

    def lines():
        return file.read_text().splitlines() if file.exists() else []

    until(lambda: sum('"__main__.steps"' in line for line in lines()) >= 1001)
    spans = [json.loads(line) for line in lines()]
    ids = {span["context"]["span_id"] for span in spans}
    assert len(ids) == len(spans)
    assert all(span["parent_id"] in ids for span in spans if span["parent_id"])
    assert {span["resource"]["attributes"]["service.name"] for span in spans} == {"own"}
    until(lambda: made.value("traceloop_spans_exported_total") == len(spans))


PROVIDER = """
    import traceloop
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    import urllib.request

    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "app"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("app")
    for choices in ({"collector": "process", "tracer_provider": provider}, {"tracer_provider": object()}):
        try:
            traceloop.start(metrics_port=0, **choices)
        except (TypeError, ValueError) as error:
            print(type(error).__name__)
    run_ = traceloop.start(metrics_port=0, tracer_provider=provider)

    async def steps(n):
        for _ in range(n):
            await asyncio.sleep(0)

    async def main():
        with tracer.start_as_current_span("request"):
            await asyncio.create_task(steps(100))

    traceloop.run(main())
    text = urllib.request.urlopen(run_.metrics_url).read().decode()
    run_.stop()
    spans = exporter.get_finished_spans()
    (request,) = [span for span in spans if span.name == "request"]
    mine = [span for span in spans if span.instrumentation_scope.name == "traceloop"]
    below = [span for span in mine if span.parent and span.parent.span_id == request.context.span_id]
    names = {span.resource.attributes["service.name"] for span in mine}
    print(sum(span.name == "__main__.steps" for span in below), names)
    print(len({span.context.span_id for span in spans}) == len(spans))
"""


def test_the_programs_own_provider(tmp_path):
    # The endpoint is the provider's business: nothing goes there from us, or all would be there twice.
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    environ.pop(RUN_DIR, None)
    code = PREAMBLE + textwrap.dedent(PROVIDER)
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["ValueError", "TypeError", "101 {'app'}", "True"], done.stderr
    assert "do not arrive" not in done.stderr
    assert not list(Path(tmp_path).iterdir())
