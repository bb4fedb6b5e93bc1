"""The same bytes through the C decoder and the Python one give the same rows, and the same numbers."""

from __future__ import annotations

import math
from array import array
from copy import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traceloop.reading.decoding import decoded as decoded_module
from traceloop.reading.decoding import decoder, rare_records
from traceloop.reading.decoding.choose import load_native
from traceloop.reading.decoding.decoded import KINDS, Decoded, NewTask, Standing
from traceloop.reading.decoding.decoder import PythonModel
from traceloop.reading.decoding.native_model import NativeModel, new_decoded
from traceloop.reading.decoding.ring_reader import Batch
from traceloop.reading.decoding.stream import LoopStream
from traceloop.reading.decoding.task_rows import KnownTask, outcomes_of, sites_among
from traceloop.reading.site_names import SiteNames
from traceloop.reading.statistics import alive_tasks
from traceloop.reading.statistics.alive_tasks import AliveTasks, CoroutineTotals, Known, NativeTasks
from traceloop.reading.statistics.context import Context
from traceloop.reading.statistics.histograms import Histogram
from traceloop.reading.statistics.labels import BoundedLabels
from traceloop.reading.statistics.loop import LoopStatistics
from traceloop.reading.statistics.waits import Waits
from traceloop.record import layout as r
from traceloop.record.sites import Site

native = load_native()
pytestmark = pytest.mark.skipif(native is None, reason="the reader's C half was not built (make native)")

CLOCK = st.one_of(st.integers(0, 400).map(lambda n: n / 4), st.floats(0.0, 100.0))
COUNT = st.one_of(st.integers(0, 6).map(float), st.just(-1.0))
WILD = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([1e300, -1e300, 2.0**53, 1e15, -0.0, 5e-324])
)
IDENT = st.one_of(
    st.integers(1, 4).map(float),
    st.tuples(st.integers(1, 4), st.integers(1, 5)).map(lambda each: float(each[0] + r.SITE_LIMIT * each[1])),
)
LENGTH = st.tuples(
    st.integers(0, 6), st.sampled_from([0.0] * 6 + [1.0, 2.0, 3.0, 4.0, 5.0]), st.just(r.OUTCOME)
).map(lambda each: each[0] + each[1] * each[2])
KIND_NUMBERS = sorted({value for name, value in vars(r).items() if name.startswith("R_")})
USUAL = st.one_of(
    st.tuples(CLOCK, IDENT, LENGTH),
    st.tuples(CLOCK, IDENT, LENGTH),
    st.tuples(CLOCK, st.sampled_from([r.R_POLL, r.R_SPIN, r.R_ACTIVE, r.R_SKIP, r.R_RUN, r.R_FOUND - 2]), CLOCK),
    st.tuples(COUNT, st.sampled_from([r.R_DUE, r.R_WRITER, r.R_CONTEXT]), COUNT),
    st.tuples(CLOCK, st.sampled_from([r.R_TIMER, r.R_STAMP, r.R_SIGNAL]), st.integers(0, 300).map(float)),
    st.tuples(IDENT, st.just(r.R_TASK), st.one_of(COUNT, CLOCK.map(lambda when: -when))),
    st.tuples(COUNT, st.just(r.R_SPAN), COUNT),
    st.tuples(CLOCK, st.sampled_from([r.R_LOOP, r.R_END]), COUNT),
)
ANY = st.tuples(st.one_of(CLOCK, WILD), st.one_of(st.sampled_from(KIND_NUMBERS), WILD), st.one_of(COUNT, WILD))
NAMES = ["", "Task-7", "Task-x", "mine", "Task-\u0663", "{}", "main", "0a 0b ", "0a 0b k=\u0663 v", " "]
TEXTS = st.lists(st.sampled_from(NAMES), max_size=6)
BATCHES = st.lists(
    st.tuples(
        st.lists(st.one_of(USUAL, USUAL, USUAL, ANY), max_size=40), TEXTS, CLOCK, st.booleans(), st.integers(0, 2)
    ),
    min_size=1,
    max_size=5,
)


def batches_of(drawn: Any) -> list[Batch]:
    out, before = [], 0
    for triples, text, at, gap, lost in drawn:
        lost = lost if gap else 0
        before += lost
        records = [value for triple in triples for value in triple]
        out.append(Batch(0, records, r.pack_text(text), before, at, lost, gap))
        before += len(triples)
    return out


