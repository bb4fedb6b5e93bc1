"""The application's current span, as the recorder finds it in a handle's context."""

import asyncio
import contextvars
import gc
import os
import pickle
import signal
import subprocess
import weakref
from collections import namedtuple
from pathlib import Path
from unittest import mock

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

import traceloop
from tests.helpers.collected_run import Run
from tests.helpers.cores import CORES
from tests.helpers.otlp_receiver import Receiver
from tests.helpers.written_batches import note_batches
from traceloop.core.buffer import Record
from traceloop.record import layout
from traceloop.recording.application_spans import _GENERATION_BITS, GENERATION, REMOTE, ApplicationSpans


class Lists(Record):
    def take(self):
        doubles, text = super().take()
        return [tuple(doubles[i : i + 3]) for i in range(0, len(doubles), 3)], text


@pytest.fixture
def lists():
    return Lists()


@pytest.fixture
def spans(lists):
    spans = ApplicationSpans(lists)
    assert spans.refresh() is not None
    return spans


def context_of(spans, span):
    """The OpenTelemetry context that a handle scheduled within ``span`` carries."""

    def inside():
        with trace.use_span(span):
            return contextvars.copy_context().get(spans.variable)

    return contextvars.copy_context().run(inside)


def test_a_span_is_defined_once_and_then_referred_to(spans, lists):
    tracer = TracerProvider().get_tracer("test")
    first, second = tracer.start_span("a"), tracer.start_span("b")
    spans.changed(context_of(spans, first))
    records, text = lists.take()
    ids = first.get_span_context()
    assert records == [(1.0, layout.R_SPAN, float(ids.trace_flags)), (1.0, layout.R_CONTEXT, 0.0)]
    assert ids.trace_flags.sampled
    assert text == [f"{ids.trace_id:032x} {ids.span_id:016x} "]
    spans.changed(context_of(spans, second))
    lists.take()
    spans.changed(context_of(spans, first))  # another Context object, the same span
    assert lists.take() == ([(1.0, layout.R_CONTEXT, 0.0)], [])
    spans.changed(None)
    assert lists.take() == ([(0.0, layout.R_CONTEXT, 0.0)], [])


def test_unsampled_remote_and_state(spans, lists):
    unsampled = TracerProvider(sampler=ALWAYS_OFF).get_tracer("test").start_span("a")
    spans.changed(context_of(spans, unsampled))
    number, kind, flags = lists.take()[0][0]
    assert (number, kind, int(flags) & 1) == (1.0, layout.R_SPAN, 0)
    remote = NonRecordingSpan(SpanContext(1, 2, True, TraceFlags(1), TraceState([("vendor", "x y")])))
    spans.changed(context_of(spans, remote))
    records, text = lists.take()
    assert records[0] == (2.0, layout.R_SPAN, float(1 | REMOTE))
    assert text == [f"{1:032x} {2:016x} vendor=x y"]


def test_no_span_and_invalid_span_are_none(spans, lists):
    spans.changed(context_of(spans, trace.INVALID_SPAN))
    spans.changed({})
    assert lists.take() == ([], [])


def test_nothing_is_kept_alive_and_a_reused_address_gets_a_new_number(spans, lists):
    tracer = TracerProvider().get_tracer("test")
    seen = set()
    for _ in range(50):  # sooner or later one gets the address of an earlier one
        span = tracer.start_span("a")
        seen.add(id(span))
        spans.changed(context_of(spans, span))
        reference = weakref.ref(span)
        del span
        gc.collect()
        assert reference() is None
    assert len(seen) < 50
    defined = [record for record in lists.take()[0] if record[1] == layout.R_SPAN]
    assert len(defined) == 50
    assert len({number for number, _, _ in defined}) == 50


def other(spans, number):
    return {spans._span_key: NonRecordingSpan(SpanContext(number, number, False))}


