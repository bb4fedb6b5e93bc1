"""A stall in the span stream and in /metrics while it lasts, from real programs that never return and are killed."""

import json
import re
import subprocess

import pytest

from tests.helpers.collected_run import Run
from tests.helpers.otlp_receiver import Receiver, attributes_of

# Stacks and causes are told by clocks: on a busy machine something else is to blame.
pytestmark = pytest.mark.timing

PROGRAM = """
import json, re, sys, threading
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
tracer = TracerProvider().get_tracer("app")

def waits():
    pass

def {guilty}

async def handler(traced):
    for _ in range(3):
        asyncio.get_running_loop().call_soon(waits)
    if not traced:
        guilty()
    with tracer.start_as_current_span("request") as span:
        context = span.get_span_context()
        print(json.dumps([format(context.trace_id, "032x"), format(context.span_id, "016x")]), flush=True)
        guilty()

async def main():
    await asyncio.sleep(0.05)
    await asyncio.create_task(handler({traced}), name="request-1")
    await asyncio.sleep(60)

run(main())
"""


class Stalled:
    """A program in its stall, and what it has led to so far."""

    def __init__(self, folder, guilty, traced):
        folder.mkdir(mode=0o700)
        self.receiver = Receiver()
        self.run = Run(folder, {"OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.url})
        self.program = self.run.start(PROGRAM.replace("{guilty}", guilty).replace("{traced}", str(traced)))
        self.request = json.loads(self.program.stdout.readline()) if traced else None

    def spans(self, count):
        """The first ``count`` spans of stalls."""
        self.receiver.wait_for(lambda spans: len(stalls(spans)) >= count)
        return stalls(self.receiver.spans())

    def gauge(self):
        """Labels and values of the stalls that a scrape shows."""
        found = re.findall(r"^asyncio_eventloop_stalled_seconds{(.*)} (\S+)$", self.run.scrape(), re.MULTILINE)
        return [(dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for labels, value in found]

    def close(self):
        self.run.close()
        self.receiver.close()


def stalls(spans):
    return [span for span in spans if span.name == "asyncio.stall"]


@pytest.fixture
def stalled(tmp_path):
    made = []

    def make(guilty, *, traced):
        made.append(Stalled(tmp_path / "run", guilty, traced))
        return made[-1]

    yield make
    for each in made:
        each.close()


FOREVER = "guilty():\n    threading.Event().wait()"
REGEX = 'guilty():\n    re.match(r"(a+)+$", "a" * 60 + "b")'


def test_a_callback_that_never_returns(stalled):
    there = stalled(FOREVER, traced=True)
    first, second, *_ = there.spans(2)
    for span in (first, second):
        assert [span.trace_id.hex(), span.parent_span_id.hex()] == there.request
        attributes = attributes_of(span)
        assert attributes["code.function.name"] == "__main__.handler"
        assert attributes["asyncio.stall.culprit"] == "__main__.guilty"
        assert attributes["asyncio.blocked.callbacks"] == 3
        assert attributes["thread.name"] == "MainThread"
        (event,) = span.events
        assert event.name == "asyncio.stack" and "__main__.guilty" in attributes_of(event)["code.stacktrace"]
        assert event.time_unix_nano == span.end_time_unix_nano
    # Together they cover the stall so far.
    assert first.end_time_unix_nano - first.start_time_unix_nano > 0.09e9
    assert second.start_time_unix_nano == first.end_time_unix_nano
    length = (second.end_time_unix_nano - first.start_time_unix_nano) / 1e9
    assert attributes_of(second)["asyncio.stall.duration"] == pytest.approx(length, abs=1e-3)
    assert [link.span_id for link in second.links] == [first.span_id]

    ((labels, value),) = there.gauge()
    assert (labels["callback"], labels["culprit"]) == ("__main__.handler", "__main__.guilty")
    assert labels["loop"] == "MainThread"
    assert value >= length
    there.program.kill()
    there.program.wait()
    assert [span.span_id for span in stalls(there.receiver.spans())][:2] == [first.span_id, second.span_id]


def test_under_the_gil_and_in_no_trace(stalled):
    there = stalled(REGEX, traced=False)
    first, second, *_ = there.spans(2)
    for span in (first, second):
        assert not span.parent_span_id
        assert attributes_of(span)["asyncio.stall.culprit"] == "__main__.guilty"
        assert "in __main__.guilty" in attributes_of(span.events[0])["code.stacktrace"]
    assert second.trace_id == first.trace_id
    assert [link.span_id for link in second.links] == [first.span_id]
    ((labels, _),) = there.gauge()
    assert (labels["callback"], labels["culprit"]) == ("__main__.handler", "__main__.guilty")
    there.program.kill()


def test_one_that_ends(stalled):
    there = stalled("guilty():\n    time.sleep(3)", traced=False)
    first, *_ = there.spans(1)
    spans = there.receiver.wait_for(lambda spans: any(map(is_slow, spans)))
    (slow,) = [span for span in spans if is_slow(span) and span.name == "__main__.handler"][:1]
    assert (first.trace_id, first.span_id) in [(link.trace_id, link.span_id) for link in slow.links]
    assert slow.start_time_unix_nano == first.start_time_unix_nano


def is_slow(span):
    return bool(attributes_of(span).get("asyncio.slow"))


IN_ANOTHERS_TRACE = """
    from opentelemetry import trace
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

    async def handler():
        caller = SpanContext(5, 7, True, TraceFlags(1), TraceState([("vendor", "x y")]))
        with trace.use_span(NonRecordingSpan(caller)):
            sys.stdin.readline()  # until somebody has seen it

    async def main():
        await asyncio.sleep(0.05)
        await asyncio.create_task(handler())
        await asyncio.sleep(0.3)

    run(main())
    end()
"""


def test_the_trace_state_and_whose_the_parent_is(tmp_path):
    receiver = Receiver()
    (tmp_path / "run").mkdir(mode=0o700)
    run = Run(tmp_path / "run", {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
    # On a busy machine another callback may be slow, too, or even stall: it is in nobody's trace.
    def of_handler(spans):
        return [span for span in spans if attributes_of(span).get("code.function.name") == "__main__.handler"]

    try:
        program = run.start(IN_ANOTHERS_TRACE, stdin=subprocess.PIPE)
        stalled = of_handler(stalls(receiver.wait_for(lambda spans: of_handler(stalls(spans)))))
        program.stdin.write("\n")
        program.stdin.flush()
        run.drained(program)
        slow = list(filter(is_slow, receiver.wait_for(lambda spans: any(map(is_slow, of_handler(spans))))))
        for span in of_handler(slow) + stalled:
            assert (int.from_bytes(span.trace_id, "big"), int.from_bytes(span.parent_span_id, "big")) == (5, 7)
            assert span.trace_state == "vendor=x y"
            assert span.flags & 0x200  # the parent is another process's
    finally:
        run.close()
        receiver.close()
