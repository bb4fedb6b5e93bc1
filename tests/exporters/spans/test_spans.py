"""Which spans runs become: parents, links, sampling, ids."""

import itertools
import random

import pytest

from traceloop.exporters.spans.builder import SpanBuilder
from traceloop.exporters.spans.ids import SpanIds
from traceloop.exporters.spans.model import Link, SpanEvent
from traceloop.exporters.spans.sampling import Sampling
from traceloop.exporters.spans.slow import Explanation, HeldSpans, SlowRuns
from traceloop.reading.decoding.decoded import Decoded, LoopInfo, NewTask, SpanContext
from traceloop.reading.decoding.runs import Iteration, RunRows
from traceloop.reading.stalls.who_waited import WhoWaited
from traceloop.record.layout import SITE_LIMIT
from traceloop.record.sites import Site

LOOP = LoopInfo(1, "MainThread", 0.0)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def run(number, iteration, *, start=None, length=0.001, ident=3.0, kind="soon", delay=0.0, scheduler=0, context=0):
    start = number / 100 if start is None else start
    return (number, start, start + length, ident, kind, delay, scheduler, context, iteration, 0)


def decoded(runs, ended=(), contexts=(), tasks=()):
    out = Decoded(LOOP)
    out.runs = RunRows(runs)
    out.spans = list(contexts)
    out.tasks = list(tasks)
    for number in ended:
        own = [each for each in runs if each[8] == number]
        start, end = (own[0][1], own[-1][2]) if own else (0.0, 1.0)
        out.iterations.append(Iteration(number, start, end, len(own), 0.5, 0.25))
    return out


def site(number):
    return Site("app", f"site{number}", "/app.py", number)


def builder(spans="all"):
    return SpanBuilder(site, Sampling(spans), 10**18)


def slow(part, threshold=0.1):
    """Those of its runs that are slow."""
    return SlowRuns(threshold, {each[0]: None for each in part.runs if each[2] - each[1] >= threshold})


def by_name(spans):
    out = {}
    for span in spans:
        out.setdefault(span[0].name, []).append(span)
    return out


def assert_whole(spans, outside=()):
    """Ids are unique, and no parent or link names a span that is not sent."""
    ids = {span[2] for span in spans}
    assert len(ids) == len(spans)
    known = {(span[1], span[2]) for span in spans} | set(outside)
    for _, trace, _, parent, start, end, _, link_trace, link_id, extra in spans:
        assert len(trace) == 16 and any(trace)
        assert not parent or (trace, parent) in known
        assert not link_trace or (link_trace, link_id) in known
        assert end >= start
        for link in extra.links if extra is not None else ():
            assert tuple(link) in known


def test_a_lone_run_is_a_root_with_the_attributes_of_its_callback():
    (span,) = builder().build(decoded([run(1, 1, delay=0.25)], ended=[1]), thread_id=99)
    kind, _, _, parent, start, end, delay, link_trace, _, extra = span
    assert kind.name == "app.site3"
    assert kind.attributes == {
        "asyncio.handle.kind": "soon",
        "code.function.name": "app.site3",
        "code.file.path": "/app.py",
        "code.line.number": 3,
        "thread.id": 99,
        "thread.name": "MainThread",
    }
    assert (parent, delay, link_trace, extra) == (b"", 0.25, b"", None)
    assert (start, end) == (10**18 + 10_000_000, 10**18 + 11_000_000)


def test_runs_of_one_iteration_lie_under_it_and_name_who_scheduled_them():
    spans = builder().build(decoded([run(1, 1), run(2, 1, scheduler=1), run(3, 1, scheduler=2)], ended=[1]))
    named = by_name(spans)
    (iteration,) = named["asyncio.iteration"]
    assert iteration[9].attributes == {
        "asyncio.iteration.callbacks": 3, "asyncio.poll.duration": 0.5, "asyncio.poll.delay": 0.25
    }  # fmt: skip
    runs = named["app.site3"]
    assert all(span[3] == iteration[2] and span[1] == iteration[1] for span in runs)
    assert [span[8] for span in runs] == [b"", runs[0][2], runs[1][2]]
    assert_whole(spans)


def test_the_first_run_waits_until_its_iteration_is_known():
    made = builder()
    assert made.build(decoded([run(1, 1)])) == []
    spans = made.build(decoded([run(2, 1)]))
    assert len(spans) == 2 and spans[0][3]
    rest = made.build(decoded([run(3, 2)], ended=[1, 2]))
    assert_whole(spans + rest)
    assert len(rest) == 2 and rest[1][3] == b""