def same(value: Any) -> Any:
    """A value as it is compared: rows as lists, what is no number by name."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value
    if isinstance(value, str | bytes | int | dict) or value is None:
        return value
    return [same(each) for each in value]


def test_texts_are_told_apart_byte_by_byte() -> None:
    """A text that is no UTF-8 harms none of its neighbours; one without an end is none."""
    text = b"0a 0b \xe2\x82\x1f\xff 0c\x1f\x1f0d 0e x\x1f0f 0f"
    batch = Batch(0, [value for n in range(5) for value in (float(n), r.R_SPAN, 1.0)], text, 0, 1.0, 0, False)
    streams = LoopStream(model=PythonModel), LoopStream(model=lambda: NativeModel(native))
    found = [list(stream.feed([batch])[0].spans) for stream in streams]
    assert found[0] == found[1] and len(found[0]) == 5
    assert found[0][0].trace_state == "\ufffd" and found[0][1].trace_id == "\ufffd" and found[0][4].trace_id == ""


def test_a_text_without_an_end_is_searched_once() -> None:
    """A forged one, of 8 MB, beside 300,000 records that ask for an item each: else this would take a day."""
    records = array("d", [1.0, r.R_SPAN, 1.0]) * 300_000
    batch = Batch(0, memoryview(records), b"x" * (8 << 20), 0, 1.0, 0, False)  # type: ignore[arg-type]
    (decoded,) = LoopStream(model=lambda: NativeModel(native)).feed([batch])
    assert len(decoded.spans) == 300_000 and decoded.spans[0].trace_id == ""


def what(decoded: Decoded) -> dict[str, Any]:
    return {name: same(getattr(decoded, name)) for name in Decoded.__slots__}


def everything(stream: LoopStream, batches: list[Batch]) -> list[Any]:
    out: list[Any] = []
    for batch in batches:
        out += [what(each) for each in stream.feed([batch])]
        out.append((stream.state, same(stream.since), stream.runs, stream.damaged))
    out.append(what(stream.finish(90.0, 80.0)))
    return out


@settings(max_examples=300)
@given(BATCHES)
def test_the_same_records_give_the_same_rows(drawn: Any) -> None:
    batches = batches_of(drawn)
    expected = everything(LoopStream(model=PythonModel), batches)
    assert everything(LoopStream(model=lambda: NativeModel(native)), batches) == expected


def counted(stream: LoopStream, batches: list[Batch]) -> tuple[dict[Any, Any], list[Any]]:
    """Every series of a loop's, and every coroutine's totals."""
    sites = SiteNames([Site("app", f"f{n}", "/app.py", n) for n in range(4)])
    loop = LoopStatistics(
        "MainThread", slot=0, context=Context(), sites_of=lambda: sites, labels=BoundedLabels(3),
        culprits=BoundedLabels(3), waits=Waits(),
    )  # fmt: skip
    idents = [float(site + r.SITE_LIMIT * task) for site in (1, 2) for task in (1, 2)]
    loop._ends_seen = dict.fromkeys(r.COUNTER_WORDS, 0)
    looks = [Standing(when, ident, 1) for when in (20.0, 60.0) for ident in idents]
    loop.tasks._waits.look(looks, 1.0)
    for batch in batches:
        for each in stream.feed([batch]):
            loop.feed(each)
    loop.feed(stream.finish(90.0, 80.0))
    series: dict[Any, Any] = {}
    for name, labels, value in loop.metrics():
        if isinstance(value, Histogram):
            value = value.counts, value.sum, value.minimum, value.maximum
        series[name, labels] = value
    for label, lengths in loop.callbacks.lengths().items():
        series["lengths", label] = (lengths.counts, loop.callbacks.callbacks[label].runs)
        assert lengths.count <= loop.callbacks.callbacks[label].runs
    tasks = [
        (site, {name: getattr(totals, name) for name in CoroutineTotals.__slots__})
        for site, totals in loop.tasks.coroutines.items()
    ]
    waits = [(key, each.count, each.exact_s, each.estimated_s()) for key, each in loop.tasks._waits.totals.items()]
    return series, [sorted(tasks, key=lambda each: each[0]), waits, list(loop.tasks.states())]


def close(one: Any, other: Any) -> bool:
    """Equal, but for the last bits of a sum."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-6) or one != one
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(close, one, other))
    return bool(one == other)


@settings(max_examples=150)
@given(BATCHES)
def test_the_same_records_give_the_same_numbers(drawn: Any) -> None:
    batches = batches_of(drawn)
    series, rest = counted(LoopStream(model=PythonModel), batches)
    native_series, native_rest = counted(LoopStream(model=lambda: NativeModel(native)), batches)
    assert series.keys() == native_series.keys()
    for key, value in series.items():
        assert close(value, native_series[key]), (key, value, native_series[key])
    assert close(rest, native_rest), (rest, native_rest)


def both_halves() -> tuple[AliveTasks, NativeTasks]:
    return AliveTasks(), NativeTasks(native)


