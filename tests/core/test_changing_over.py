"""What the iteration in C does not take is the Python iteration's, and only for as long as it is there."""

from __future__ import annotations

import asyncio
import decimal
import fractions
import sys
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from tests.helpers.cores import CORES
from traceloop.recording.process import Process
from traceloop.recording.recorder import Recorder
from traceloop.settings import Settings

pytestmark = pytest.mark.skipif("c" not in CORES, reason="the C core was not built")


class Number(float):
    """A float of a class of its own, as numpy's are."""


class Halves(Number):
    """A sum with it is one, as with numpy's floats."""

    def __radd__(self, other: float) -> Halves:
        return Halves(other + float(self))


class Seconds:
    """No float, but a time and it make one, as with numpy's integers."""

    def __radd__(self, other: float) -> Number:
        return Number(other + 0.001)


def recorded(core: str) -> Any:
    kind = CORES[core]
    loop = kind(recorder=Recorder(Process(Settings(ring_size=1 << 20)), kind._new_record(), kind._new_queue()))
    loop.set_debug(False)  # under -X dev too
    return loop


@pytest.fixture
def loop() -> Iterator[Any]:
    loop = recorded("c")
    yield loop
    loop.close()


def is_native(loop: Any) -> bool:
    return bool(loop._runs_natively)


async def until_native(loop: Any) -> None:
    deadline = time.monotonic() + 20
    while not is_native(loop) and time.monotonic() < deadline:
        await asyncio.sleep(0)
    assert is_native(loop)


def test_a_time_of_any_kind_of_number_is_taken_in_c(loop):
    """aiohttp, for one, rounds the times of its timeouts up, to whole numbers."""

    async def main() -> list[Any]:
        whole = int(loop.time())
        waiting = [
            loop.call_at(whole + 1000, print),
            loop.call_at(Number(whole + 1000), print),
            loop.call_later(1000, print),
            loop.call_later(True, print),
            loop.call_later(Halves(1000), print),
            loop.call_later(Seconds(), print),
        ]
        order: list[str] = []
        ran = loop.create_future()
        loop.call_at(whole, order.append, "whole")
        loop.call_at(-(2**53), order.append, "first")
        loop.call_at(Number(whole + 0.5 - 1), order.append, "between")
        loop.call_later(Seconds(), ran.set_result, None)
        await ran
        assert order == ["first", "between", "whole"]
        assert is_native(loop)
        return waiting

    waiting = loop.run_until_complete(main())
    assert [type(handle.when()) for handle in waiting] == [int, Number, float, float, Halves, Number]


@pytest.mark.parametrize("when", [2**53 + 1, 2**80, fractions.Fraction(10**9), decimal.Decimal(10**9)], ids=str)
def test_a_timer_that_a_double_cannot_hold_is_pythons_until_it_is_gone(loop, when):
    async def main() -> None:
        assert is_native(loop)
        handle = loop.call_at(when, print)
        await asyncio.sleep(0.001)
        assert not is_native(loop)
        assert handle.when() is when
        handle.cancel()
        await until_native(loop)
        await asyncio.sleep(0.001)
        assert is_native(loop)

    loop.run_until_complete(main())


@pytest.mark.parametrize("idle", [False, True], ids=["busy", "idle"])
def test_after_debug_mode_the_iteration_in_c_goes_on(loop, idle):
    async def main() -> None:
        loop.set_debug(True)
        await asyncio.sleep(0)
        assert not is_native(loop)
        loop.set_debug(False)
        if idle:  # for so long that the poll is one of a loop that waits
            await asyncio.sleep(0.1)
            assert is_native(loop)
        await until_native(loop)

    loop.run_until_complete(main())


def test_a_run_of_a_monitors_is_called_while_it_stands_there(loop, monkeypatch):
    original = asyncio.Handle._run
    ran = 0

    def run(handle: Any) -> None:
        nonlocal ran
        ran += 1
        original(handle)

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.Handle, "_run", run)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert ran > 0
        await until_native(loop)

    loop.run_until_complete(main())


REPLACEABLE = ("call_at", "time", "_run_once", "_process_events", "_timer_handle_cancelled", "_write_to_self")