def test_an_iteration_whose_end_was_lost_is_sent_all_the_same():
    made = builder()
    spans = made.build(decoded([run(1, 1), run(2, 1)])) + made.build(decoded([run(3, 3)], ended=[3]))
    spans += made.finish()
    assert_whole(spans)
    (iteration,) = by_name(spans)["asyncio.iteration"]
    assert iteration[9].attributes == {"asyncio.iteration.callbacks": 2}
    assert iteration[4:6] == (10**18 + 10_000_000, 10**18 + 21_000_000)


def test_what_is_held_back_comes_at_the_end():
    made = builder()
    made.build(decoded([run(1, 1)]))
    (span,) = made.finish()
    assert span[3] == b""


def context(number=1, flags=1, state=""):
    return SpanContext(number, TRACE, PARENT, flags, state)


def test_the_applications_span_is_the_parent():
    spans = builder().build(
        decoded([run(1, 1, context=1), run(2, 1), run(3, 1, context=1)], [1], [context(state="a=b")])
    )
    trace, parent = bytes.fromhex(TRACE), bytes.fromhex(PARENT)
    inside = [span for span in spans if span[1] == trace]
    assert len(inside) == 2
    assert all(span[3] == parent and span[9].trace_state == "a=b" for span in inside)
    assert_whole(spans, outside=[(trace, parent)])


def test_a_span_that_is_defined_again_and_again_is_not_forgotten():
    made = builder()
    for turn in range(24):
        first = turn * 8192 + 2
        defined = [SpanContext(number, f"{number:032x}", PARENT, 1, "") for number in range(first, first + 8192)]
        # The recorder says it again after 16,384 others.
        (span,) = made.build(
            decoded([run(turn + 1, turn + 1, context=1)], [turn + 1], defined if turn % 2 else [context(), *defined])
        )
        assert (span[1], span[3]) == (bytes.fromhex(TRACE), bytes.fromhex(PARENT))
        assert len(made._contexts) <= 65_536


def test_a_trace_left_unsampled_gets_no_spans_but_slow_ones_outside_of_it():
    made = builder()
    part = decoded([run(1, 1, context=1), run(2, 2, context=1, length=0.5)], [1, 2], [context(flags=0)])
    assert made.build(part, slow(part)) + made.finish() == []
    ((slow_run, span),) = made.take_slow()
    assert slow_run[0] == 2
    assert span[1] != bytes.fromhex(TRACE) and span[3] == b""
    assert span[9].links == (Link(bytes.fromhex(TRACE), bytes.fromhex(PARENT)),)
    assert span[9].attributes["asyncio.slow"] is True


@pytest.mark.parametrize("broken", ["", "xyz", "00"])
def test_a_context_that_makes_no_sense_is_none(broken):
    spans = builder().build(decoded([run(1, 1, context=1)], [1], [SpanContext(1, broken, PARENT, 1, "")]))
    assert len(spans) == 1 and spans[0][3] == b""


def test_tasks_have_their_names_and_lose_them_when_they_end():
    made = builder()
    ident = 7 * SITE_LIMIT + 3.0
    first = decoded([run(1, 1, ident=ident, kind="task")], [1], tasks=[NewTask(ident, "worker", 1, 0.0, 0, 0.0, True)])
    first.finished = [(ident, 1, 1.0, 2)]
    (span,) = made.build(first)
    assert span[0].attributes["asyncio.task.name"] == "worker"
    # Its last run is read with the next batch.
    (span,) = made.build(decoded([run(2, 2, ident=ident, kind="task")], [2]))
    assert span[0].attributes["asyncio.task.name"] == "worker"
    assert made._kinds["task"] == {}


def test_slow_keeps_slow_runs_only_with_what_is_known_of_them():
    answers = [
        Explanation({}, (), False),
        Explanation({"asyncio.stall.cause": "cpu"}, (SpanEvent("asyncio.stack", 1, {}),), True, Link(b"t", b"s")),
    ]
    held = HeldSpans(lambda run: answers[0])
    made = builder("slow")
    runs = [run(1, 1), run(2, 2, start=1.0, length=0.5), run(3, 3, start=1.5, delay=0.3), run(4, 3, start=1.6)]
    part = decoded([*runs, run(5, 5, start=1.7)], [1, 2, 3, 5])
    assert made.build(part, slow(part)) == []
    held.hold(made.take_slow(), WhoWaited().feed(part.runs, 0.1))
    assert held.release(1.7) == []
    del answers[0]
    (span,) = held.release(1.71)
    assert span[9].attributes == {"asyncio.slow": True, "asyncio.blocked.callbacks": 1, "asyncio.stall.cause": "cpu"}
    assert [event.name for event in span[9].events] == ["asyncio.stack"]
    assert span[9].links == (Link(b"t", b"s"),)


