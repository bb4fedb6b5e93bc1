"""Slow runs as alerts need them: where, how long lately, and whether the program was starting."""

import asyncio
import time

import pytest

from tests.helpers.waiting import until
from traceloop.loop.event_loop import EventLoop
from traceloop.reading import read_loop
from traceloop.reading.statistics import slow_places
from traceloop.recording import process


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch):
    monkeypatch.setattr(process, "_current", None)


def load():
    time.sleep(0.15)


def series(statistics, name):
    with statistics.lock:
        return [(dict(sample.labels), sample.value) for sample in statistics.samples() if sample.name == name]


def run(main):
    """The statistics, once they count the slow run: by then the watchdog has written what it saw of it."""

    def counted():
        statistics = read_loop(loop)
        return statistics if series(statistics, "asyncio_slow_callbacks_startup_total") else None

    loop = EventLoop()
    loop.set_exception_handler(lambda *_: None)
    loop.slow_callback_duration = 0.1
    try:
        loop.run_until_complete(main())
        return until(counted, "a slow run's count")
    finally:
        loop.close()


async def serve_and_block():
    """A server whose first connection comes before the block."""
    accepted = asyncio.Event()

    async def handle(reader, writer):
        accepted.set()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await accepted.wait()
    asyncio.get_running_loop().call_soon(load)
    await asyncio.sleep(0)  # it runs
    writer.close()
    server.close()


async def block():
    asyncio.get_running_loop().call_soon(load)
    await asyncio.sleep(0)  # it runs


def test_a_run_that_is_over_is_known_with_its_length_and_its_line():
    statistics = run(serve_and_block)
    ((labels, longest),) = series(statistics, "asyncio_slow_callback_longest_seconds")
    assert labels["callback"] == f"{__name__}.load" and longest >= 0.15
    ((info, one),) = series(statistics, "asyncio_slow_callback_info")
    file, _, line = info["location"].rpartition(":")
    # Of the first stack that was taken, or of the function, where none was.
    assert file == __file__ and int(line) in (load.__code__.co_firstlineno, load.__code__.co_firstlineno + 1)
    assert one == 1
    ((_, startup),) = series(statistics, "asyncio_slow_callbacks_startup_total")
    assert startup == 0


def test_before_the_first_connection_it_is_the_start():
    statistics = run(block)
    ((_, startup),) = series(statistics, "asyncio_slow_callbacks_startup_total")
    assert startup == 1
    assert series(statistics, "asyncio_slow_callback_longest_seconds") == []
    ((_, counted),) = series(statistics, "asyncio_slow_callbacks_total")
    assert counted == 1


def test_the_start_is_over_after_a_while(monkeypatch):
    monkeypatch.setattr(slow_places, "STARTUP_SECONDS", 0.0)
    statistics = run(block)
    ((_, startup),) = series(statistics, "asyncio_slow_callbacks_startup_total")
    assert startup == 0


def test_the_longest_is_forgotten_after_two_minutes(monkeypatch):
    statistics = run(serve_and_block)
    monkeypatch.setattr(slow_places, "RECENT_SECONDS", 0.0)
    assert series(statistics, "asyncio_slow_callback_longest_seconds") == []