def chunk_of(half: Known, rows: Any) -> Decoded:
    """A chunk of tasks: (what happens, ident, when) with ``begin``, ``step`` (of 1 s, ready for 1/4 s) and ``end``; and
    ``call``, a callback that is late. Steps and callbacks were mostly made ready by the run before them.
    """
    decoded = new_decoded(native, None) if isinstance(half, NativeTasks) else Decoded(None)
    for what, ident, when in rows:
        if what == "begin":
            maker = float(int(when) % 3)
            waited_from = when - 0.5 if when % 1.0 == 0.5 else -1.0
            decoded.tasks.append(NewTask(ident, f"task {when}", 1, when, int(maker), maker, True, waited_from))
        elif what == "end":
            decoded.finished.append((ident, int(when) % 4, when, 1))
        else:
            number = len(decoded.runs) + 7
            by = number - int(ident) % 4  # 0: not known; 1: it itself, which is damage
            kind, delay = ("task", 0.25) if what == "step" else (KINDS[1 + int(when) % 6], when % 4.0 - 0.25)
            run_ident = ident if what == "step" else 5.0
            decoded.runs.append((number, when, when + 1.0, run_ident, kind, delay, by if by < number else 0, 0, 0, 0))
    return decoded


TASK_IDENT = st.tuples(st.integers(0, 2), st.integers(1, 90)).map(lambda each: each[0] + each[1] * 65536.0)
WHAT = st.sampled_from(["begin", "begin", "step", "step", "call", "end", "end"])
TASK_ROWS = st.lists(st.tuples(WHAT, TASK_IDENT, CLOCK), max_size=120)