def test_slow_runs_are_not_waited_for_for_ever():
    held = HeldSpans(lambda run: Explanation({}, (), False))
    made = builder()
    part = decoded([run(1, 1, start=1.0, length=0.5)], [1])
    assert made.build(part, slow(part)) == []
    held.hold(made.take_slow())
    assert held.release(1.6) == []
    assert len(held.release(1.9)) == 1


def test_only_those_that_were_found_slow_are():
    """A pattern or a culprit may set a threshold above the lowest."""
    made = builder("slow")
    part = decoded([run(1, 1, length=0.02), run(2, 2, length=0.02, ident=5.0)], [1, 2])
    assert made.build(part, SlowRuns(0.01, {2: None})) == []
    assert [span[0].name for _, span in made.take_slow()] == ["app.site5"]


def test_a_slow_run_that_is_held_back_is_slow_in_the_next_chunk_too():
    made = builder("slow")
    first = decoded([run(1, 1, length=0.5)])
    assert made.build(first, slow(first)) == [] and made.take_slow() == []
    assert made.build(decoded([run(2, 2)], [1, 2])) == []
    assert [each[0] for each, _ in made.take_slow()] == [1]


def test_off_makes_nothing():
    made = builder("off")
    assert made.build(decoded([run(1, 1, length=9.0)], [1])) == []
    assert made.finish() == []


def test_a_ratio_keeps_whole_traces():
    made = builder(0.25)
    runs = [run(3 * n + k + 1, n + 1, scheduler=3 * n + k) for n in range(2000) for k in range(3)]
    spans = made.build(decoded(runs, range(1, 2001)))
    assert_whole(spans)
    traces = {}
    for span in spans:
        traces.setdefault(span[1], []).append(span)
    assert all(len(each) == 4 for each in traces.values())  # three runs and their iteration
    assert 0.2 < len(traces) / 2000 < 0.3


def test_ratio_agrees_with_the_sdks_sampler():
    from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

    generator = random.Random(4)
    for ratio in (0.0, 0.001, 0.3, 0.999, 1.0):
        ours, theirs = Sampling(ratio), TraceIdRatioBased(ratio)
        for _ in range(300):
            trace = generator.getrandbits(128) or 1
            kept = theirs.should_sample(None, trace, "x").decision is Decision.RECORD_AND_SAMPLE
            assert ours.keeps(trace.to_bytes(16, "big")) == kept


def test_ids_of_rings_do_not_meet():
    seen = set()
    for _ in range(20):
        ids = SpanIds()
        for number in range(1, 500):
            seen |= {ids.run(number), ids.iteration(number), ids.other(number), ids.trace(number), ids.trace(-number)}
    assert len(seen) == 20 * 499 * 5
    worst = SpanIds(bytes(40))
    assert all(any(worst.run(n)) and any(worst.trace(n)) for n in range(10))


def test_any_cut_of_the_record_makes_the_same_spans():
    generator = random.Random(8)
    runs, number, when = [], 0, 0.0
    for iteration in range(1, 120):
        for _ in range(generator.choice((1, 1, 1, 2, 5))):
            number += 1
            length = generator.choice((0.001, 0.001, 0.2))
            scheduler = generator.randrange(max(0, number - 10), number)
            runs.append(run(number, iteration, start=when, length=length, scheduler=scheduler,
                            context=generator.choice((0, 0, 0, 1, 2))))  # fmt: skip
            when += length
    contexts = [context(1), context(2, flags=0)]
    random_bytes = bytes(range(40))

    of_iteration = {}
    for each in runs:
        of_iteration.setdefault(each[8], []).append(each)

    def make(cuts):
        made = SpanBuilder(site, Sampling("all"), 10**18, ids=SpanIds(random_bytes))
        out = []
        for begin, end in itertools.pairwise([0, *cuts, len(runs)]):
            part = decoded(runs[begin:end], [], contexts if not begin else [])
            for iteration, own in of_iteration.items():
                if begin < own[-1][0] <= end:
                    part.iterations.append(Iteration(iteration, own[0][1], own[-1][2], len(own), 0.5, -1.0))
            out += made.build(part, slow(part))
        out += made.finish() + [span for _, span in made.take_slow()]
        return {span[2]: (span[0].name, *span[1:9]) for span in out}

    whole = make([])
    assert len(whole) > len(runs) * 0.7
    for _ in range(15):
        cuts = sorted(generator.sample(range(1, len(runs)), generator.randrange(1, 40)))
        assert make(cuts) == whole
