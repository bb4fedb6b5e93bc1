"""The culprit of a slow run is the code that held the loop longest, and not the code that the first stack shows."""

import math

import pytest

from tests.helpers.observed import HEAD, observe
from tests.helpers.waiting import until
from traceloop.reading.decoding.decoded import Decoded, Event
from traceloop.reading.stalls.index import StallIndex
from traceloop.record.frames import held_by

PRICE = ("app.py", 8, "app", "price")
PARSE = ("app.py", 12, "app", "parse")
START = 100.0


def stack(at, frame, due=None):
    data = {"kind": "stack", "ring": 0, "run": START, "at": START + at, "ident": 1.0, "callback": "app.handler"}
    data |= {"suppressed": 0, "before": None, "samples": [], "frames": [frame], "ready": 0}
    data["culprit"] = f"{frame[2]}.{frame[3]}"
    if due is not None:
        data["due"] = START + due
    return data


def index_of(*stacks):
    index = StallIndex(lambda site: "app.handler", lambda label, threshold: threshold)
    decoded = Decoded(None)
    decoded.events = [Event(data["at"], number, data) for number, data in enumerate(stacks)]
    index.take_process(decoded)
    return index


def test_each_stack_stands_until_the_next_one():
    index = index_of(stack(0.1, PRICE, 0.1), stack(0.2, PARSE, 0.2))
    info = index.lookup(0, START, START + 1.0)
    assert info.culprit == index.culprit(0, START, START + 1.0) == "app.parse"
    assert info.held == pytest.approx({"app.parse": 0.8, "app.price": 0.2})
    assert info.stack.frames == [PARSE]
    short = index.lookup(0, START, START + 0.3)
    assert short.culprit == "app.price"  # the same stacks, of a run that ended sooner
    assert short.stack.frames == [PRICE]


def test_a_late_stack_stands_from_when_it_was_due():
    """Under a call that holds the GIL no stack can be taken; the first thing after it is one of that call."""
    index = index_of(stack(0.1, PRICE, 0.1), stack(1.4, PARSE, 0.2))
    info = index.lookup(0, START, START + 1.41)
    assert (info.culprit, info.others) == ("app.parse", pytest.approx({"app.price": 0.2}))
    attributes, _, _ = index.span_details(0, START, START + 1.41)
    assert attributes["asyncio.stall.culprit"] == "app.parse"
    assert attributes["asyncio.stall.parts.culprits"] == ["app.parse", "app.price"]
    assert attributes["asyncio.stall.parts.durations"] == pytest.approx([1.21, 0.2])


def test_the_latest_stack_names_the_culprit_while_the_run_lasts():
    index = index_of(stack(0.1, PRICE, 0.1), stack(0.8, PARSE, 0.8))
    assert index.culprit(0, START) == "app.parse"
    assert index.lookup(0, START).stack.frames == [PARSE]
    assert [each.culprit for each in index.fresh] == ["app.price", "app.parse"]


def test_one_culprit_has_no_parts():
    attributes, _, _ = index_of(stack(0.1, PRICE)).span_details(0, START, START + 1.0)
    assert not [name for name in attributes if name.startswith("asyncio.stall.parts")]


@pytest.mark.parametrize("due", [-1e9, 5.0, math.nan, "soon"])
def test_a_damaged_moment(due):
    index = index_of(stack(0.1, PRICE, 0.1), {**stack(0.2, PARSE), "due": due})
    assert index.lookup(0, START, START + 1.0).culprit in ("app.price", "app.parse")


@pytest.mark.parametrize("span", [[], {}, 5, ["trace"], [[], [], []]])
def test_a_damaged_span(span):
    index = index_of({**stack(0.1, PRICE), "span": span}, stack(0.2, PARSE, 0.2))
    assert index.lookup(0, START, START + 1.0).culprit == "app.parse"


def test_times_out_of_order_are_none_below_zero():
    assert held_by([(5.0, "a"), (3.0, "b"), (9.0, "c")], 1.0, 8.0) == {"b": 5.0, "a": 2.0, "c": 0.0}
    assert held_by([], 1.0, 8.0) == {}


PROGRAM = """
import ctypes
from traceloop.recording.process import current_process
from traceloop.record import layout
def price(begun):  # until the watchdog has had its first look at it, and has written what it found
    while (ring := current_process().process_ring) is None or ring.words[layout.W_LOOKED] < begun + 0.1:
        time.sleep(0.01)
def parse(begun):  # keeps the GIL beyond the moment of the second look, and for longer than all before it took
    ctypes.PyDLL(None).usleep(int((time.monotonic() - begun) * 3e6))
async def handler():
    begun = time.monotonic()
    price(begun)
    parse(begun)
run(handler())
"""


@pytest.mark.timing
def test_a_call_that_keeps_the_gil_is_named_from_a_kept_record(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(HEAD + PROGRAM)
    observed = observe(tmp_path, program, OTEL_PYTHON_TRACELOOP_DUMP_SIGNAL="off")
    (info,) = until(observed.slow, "the slow run")
    assert info.culprit == "__main__.parse"
    assert set(info.held) == {"__main__.price", "__main__.parse"}
    assert observed.metric("asyncio_slow_callbacks_total", culprit="__main__.parse") == 1
