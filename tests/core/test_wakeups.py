"""Handles that other threads put into the queue: none is forgotten, and one byte wakes the loop for many."""

from __future__ import annotations

import asyncio
import collections
import threading
import time
from typing import Any

import pytest

from tests.helpers.cores import CORES

THREADS, EACH = 4, 2000


def make(core: str) -> Any:
    if core not in CORES:
        pytest.skip("the C core was not built")
    return CORES[core]()


@pytest.mark.parametrize("core", ["python", "c"])
@pytest.mark.parametrize("busy", [False, True], ids=["polling", "busy"])
def test_every_handle_of_other_threads_is_run(core: str, busy: bool) -> None:
    """Whether the loop polls for ever meanwhile, or has work of its own."""
    loop = make(core)
    ran = [0] * THREADS
    done = threading.Event()

    def count(which: int) -> None:
        ran[which] += 1
        if ran == [EACH] * THREADS:
            done.set()
            loop.stop()

    def spin() -> None:
        if not done.is_set():
            loop.call_soon(spin)

    def call(which: int) -> None:
        for number in range(EACH):
            loop.call_soon_threadsafe(count, which)
            if number % 16 == 0:
                time.sleep(0)

    threads = [threading.Thread(target=call, args=(which,)) for which in range(THREADS)]
    if busy:
        loop.call_soon(spin)
    for thread in threads:
        thread.start()
    loop.run_forever()
    for thread in threads:
        thread.join()
    loop.close()
    assert ran == [EACH] * THREADS


@pytest.mark.parametrize("core", ["python", "c"])
def test_one_call_ends_an_endless_poll(core: str) -> None:
    """By turns, each while the loop waits for nothing else."""
    loop = make(core)
    turns = []

    def call() -> None:
        for turn in range(50):
            ran = threading.Event()
            loop.call_soon_threadsafe(lambda turn=turn, ran=ran: (turns.append(turn), ran.set()))
            assert ran.wait(120)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=call)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    loop.close()
    assert turns == list(range(50))


@pytest.mark.parametrize("core", ["python", "c"])
def test_a_write_to_self_of_the_programs_own_is_called(core: str) -> None:
    loop = make(core)
    original = type(loop)._write_to_self
    calls = []

    class Mine(type(loop)):  # type: ignore[misc]
        def _write_to_self(self) -> None:
            calls.append(threading.current_thread().name)
            original(self)

    loop.close()
    loop = Mine()

    def call() -> None:
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=call, name="other")
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    loop.close()
    assert calls == ["other"]


@pytest.mark.skipif("c" not in CORES, reason="the C core was not built")
def test_a_loop_that_runs_is_not_woken() -> None:
    """What another thread puts in while a callback runs needs no byte in the self-pipe: the queue is looked at next."""
    loop = CORES["c"]()
    loop.set_debug(False)  # there one is written always
    order: list[str] = []

    def call() -> None:
        loop.call_soon_threadsafe(order.append, "other")

    def callback() -> None:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        loop.call_soon(loop.stop)
        with pytest.raises(BlockingIOError):
            loop._ssock.recv(1)
        order.append("own")

    loop.call_soon(callback)
    loop.run_forever()
    loop.close()
    assert order == ["own", "other"]


@pytest.mark.parametrize("core", ["python", "c"])
def test_after_a_close_it_raises(core: str) -> None:
    loop = make(core)
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon_threadsafe(print)


@pytest.mark.parametrize("core", ["python", "c"])
def test_keywords_and_contexts(core: str) -> None:
    loop = make(core)
    with pytest.raises(TypeError):
        loop.call_soon_threadsafe(print, nothing=1)
    with pytest.raises(TypeError):
        loop.call_soon_threadsafe()
    handle = loop.call_soon_threadsafe(print, 1, context=None)
    assert isinstance(handle, asyncio.Handle) and handle._args == (1,)
    loop.close()


@pytest.mark.parametrize("core", ["python", "c"])
def test_a_handle_that_turns_the_loop_itself_is_woken(core: str) -> None:
    """Debuggers and bridges to synchronous code call ``_run_once`` until what they wait for is there."""
    loop = make(core)
    arrived = loop.create_future()
    polls = threading.Event()

    def call_when_it_polls() -> None:
        polls.wait()
        loop.call_soon_threadsafe(arrived.set_result, 7)

    def select(timeout: float | None) -> Any:
        polls.set()
        return original(timeout)

    def turn() -> None:
        nonlocal original
        original, loop._selector.select = loop._selector.select, select
        while not arrived.done():
            loop._run_once()
        loop._selector.select = original
        loop.stop()

    original: Any = None
    thread = threading.Thread(target=call_when_it_polls)
    thread.start()
    loop.call_soon(turn)
    loop.run_forever()
    thread.join()
    loop.close()
    assert arrived.result() == 7


@pytest.mark.parametrize("core", ["python", "c"])
def test_the_ready_queue_is_a_deque_to_others(core: str) -> None:
    """nest_asyncio2 puts handles back with extendleft; whatever a deque has is there."""
    loop = make(core)
    queue: Any = loop._ready
    expected: collections.deque[Any] = collections.deque()
    for method, *arguments in (
        ("extendleft", "abc"),
        ("extend", "defga"),
        ("insert", 2, "x"),
        ("insert", -1, "y"),
        ("insert", 99, "z"),
        ("insert", -99, "w"),
        ("reverse",),
        ("rotate", 3),
        ("index", "x"),
        ("index", "a", 1),
        ("index", "a", -3, 99),
        ("count", "a"),
        ("count", "nothing"),
        ("remove", "d"),
        ("pop",),
        ("popleft",),
        ("appendleft", "l"),
        ("__iadd__", "uv"),
        ("__len__",),
        ("__getitem__", -2),
    ):
        found, wanted = getattr(queue, method)(*arguments), getattr(expected, method)(*arguments)
        assert list(queue) == list(expected), method
        if method not in ("__iadd__",):
            assert found == wanted, method
    assert list(reversed(queue)) == list(reversed(expected))
    assert "u" in queue and "nothing" not in queue and queue.maxlen is None
    with pytest.raises(ValueError):
        queue.index("nothing")
    queue.clear()
    loop.close()