def test_a_span_that_outlives_many_others_is_defined_again(spans, lists):
    lasting = TracerProvider().get_tracer("test").start_span("a")
    context = context_of(spans, lasting)
    spans.changed(context)
    for number in range(2, GENERATION + 1):
        spans.changed(other(spans, number))
    lists.take()
    spans.changed(context)
    spans.changed(None)
    spans.changed(context)
    records, text = lists.take()
    assert [(number, kind) for number, kind, _ in records] == [
        (1.0, layout.R_SPAN), (1.0, layout.R_CONTEXT), (0.0, layout.R_CONTEXT), (1.0, layout.R_CONTEXT)
    ]  # fmt: skip
    assert text == [f"{lasting.get_span_context().trace_id:032x} {lasting.get_span_context().span_id:016x} "]


def test_two_loops_that_meet_one_span_each_define_it(spans, lists):
    tracer = TracerProvider().get_tracer("test")
    shared = context_of(spans, tracer.start_span("a"))
    spans.changed(context_of(spans, tracer.start_span("b")))
    spans.changed(None)
    lists.take()
    others = Lists()
    other = ApplicationSpans(others)
    other.refresh()
    for number in (1, 2):
        spans.changed(shared)
        other.changed(shared)
        for one, each in ((lists, number + 1), (others, number)):
            assert [(a, kind) for a, kind, _ in one.take()[0]] == [(each, layout.R_SPAN), (each, layout.R_CONTEXT)]
        spans.changed(None)
        other.changed(None)
        lists.take(), others.take()


def test_a_span_that_takes_no_attribute_and_a_context_that_is_no_tuple(spans, lists):
    class Context:
        trace_id, span_id, is_remote, trace_flags, trace_state, is_valid = 7, 8, True, TraceFlags(1), None, True

    class Span:
        __slots__ = ()

        def get_span_context(self):
            return Context()

    context = {spans._span_key: Span()}
    for number in (1, 2):
        spans.changed(context)
        assert lists.take() == (
            [(number, layout.R_SPAN, 1 | REMOTE), (number, layout.R_CONTEXT, 0.0)], [f"{7:032x} {8:016x} "]
        )  # fmt: skip
        spans.changed(None)
        lists.take()


def test_contexts_of_two_classes_take_turns(spans, lists):
    class Context(SpanContext):
        pass

    pair = [NonRecordingSpan(SpanContext(1, 2, False)), NonRecordingSpan(Context(3, 4, False))]
    for _ in range(3):
        for span in pair:
            spans.changed({spans._span_key: span})
    assert [a for a, kind, _ in lists.take()[0] if kind == layout.R_SPAN] == [1.0, 2.0]


def test_a_context_that_is_a_tuple_without_a_dict(spans, lists):
    fields = ("trace_id", "span_id", "is_remote", "trace_flags", "trace_state", "is_valid")
    context = namedtuple("Context", fields)(7, 8, False, TraceFlags(1), TraceState(), True)
    lasting = {spans._span_key: NonRecordingSpan(context)}  # type: ignore[arg-type]
    for _ in range(3):
        spans.changed(lasting)
        spans.changed(None)
    assert [a for a, kind, _ in lists.take()[0] if kind == layout.R_SPAN] == [1.0]


@pytest.mark.parametrize("mocked", [mock.Mock(), mock.Mock(spec=trace.Span), object(), 5])
def test_what_is_no_span_to_the_api_is_none_to_the_record(spans, lists, caplog, mocked):
    spans.changed({spans._span_key: NonRecordingSpan(SpanContext(1, 2, False))})
    lists.take()
    spans.changed({spans._span_key: mocked})
    assert lists.take() == ([(0.0, layout.R_CONTEXT, 0.0)], [])
    assert spans.variable is not None and not caplog.text


def test_a_span_with_a_broken_context_switches_it_off(spans, caplog):
    spans.changed({spans._span_key: NonRecordingSpan(None)})  # type: ignore[arg-type]
    assert spans.variable is None
    assert "cannot be followed" in caplog.text