@settings(max_examples=60)
@given(st.lists(st.tuples(TASK_ROWS, st.lists(TASK_IDENT, max_size=4)), max_size=8), st.booleans())
def test_both_halves_know_the_same_tasks(drawn: Any, ordered: bool) -> None:
    """Tasks begin, step and end in any order, more than are remembered; some were looked at, some are destroyed."""
    found: list[list[Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alive_tasks, "MAX_ALIVE", 64)
        for half in both_halves():
            waits, out = Waits(), []
            for rows, idents in drawn:
                waits.look([Standing(each[2], each[1], 1) for each in rows[:2]], 1.0)
                half.feed(chunk_of(half, sorted(rows, key=lambda each: each[2]) if ordered else rows), waits)
                out.append([half.remove(ident) for ident in idents[:2]])
                for ident in idents[2:]:
                    half.begin(ident, 5.0)
                out.append([len(half), half.forgotten])
                out.append([list(half.idents()), [half.get(ident) for ident in half.idents()]])
                out.append([sorted(half.by_site().items()), list(half.oldest()), list(waits.looks), list(waits.stood)])
                out.append(
                    [
                        (site, [copy(getattr(totals, name)) for name in CoroutineTotals.__slots__])
                        for site, totals in half.coroutines.items()
                    ]
                )
                if len(rows) == 3:
                    half.clear()
            out.append([(key, each.count, each.exact_s, each.estimated_s()) for key, each in waits.totals.items()])
            found.append(out)
    assert found[0] == found[1]


def test_further_coroutines_are_counted_together() -> None:
    for half in both_halves():
        first = [half.totals(site) for site in range(1, alive_tasks.MAX_COROUTINES + 1)]
        assert half.totals(5000) is half.totals(6000) is half.totals(0)
        assert half.totals(7) is first[6] and len(half.coroutines) == alive_tasks.MAX_COROUTINES + 1


def test_tasks_stay_as_they_are_while_a_chunk_is_taken_in() -> None:
    tasks = NativeTasks(native)
    refused: list[str] = []

    class Asked(Waits):
        def step(self, *_: Any) -> None:
            assert len(tasks) == 1 and tasks.get(65537.0) is not None
            for change in (lambda: tasks.begin(5.0, 1.0), lambda: tasks.remove(65537.0), tasks.clear):
                with pytest.raises(RuntimeError) as caught:
                    change()
                refused.append(str(caught.value))

    waits = Asked()
    waits.look([Standing(2.0, 65537.0, 1)], 1.0)
    tasks.feed(chunk_of(tasks, [("begin", 65537.0, 1.0), ("step", 65537.0, 3.0)]), waits)
    assert refused == ["a chunk is being taken in"] * 3
    tasks.clear()
    assert len(tasks) == 0


def test_a_task_is_removed_also_where_rows_move_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is returned is made by Python code, in which more tasks may begin."""
    tasks = NativeTasks(native)
    make = KnownTask.__new__

    def make_and_begin(kind: Any, *values: Any) -> Any:
        for number in range(2, 1000):
            tasks.begin(number * 65536.0, 1.0)
        return make(kind, *values)

    tasks.begin(65536.0, 1.0)
    monkeypatch.setattr(KnownTask, "__new__", make_and_begin)
    removed = tasks.remove(65536.0)
    monkeypatch.undo()
    assert removed is not None and removed.ident == 65536.0
    assert len(tasks) == 998 and tasks.get(65536.0) is None and tasks.remove(2 * 65536.0) is not None


def test_names_and_limits_are_the_same() -> None:
    """The header's numbers are the modules'."""
    import re
    from pathlib import Path

    folder = Path(decoded_module.__file__).with_name("native")
    text = "".join((folder / name).read_text() for name in ("reader.h", "rows.h", "alive.h"))
    numbers = dict(re.findall(r"#define (\w+) \(?(1 << \d+|-?[\d.e]+)\)?", text))
    for name in [name for name in numbers if name.startswith(("R_", "W_"))]:
        assert getattr(r, name) == float(numbers[name]), name
    assert float(numbers["SITE_LIMIT"]) == r.SITE_LIMIT and float(numbers["OUTCOME"]) == r.OUTCOME
    assert float(numbers["LATEST"]) == decoded_module.LATEST and int(numbers["FIRST_STEP"]) == r.FIRST_STEP
    assert chr(int(numbers["TEXT_SEPARATOR"])) == r.TEXT_SEPARATOR
    assert float(numbers["MAX_QUEUE"]) == decoder._MAX_QUEUE
    assert int(numbers["MOST_NEW_TASKS"]) == rare_records._MAX_NEW_TASKS
    assert (decoder._MAX_ENTRIES, decoder._MAX_TIMERS) == (1 << 20, 1 << 18)
    assert (numbers["MAX_ENTRIES"], numbers["MAX_TIMERS"]) == ("1 << 20", "1 << 18")
    for name in ("MAX_COROUTINES", "MAX_CREATORS", "MAX_HOPS_BACK", "OTHER_SITE"):
        assert getattr(alive_tasks, name) == int(numbers[name]), name
    order = re.search(r"enum \{ (TASK.*), KINDS \}", text)
    assert order is not None and tuple(order[1].lower().split(", ")) == KINDS


@pytest.mark.parametrize("model", [PythonModel, lambda: NativeModel(native)])
def test_timers_that_never_come_due_take_no_memory_without_bound(model: Any) -> None:
    """A record of a stranger's: timers without end, and a poll's harvest that nothing takes."""
    stream = LoopStream(model=model)
    timers = [value for n in range(50_000) for value in (1.0, r.R_TIMER, 0.0)]
    for n in range(7):
        stream.feed([Batch(n, timers, b"", n * 50_000, 1.0, 0, False)])
    known = decoder._MAX_TIMERS
    (out,) = stream.feed([Batch(9, [0.0, r.R_DUE, 350_000.0, 2.0, 5.0, 349_999.0], b"", 350_000, 3.0, 0, False)])
    last = stream.finish()
    (run,) = [*out.runs, *last.runs]
    assert known < 350_000 and run[4] == "timer" and run[6] == 0


def test_tasks_are_counted_by_site_and_outcome_in_either_form() -> None:
    idents = [5.0, 65536.0 * 7 + 5, 65536.0 * 9 + 65535, 0.0, 2.0**52 + 3, 2.0**53 + 2, 65536.0 * 8 + 5]
    tasks = [NewTask(ident, f"task {ident}", 3, 0.5, 2, 65537.0, True) for ident in idents]
    ends = [(ident, number % 4, 1.5, number) for number, ident in enumerate(idents)]
    _, _, native_tasks, native_ends, *_ = native.new_columns()
    for task, end in zip(tasks, ends, strict=True):
        native_tasks.append(task)
        native_ends.append(end)
    assert list(native_tasks) == tasks and list(native_ends) == ends
    assert native_tasks[-1] == tasks[-1] and type(native_tasks[0]) is NewTask
    for first in range(len(tasks) + 1):
        for rows, columns in ((tasks, native_tasks), (ends, native_ends)):
            expected = list(sites_among(rows, first, len(rows)).items())
            assert list(sites_among(columns, first, len(rows)).items()) == expected
    assert {outcome: n for outcome, n in outcomes_of(native_ends).items() if n} == outcomes_of(ends)
    with pytest.raises(IndexError):
        native_tasks.sites(0, len(tasks) + 1)
    with pytest.raises(IndexError):
        native_ends[len(ends)]
    with pytest.raises(ValueError):
        native_ends.append((5.0, 4, 1.0, 1))
    with pytest.raises(TypeError):
        native_tasks.append(["ident"])