@pytest.mark.parametrize("name", REPLACEABLE)
def test_a_method_that_a_program_puts_on_the_loop_keeps_c_away_only_while_it_is_there(loop, name):
    original = getattr(loop, name)
    replacement = mock.Mock(wraps=original)

    async def main() -> None:
        with mock.patch.object(loop, name, replacement):  # deletes it again
            await asyncio.sleep(0.001)
            assert not is_native(loop)
        assert name not in loop.__dict__
        await until_native(loop)
        setattr(loop, name, replacement)
        await asyncio.sleep(0.001)
        assert not is_native(loop)
        setattr(loop, name, original)  # as other tools do
        await until_native(loop)

    loop.run_until_complete(main())


@pytest.mark.parametrize("name", REPLACEABLE)
def test_one_method_that_a_program_puts_on_the_loop_keeps_c_away(loop, name):
    other_loop = CORES["c"]()

    async def main() -> None:
        for each in REPLACEABLE:
            setattr(loop, each, getattr(other_loop, each) if each == name else getattr(loop, each))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not is_native(loop)
        delattr(loop, name)
        await until_native(loop)

    loop.run_until_complete(main())
    other_loop.close()


@pytest.mark.parametrize("delay", [None, "1", object(), 10**400], ids=["None", "text", "object", "huge"])
@pytest.mark.parametrize("method", ["call_later", "call_at"])
@pytest.mark.parametrize("core", CORES)
def test_what_is_no_time_fails_as_on_the_standard_loop(core, method, delay):
    loops = [asyncio.SelectorEventLoop(), CORES[core]()]
    errors = []
    for loop in loops:
        # A timer beside it: only then is there anything to compare it with.
        loop.call_later(1000, print)
        try:
            errors.append(getattr(loop, method)(delay, print).when() and None)
        except Exception as error:
            errors.append((type(error), str(error)))
        loop.close()
    assert errors[0] == errors[1]


def test_no_reference_is_lost_by_a_time(loop):
    number, whole = Number(1000.0), 10**6
    before = sys.getrefcount(number), sys.getrefcount(whole)
    for _ in range(100):
        loop.call_at(number, print).cancel()
        loop.call_at(whole, print).cancel()
    loop._timer_heap.sweep()
    assert (sys.getrefcount(number), sys.getrefcount(whole)) == before


def test_the_sum_with_a_delay_may_be_any_code():
    class Delay(float):
        def __radd__(self, other: float) -> float:
            if effects:
                effects.pop()()
            return other + float(self)

    def interrupt() -> None:
        raise KeyboardInterrupt

    loop: Any = CORES["c"]()
    effects: list[Any] = [lambda: setattr(loop, "_timer_heap", CORES["python"]._new_timers())]
    assert loop.call_later(Delay(1000), print) in loop._scheduled
    loop._timer_heap = loop._new_timers()
    effects = [lambda: loop._scheduled]
    assert loop.call_later(Delay(1000), print) in loop._scheduled
    loop._timer_heap = loop._new_timers()
    effects = [interrupt]
    with pytest.raises(KeyboardInterrupt):
        loop.call_later(Delay(1000), print)
    effects = [loop.close]
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_later(Delay(1000), print)


@pytest.mark.parametrize("core", CORES)
def test_timers_run_once_where_a_nested_run_goes_on_in_c(core):
    """Some programs let a running loop run once more, by its private attributes."""
    loop = recorded(core)
    ran: list[int] = []

    def nested() -> None:
        # Set here: were one due by now, the nested run would take what the outer one has counted, on any loop.
        loop.call_later(0.004, ran.append, 1)
        loop.call_later(0.008, ran.append, 2)
        thread, loop._thread_id = loop._thread_id, None
        asyncio._set_running_loop(None)
        try:
            loop.run_until_complete(asyncio.sleep(0.006))
        finally:
            loop._stopping, loop._thread_id = False, thread
            asyncio._set_running_loop(loop)

    async def main() -> None:
        loop.set_debug(True)
        await asyncio.sleep(0)
        loop.set_debug(False)
        loop.call_soon(nested)
        await asyncio.sleep(0.1)

    loop.run_until_complete(main())
    loop.close()
    assert ran == [1, 2]


def test_a_look_at_the_timers_in_debug_mode_is_over_with_it(loop):
    async def main() -> None:
        loop.set_debug(True)
        await asyncio.sleep(0)
        assert len(loop._scheduled) == 0
        loop.call_later(1000, print)
        loop.set_debug(False)
        await until_native(loop)

    loop.run_until_complete(main())