def test_a_span_that_makes_its_context_anew_keeps_its_number(spans, lists):
    class Span:
        def get_span_context(self):
            return SpanContext(7, 8, False)

    context = {spans._span_key: Span()}
    for defined in ([(1.0, layout.R_SPAN)], []):
        spans.changed(context)
        assert [(a, kind) for a, kind, _ in lists.take()[0]] == [*defined, (1.0, layout.R_CONTEXT)]
        spans.changed(None)
        lists.take()


@pytest.mark.parametrize("core", CORES)
def test_the_applications_spans_stay_as_they_are(core):
    """One more attribute would give each of them a dict of its own."""
    tracer = TracerProvider().get_tracer("application")
    span = tracer.start_span("a")
    before = dict(vars(span))
    loop = CORES[core]()

    async def within():
        with trace.use_span(span):
            await asyncio.gather(*[asyncio.sleep(0) for _ in range(3)])

    loop.run_until_complete(within())
    recorded = loop._recorder.spans._next - 1
    loop.close()
    assert recorded == 1
    assert vars(span) == before
    copied = pickle.loads(pickle.dumps(span.get_span_context()))
    assert copied == span.get_span_context() and repr(copied) == repr(span.get_span_context())


def test_a_batch_says_what_one_that_was_lost_had_said(spans, lists):
    lasting = TracerProvider().get_tracer("test").start_span("a")
    context = context_of(spans, lasting)
    spans.changed(context)
    lists.take()
    spans.batch_written(60, 100)
    assert lists.take() == ([(1.0, layout.R_CONTEXT, 0.0)], [])
    spans.changed(context)
    assert lists.take() == ([], [])
    spans.batch_written(60, 100)  # the definition has held for long enough
    spans.changed(context)
    records, text = lists.take()
    assert [kind for _, kind, _ in records] == [layout.R_CONTEXT, layout.R_SPAN]
    assert len(text) == 1 and {number for number, _, _ in records} == {1.0}
    spans.changed(None)
    lists.take()
    spans.batch_written(60, 100)
    spans.forget_current()
    spans.batch_written(60, 100)
    assert lists.take() == ([], [])


LASTING = """
    from opentelemetry import trace
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
    def span(number):
        return trace.use_span(NonRecordingSpan(SpanContext(number, number, False, TraceFlags(1))))
    def handler():
        pass
    async def connection(over):
        while not over.is_set():
            await asyncio.sleep(0.005)
    async def main():
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        with span(1):
            task = asyncio.create_task(connection(over))
        for number in range(2, 70_002):
            with span(number):
                loop.call_soon(handler)
            if number % 500 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        over.set()
        await task
    run(main())
    end()
"""


