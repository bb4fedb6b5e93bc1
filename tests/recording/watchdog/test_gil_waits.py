"""How the watchdog writes down that other threads hold the GIL, and when it does not."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from traceloop.record import layout
from traceloop.recording.watchdog.gil_waits import GilWaits

TURNS = 10


@pytest.fixture
def crunching():
    """A thread of the program, at a line of it."""
    begun, over = threading.Event(), threading.Event()

    def crunch():
        begun.set()
        over.wait()

    thread = threading.Thread(target=crunch, name="hog")
    thread.start()
    begun.wait()
    yield
    over.set()
    thread.join()


def watched(loop_s, process_s):
    """A loop's samples a second apart: what its thread and its process have computed between them, s."""
    history, words = [(100.0, 0.0, 0.0, 0.0, 0)], {layout.W_RECORDS: 500.0}
    loop = SimpleNamespace(ring=1, thread=threading.get_ident(), history=history, words=words)
    return loop, (101.0, loop_s, process_s, 0.0, 0)


def written(loop_s, process_s, late=0.005, woken=3):
    """What is written after a second in which each turn began so late."""
    events = []
    waits = GilWaits(lambda event, now: events.append(event) or True)
    loop, last = watched(loop_s, process_s)
    waits.poll(100.0, [loop])
    for _ in range(TURNS):
        waits.turn(late, lambda: woken, [loop])
    loop.history.append(last)
    loop.words[layout.W_RECORDS] += 20.0
    waits.poll(101.0, [loop])
    return events


def test_what_other_threads_hold_is_written_with_their_names_and_places(crunching):
    (event,) = written(0.05, 0.95)
    assert (event["turns"], event["waits"], event["from"], event["to"]) == (TURNS, TURNS, 100.0, 101.0)
    assert event["waited"] == pytest.approx(0.05)
    assert event["records"] == 20.0
    assert event["loops"] == [(1, (100.0, 0.0, 0.0, 0.0, 0), (101.0, 0.05, 0.95, 0.0, 0))]
    stands = {name: [frame[3] for frame in frames] for names, _, _, frames in event["threads"] for name in names}
    assert any(each.endswith("crunch") for each in stands["hog"])


@pytest.mark.parametrize(
    ("loop_s", "process_s", "late", "woken"),
    [(0.9, 0.95, 0.005, 3), (0.05, 0.95, 0.001, 3), (0.05, 0.95, 0.03, 1)],
    ids=["the loop itself computes", "in time", "woken once: for want of a processor"],
)
def test_nothing_is_written_where_no_other_thread_holds_it(loop_s, process_s, late, woken):
    assert written(loop_s, process_s, late, woken) == []


def test_it_is_written_ever_more_rarely_while_it_lasts():
    events = []
    waits = GilWaits(lambda event, now: events.append(event["to"]) or True)
    loop, _ = watched(0.0, 0.0)
    for tenth in range(600):
        now = 100.0 + tenth / 10
        loop.history[-1:] = [(now, 0.0, now - 100.0, 0.0, 0)]
        waits.turn(0.005, lambda: 3, [loop])
        waits.poll(now, [loop])
    assert len(events) == 9
    assert events[:4] == pytest.approx([101.0, 103.0, 107.0, 115.0], abs=0.2)


def test_the_time_in_which_the_watchdog_had_no_thread_is_not_counted():
    events = []
    waits = GilWaits(lambda event, now: events.append(event) or True)
    loop, _ = watched(0.0, 0.0)
    waits.poll(100.0, [loop])
    waits.turn(0.005, lambda: 3, [loop])
    waits.forget()
    loop.history.append((700.0, 0.0, 600.0, 0.0, 0))
    waits.turn(0.005, lambda: 3, [loop])
    waits.poll(700.0, [loop])
    assert events == []


def test_without_a_loop_that_runs_nothing_is_counted():
    events = []
    waits = GilWaits(lambda event, now: events.append(event) or True)
    waits.turn(0.005, lambda: 3, [])
    waits.poll(100.0, [])
    loop, last = watched(0.05, 0.95)
    waits.poll(200.0, [loop])
    loop.history.append(last)
    waits.poll(201.5, [loop])
    assert events == []
