"""Who set a timer: from the place that the record had when it was set to the run that did it."""

import asyncio

import pytest

from traceloop.loop.event_loop import EventLoop
from traceloop.reading.decoding import timer_setters as run_places
from traceloop.reading.decoding.ring_reader import Batch, RingReader
from traceloop.reading.decoding.stream import LoopStream
from traceloop.reading.decoding.timer_setters import RunPlaces
from traceloop.record import layout
from traceloop.recording.process import current_process

RUN, OTHER = 5.0, layout.R_POLL


def batch(before, *idents):
    return Batch(0, [value for ident in idents for value in (1.0, ident, 0.0)], b"", before, 0.0, 0, False)


def test_the_run_that_comes_next_is_the_one():
    places = RunPlaces()
    places.add(batch(10, RUN, OTHER, RUN), 7)
    places.add(batch(13, OTHER, OTHER, RUN, OTHER), 9)
    places.add(batch(17, RUN), 10)
    assert [places.run_at(place) for place in range(9, 19)] == [0, 8, 9, 9, 10, 10, 10, 11, 11, 0]


def test_what_was_lost_is_nobody_s():
    places = RunPlaces()
    places.add(batch(10, RUN, OTHER), 7)
    places.add(batch(20, RUN), 8)
    assert [places.run_at(place) for place in (10, 11, 12, 15, 20)] == [8, 0, 0, 0, 9]
    places.add(batch(5, RUN), 9)  # a count that makes no sense: what was known is forgotten
    assert [places.run_at(place) for place in (5, 10, 20)] == [10, 0, 0]


@pytest.mark.parametrize("size", [1, 7, 1024])
def test_no_more_is_kept_than_spans_remember(size):
    places = RunPlaces()
    total = 4 * run_places._RECORDS
    for first in range(0, total, size):
        places.add(batch(first, *[RUN] * size), first)
    assert len(places._first) == len(places._places) <= run_places._BATCHES
    assert places._end - places._first[0] <= run_places._RECORDS * 5 // 4 + size
    assert places.run_at(places._end - 1) == places._end
    oldest = min(run_places._RECORDS, size * run_places._BATCHES * 3 // 4)
    assert places.run_at(places._end - oldest) == places._end - oldest + 1
    assert places.run_at(0) == 0


def setters(main, *, before=None):
    """(label of a timer's callback, label of who set it) of each timer of a recorded loop that runs ``main``."""
    loop = EventLoop()
    if before is not None:
        before(loop)
    reader = None
    try:

        async def within():
            nonlocal reader
            reader = RingReader(loop._recorder.ring.buffer)
            await main()

        loop.run_until_complete(within())
        stream = LoopStream()
        # The ring may have been other loops' before.
        chunks = [each for each in stream.feed(reader.read()) if each.loop is not None]
        runs = [run for each in chunks if each.loop.number == loop._recorder.number for run in each.runs]
    finally:
        loop.close()
        if reader is not None:
            reader.close()
    names = {number: site.label for site, number in current_process().site_log._numbers.items()}
    labels = {run[0]: names[int(run[3]) % layout.SITE_LIMIT].rpartition(".")[2] for run in runs}
    return [(labels[run[0]], labels.get(run[6], "nobody")) for run in runs if run[4] == "timer"]


def test_a_timer_is_linked_to_the_run_that_set_it():
    def first():
        asyncio.get_running_loop().call_later(0.001, second)

    def second():
        asyncio.get_running_loop().call_at(asyncio.get_running_loop().time(), third)

    def third():
        pass

    async def sleeper():
        await asyncio.sleep(0.002)

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_later(0.003, third)
        loop.call_soon(first)
        await asyncio.gather(sleeper(), sleeper())
        await asyncio.sleep(0.02)

    found = setters(main, before=lambda loop: loop.call_later(0, third))
    assert sorted(found) == sorted(
        [("third", "nobody"), ("second", "first"), ("third", "second"), ("third", "within")]
        + [("_set_result_unless_cancelled", "sleeper")] * 2
        + [("_set_result_unless_cancelled", "within")]
    )


def test_however_many_records_lie_between():
    async def main():
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, print, "", "")
        for _ in range(40):
            await asyncio.gather(*[asyncio.sleep(0) for _ in range(100)])  # several batches
        await asyncio.sleep(0.06)

    assert ("print", "within") in setters(main)