def test_a_connection_stays_in_its_span_however_many_requests_come(tmp_path):
    receiver = Receiver()
    (tmp_path / "run").mkdir(mode=0o700)
    run = Run(tmp_path / "run", {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
    try:
        run.drained(run.start(LASTING))
        # Not all spans are handlers', and those of the last ones come last.
        spans = receiver.wait_for(lambda spans: sum(span.name == "__main__.handler" for span in spans) >= 70_000)
        steps = [span for span in spans if span.name == "__main__.connection"]
        assert len(steps) > 5
        assert {int.from_bytes(span.parent_span_id, "big") for span in steps} == {1}
        handlers = {int.from_bytes(span.parent_span_id, "big") for span in spans if span.name == "__main__.handler"}
        assert handlers == set(range(2, 70_002))
    finally:
        run.close()
        receiver.close()


LOSSES = """
    from opentelemetry import trace
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
    async def busy():
        for _ in range(30_000):
            await asyncio.sleep(0)
    async def later():
        for _ in range(10):
            await asyncio.sleep(0.01)
    async def main():
        print("ready", flush=True)
        sys.stdin.readline()
        await asyncio.create_task(busy())
        print("done", flush=True)
        sys.stdin.readline()
        await asyncio.create_task(later())
    with trace.use_span(NonRecordingSpan(SpanContext(1, 1, False, TraceFlags(1)))):
        run(main())
    end()
"""


def test_what_runs_after_a_loss_is_still_in_its_span(tmp_path):
    receiver = Receiver()
    (tmp_path / "run").mkdir(mode=0o700)
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_PYTHON_TRACELOOP_RING_SIZE": "65536"}
    run = Run(tmp_path / "run", environ)
    try:
        program = run.start(LOSSES, stdin=subprocess.PIPE)
        for signal_number, line in ((signal.SIGSTOP, "ready\n"), (signal.SIGCONT, "done\n")):
            assert program.stdout.readline() == line
            os.kill(run.collector_pid, signal_number)
            program.stdin.write("\n")
            program.stdin.flush()
        run.drained(program)
        assert run.value("traceloop_records_dropped_total") > 0
        spans = receiver.wait_for(lambda spans: any(span.name.endswith("_run_until_complete_cb") for span in spans))
        steps = [span for span in spans if span.name == "__main__.later"]
        assert len(steps) == 11
        assert {int.from_bytes(span.parent_span_id, "big") for span in steps} == {1}
    finally:
        run.close()
        receiver.close()


def test_a_broken_context_switches_it_off(spans, lists, caplog):
    class Broken(dict):
        def get(self, key, default=None):
            raise RuntimeError("broken")

    spans.changed(Broken(a=1))
    assert spans.variable is None
    assert "cannot be followed" in caplog.text


def test_what_is_handed_over_belongs_to_the_span_opened_in_the_same_step(spans, lists):
    tracer = TracerProvider().get_tracer("test")
    outer, inner = tracer.start_span("a"), tracer.start_span("b")

    def step():
        with trace.use_span(outer):
            assert spans.enter_active() is None  # the handle's own
            with trace.use_span(inner):
                before = spans.enter_active()
                assert before == 1.0
                spans.leave_active(before)
        assert spans.current == 1

    spans.changed(context_of(spans, outer))
    lists.take()
    contextvars.copy_context().run(step)
    records, _ = lists.take()
    assert [(number, kind) for number, kind, _ in records] == [
        (2.0, layout.R_SPAN), (2.0, layout.R_CONTEXT), (1.0, layout.R_CONTEXT)
    ]  # fmt: skip


def test_handed_over_before_any_handle_was_seen(spans, lists):
    spans.forget_current()
    assert spans.enter_active() is None
    spans.forget_current()
    with trace.use_span(TracerProvider().get_tracer("test").start_span("a")):
        before = spans.enter_active()
        assert before is not None
        spans.leave_active(before)
    assert spans.current == -1
    assert lists.take()[0][-1] == (0.0, layout.R_CONTEXT, 0.0)


@pytest.mark.parametrize("debug", [False, True])
def test_calls_from_other_threads_in_a_program_with_spans(debug):
    """From 3.14 on their handles carry a guarded context, in which the span is looked for too."""
    tracer = TracerProvider().get_tracer("test")

    async def main():
        loop = asyncio.get_running_loop()
        with tracer.start_as_current_span("a") as span:
            assert await asyncio.to_thread(trace.get_current_span) is span
            seen = loop.create_future()
            await asyncio.to_thread(loop.call_soon_threadsafe, lambda: seen.set_result(trace.get_current_span()))
            assert await seen is span
            assert loop.call_soon_threadsafe(print)._context.get(spans_variable()) is not None

    def spans_variable():
        found = ApplicationSpans(Record())
        return found.refresh()

    with asyncio.Runner(loop_factory=traceloop.new_event_loop, debug=debug) as runner:
        runner.run(main())


class Own(dict):
    """A context that is asked in its own way."""

    def get(self, key):
        return super().get(key)


class Changing(dict):
    """A context that does not refuse to be changed."""


class Tight:
    """A span that takes no attribute."""

    __slots__ = ("_context",)

    def __init__(self, number):
        self._context = SpanContext(number, number, False)

    def get_span_context(self):
        return self._context


def followed(make_loop, monkeypatch):
    """What a loop records of spans while tasks take turns that have one of their own, share one, or have none."""
    found = []
    loop = make_loop()
    tracer = TracerProvider().get_tracer("application")
    shared = tracer.start_span("shared")

    current = None

    def note(ring, doubles, text):
        nonlocal current
        if ring is not loop._recorder.ring:
            return
        for a, kind in zip(doubles[::3], doubles[1::3], strict=True):
            if kind == layout.R_SPAN:
                found.append((kind, a))
            elif kind == layout.R_CONTEXT and a != current:  # each batch repeats it; where one ends is a matter of time
                current = a
                found.append((kind, a))

    async def turns(times):
        for _ in range(times):
            await asyncio.sleep(0)

    async def within(span, times):
        with trace.use_span(span):
            await turns(times)

    async def with_context(context):
        loop._recorder.spans.variable.set(context)
        await turns(4)

    async def with_changing_context():
        context = Changing({key: tracer.start_span("before")})
        await with_context(context)
        context[key] = tracer.start_span("after")
        await turns(4)

    async def begin_generations():
        for _ in range(3):
            await turns(3)
            loop._recorder.spans._begin_generation()

    async def main():
        await asyncio.gather(
            within(tracer.start_span("one"), 5),
            turns(3),
            within(shared, 4),
            within(shared, 2),
            within(Tight(7), 3),
            within(trace.INVALID_SPAN, 3),
            with_context(Own({key: tracer.start_span("asked")})),
            with_context(Own()),
            with_context({}),
            with_context({key: None}),
            with_context({key: tracer.start_span("two")}),
            with_changing_context(),
        )
        loop._recorder.spans._begin_generation()
        await asyncio.gather(within(shared, 3), turns(3), within(shared, 3))
        many = (within(tracer.start_span("each"), 10) for _ in range(20))
        await asyncio.gather(begin_generations(), within(shared, 10), within(Tight(8), 10), *many)
        for _ in range(60):  # sooner or later a context gets the address of an earlier one
            await loop.create_task(within(tracer.start_span("short"), 3))

    loop._recorder.spans.refresh()
    key = loop._recorder.spans._span_key
    with monkeypatch.context() as patch:
        note_batches(patch, note)
        loop.run_until_complete(main())
        loop.close()
    return found


def test_each_core_follows_them_in_the_same_way(monkeypatch):
    expected = followed(CORES["python"], monkeypatch)
    assert len(expected) > 40 and {kind for kind, _ in expected} == {layout.R_SPAN, layout.R_CONTEXT}
    for core in CORES:
        assert followed(CORES[core], monkeypatch) == expected


@pytest.mark.parametrize("core", CORES)
def test_a_context_that_was_met_often_is_not_kept_alive(core):
    async def main():
        with trace.use_span(TracerProvider().get_tracer("test").start_span("a")):
            for _ in range(10):
                await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
            found = weakref.ref(loop._recorder.spans.variable.get())
        for _ in range(3):
            await asyncio.sleep(0)
        gc.collect()
        return found()

    with asyncio.Runner(loop_factory=CORES[core]) as runner:
        loop = runner.get_loop()
        loop._recorder.spans.refresh()
        assert runner.run(main()) is None


def test_numbers_in_c_are_the_same():
    source = (Path(traceloop.__file__).parent / "core" / "native" / "spans.c").read_text()
    assert f"#define REMOTE {REMOTE:#x} " in source and f"#define GENERATION {GENERATION}\n" in source
    assert f"#define GENERATION_BITS {_GENERATION_BITS}\n" in source


class Stopping(Tight):
    """A span that is asked for its attributes when a signal's handler raises."""

    __slots__ = ("_raise",)

    def __init__(self, exception):
        super().__init__(7)
        self._raise = [exception]

    @property
    def _loop_span(self):
        if self._raise:
            raise self._raise.pop()


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("core", CORES)
def test_what_ends_a_program_is_not_lost_while_a_span_is_looked_at(core, exception):
    loop = CORES[core]()
    loop.run_until_complete(asyncio.sleep(0))
    spans = loop._recorder.spans
    spans.refresh()
    with trace.use_span(Stopping(exception)):
        loop.call_soon(int)
    loop.call_soon(loop.stop)
    with pytest.raises(exception):
        loop.run_forever()
    assert spans.variable is not None  # no fault of the span
    loop.close()
