"""What the Python iteration writes, number by number, under a clock that moves by one second at each look."""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import Any

import pytest

from traceloop.core import recorded_iteration
from traceloop.loop.event_loop import PythonEventLoop
from traceloop.record import layout
from traceloop.recording.ring import Ring


class Transcript:
    """A loop under that clock, and the records of one run of it: kinds by name, idents by their site's last name."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.loop = PythonEventLoop()
        self.loop.set_debug(False)  # there the end of each run is asked of ``loop.time``
        self.loop.run_until_complete(asyncio.sleep(0))
        self.records: list[Any] = []
        self.text: list[str] = []
        write = Ring.write

        def note(ring: Any, records: Any, text: list[str], now: float) -> None:
            if ring is self.loop._recorder.ring:
                self.records += records
                self.text += text
            write(ring, records, text, now)

        patch.setattr(Ring, "write", note)
        self._patch = patch

    def run(self) -> list[tuple[Any, Any, Any]]:
        # 1, 2, 3 ...: what is read first is the beginning of the run.
        self._patch.setattr(recorded_iteration, "monotonic", itertools.count(1.0).__next__)
        self.loop.run_forever()
        triples = list(zip(self.records[::3], self.records[1::3], self.records[2::3], strict=True))
        # Without the beginning and the end of the run, which have the loop's own clock.
        assert triples[0][1] == layout.R_RUN and triples[-1][1] == layout.R_END
        # Where another test has imported OpenTelemetry, records say which span is current: none.
        return [(a, self._name(kind), b) for a, kind, b in triples[1:-1] if kind != layout.R_CONTEXT]

    def _name(self, kind: float) -> Any:
        if kind < 0:
            return next(name for name, value in vars(layout).items() if name.startswith("R_") and value == kind)
        sites = self.loop._recorder.process.site_log.sites
        return sites[int(kind) % layout.SITE_LIMIT].qualname.rpartition(".")[2]


@pytest.fixture
def transcript(monkeypatch):
    transcript = Transcript(monkeypatch)
    yield transcript
    transcript.loop.close()


def f(*_: object) -> None:
    pass


def test_callbacks(transcript):
    loop = transcript.loop
    loop.call_soon(f)
    loop.call_soon(f, 1, 2).cancel()
    loop.call_soon(loop.call_soon, f)
    loop.call_soon(loop.stop)
    assert transcript.run() == [
        (1.0, "R_SPIN", 2.0),  # a poll without waiting, from the run's beginning to the second look at the clock
        (2.0, "f", 3),
        (3.0, "R_SKIP", 2),
        (3.0, "call_soon", 2),  # one less by itself, one more by what it put in
        (4.0, "stop", 1),  # what was put in waits for the next iteration, and here for the next run
    ]


def test_timers(transcript):
    loop = transcript.loop
    for when in (-3.0, -1.0, -2.0):
        loop.call_at(when, f)
    loop.call_at(-5.0, f).cancel()
    loop.call_soon(loop.stop)
    nowhere = loop._recorder.record.position
    assert transcript.run() == [
        (-3.0, "R_TIMER", nowhere),
        (-2.0, "R_TIMER", nowhere),
        (-1.0, "R_TIMER", nowhere),
        (1.0, "R_POLL", 0.0),
        (2.0, "R_ACTIVE", 0),
        (1, "R_DUE", 3),
        (2.0, "stop", 3),
        (3.0, "f", 2),
        (4.0, "f", 1),
        (5.0, "f", 0),
    ]


def test_tasks(transcript):
    loop = transcript.loop

    async def ends() -> None:
        pass

    async def waits() -> None:
        await asyncio.sleep(0)
        loop.stop()

    tasks = [loop.create_task(ends(), name="first"), loop.create_task(waits(), name="second")]
    result = layout.OUTCOME * layout.OUTCOME_RESULT
    assert transcript.run() == [
        (1.0, "R_SPIN", 2.0),
        (2.0, "ends", 1 + layout.FIRST + result),
        (3.0, "waits", 1 + layout.FIRST),
        (4.0, "R_SPIN", 5.0),
        (5.0, "waits", 0 + result),
    ]
    assert transcript.text == ["first", "second"]
    assert all(task.done() for task in tasks)


def test_descriptors(transcript):
    loop = transcript.loop
    one, other = socket.socketpair()
    with one, other:
        loop.add_reader(one, f)
        loop.add_writer(other, f)
        other.send(b"x")
        loop.call_soon(f)
        loop.call_soon(loop.stop)
        records = transcript.run()
        loop.remove_reader(one)
        loop.remove_writer(other)
    writers = [record for record in records if record[1] == "R_WRITER"]
    assert len(writers) == 1 and writers[0][0] in (2, 3)  # which of the two the kernel tells first is its affair
    assert [record for record in records if record[1] != "R_WRITER"] == [
        (1.0, "R_POLL", 0.0),
        (2.0, "R_ACTIVE", 2),
        (2, "R_DUE", 0),
        (2.0, "f", 3),
        (3.0, "stop", 2),
        (4.0, "f", 1),
        (5.0, "f", 0),
    ]
