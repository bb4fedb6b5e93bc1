"""What a program puts in place of the poll or of the clock counts at once, also while the loop runs. Tests do so: they
have a clock that jumps where the loop would wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from tests.helpers.cores import CORES
from traceloop.recording.process import Process
from traceloop.recording.recorder import Recorder
from traceloop.settings import Settings

LOOPS = ["asyncio", *CORES]
HOURS = 100 * 3600.0
needs_epoll = pytest.mark.skipif(not hasattr(selectors, "EpollSelector"), reason="needs Linux")


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Iterator[Any]:
    kind: Any = CORES.get(request.param)
    if kind is None:
        made: Any = asyncio.SelectorEventLoop()
    else:
        made = kind(recorder=Recorder(Process(Settings(ring_size=1 << 20)), kind._new_record(), kind._new_queue()))
    made.set_debug(False)  # under -X dev too
    yield made
    made.close()


class Jumping:
    """A clock that the poll moves by its timeout, without waiting."""

    def __init__(self, loop: Any) -> None:
        self.now = loop.time()
        self.jumped = 0
        self._select = loop._selector.select

    def time(self, *_: Any) -> float:
        return self.now

    def select(self, timeout: float | None = None) -> Any:
        if timeout:
            self.jumped += 1
            self.now += timeout
        return self._select(0)


class Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Stands for another, whose files it has."""

    def __init__(self, clock: Jumping, other: Any) -> None:
        super().__init__()
        self._clock = clock
        for key in other.get_map().values():
            self.register(key.fileobj, key.events, key.data)

    def select(self, timeout: float | None = None) -> Any:
        return self._clock.select(timeout)


@contextlib.contextmanager
def replaced(loop: Any, clock: Jumping, place: str) -> Iterator[None]:
    with mock.patch.object(loop, "time", clock.time):
        if place == "the selector":
            with mock.patch.object(loop._selector, "select", clock.select):
                yield
        elif place == "its class":
            with mock.patch.object(type(loop._selector), "select", lambda _, timeout=None: clock.select(timeout)):
                yield
        else:
            other = Selector(clock, loop._selector)
            try:
                with mock.patch.object(loop, "_selector", other):
                    yield
            finally:
                other.close()


@needs_epoll
@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("place", ["the selector", "its class", "the loop"])
def test_a_poll_that_jumps_is_the_loops_poll_while_it_is_there(loop, place, when):
    clock = Jumping(loop)
    # ``select`` itself, since the class's may be replaced by then.
    epoll = loop._selector
    clock._select = lambda timeout, ask=selectors.EpollSelector.select: ask(epoll, timeout)

    async def sleeps() -> None:
        await asyncio.gather(asyncio.sleep(HOURS), *(asyncio.sleep(each / 10) for each in range(20)))

    async def main() -> None:
        for _ in range(3):
            await asyncio.sleep(0.001)
            with replaced(loop, clock, place):
                await asyncio.wait_for(sleeps(), 2 * HOURS)
        jumped = clock.jumped
        await asyncio.sleep(0.001)
        assert clock.jumped == jumped >= 3 * 20

    begun = time.monotonic()
    if when == "meanwhile":
        loop.run_until_complete(main())
    else:
        with replaced(loop, clock, place):
            loop.run_until_complete(sleeps())
    assert time.monotonic() - begun < 60 < HOURS <= clock.now


@needs_epoll
def test_what_takes_the_polls_results_is_asked_as_soon_as_it_is_there(loop):
    events: list[Any] = []
    ours, theirs = socket.socketpair()

    async def receive() -> None:
        """Only a poll brings it."""
        ours.setblocking(False)
        loop.call_later(0.001, theirs.send, b"x")
        await loop.sock_recv(ours, 1)

    async def main() -> None:
        await asyncio.sleep(0.001)
        original = loop._process_events
        for _ in range(2):
            with mock.patch.object(loop, "_process_events", lambda found: (events.append(found), original(found))):
                await receive()
            assert any(events)
            events.clear()
            await receive()
            assert not events

    with ours, theirs:
        loop.run_until_complete(main())


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_clock_in_place_of_time_monotonic_is_the_loops(loop, when):
    now = time.monotonic()

    async def hours() -> None:
        nonlocal now
        sleep = asyncio.ensure_future(asyncio.sleep(HOURS))
        for _ in range(10):
            await asyncio.sleep(0)
            now += HOURS / 10
        await asyncio.wait_for(sleep, 1)
        assert loop.time() == now
        handle = loop.call_later(5, print)
        assert handle.when() == now + 5
        handle.cancel()

    async def main() -> None:
        await asyncio.sleep(0.001)
        with mock.patch("time.monotonic", lambda: now):
            await hours()
        await asyncio.sleep(0.001)

    if when == "meanwhile":
        loop.run_until_complete(main())
    else:
        with mock.patch("time.monotonic", lambda: now):
            loop.run_until_complete(hours())


class Stop(Exception):
    """Raised in a thread by another one."""


def test_an_exception_that_another_thread_raises_in_this_one_ends_an_idle_loop(loop):
    """As libraries do that stop threads. Within a handle it would be the handle's."""
    running, raised = threading.Event(), threading.Event()

    async def main() -> None:
        running.set()
        while True:
            await asyncio.sleep(0.01)

    def run() -> None:
        try:
            loop.run_until_complete(main())
        except Stop:
            raised.set()

    thread = threading.Thread(target=run, daemon=True)
    loop.set_exception_handler(lambda *_: None)  # one that came within a handle
    thread.start()
    assert running.wait(60)
    ident = ctypes.c_ulong(thread.ident or 0)
    for _ in range(200):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Stop))
        if raised.wait(0.05):
            break
    assert raised.is_set()
    thread.join()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Stop):
        loop.run_until_complete(asyncio.sleep(0))
