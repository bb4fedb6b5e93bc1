"""A signal that comes while the recording is at work: what its handler raises is the program's."""

from __future__ import annotations

import asyncio
import signal
import sys
from functools import partial
from typing import Any

import pytest

from tests.helpers.cores import CORES
from traceloop.recording import failures, recorder
from traceloop.recording.process import Process
from traceloop.settings import Settings


class Programs(Exception):
    """An exception of the program's."""


def function(number: int, frame: Any) -> None:
    raise Programs


class Object:
    def method(self, number: int, frame: Any) -> None:
        raise Programs


HANDLERS = {
    "function": function,
    "method": Object().method,
    "partial": partial(lambda more, *given: function(*given), "more"),
}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
@pytest.mark.parametrize("last", [False, True], ids=["while it runs", "last"])
@pytest.mark.parametrize("core", CORES)
def test_what_the_handler_raises_during_a_flush_reaches_the_program(monkeypatch, core, last, handler):
    kind: Any = CORES[core]
    made = recorder.Recorder(Process(Settings(ring_size=1 << 20)), kind._new_record(), kind._new_queue())
    loop = kind(recorder=made)
    write_gauges = recorder.write_gauges
    waiting = [signal.SIGUSR1]

    def interrupted(*given: Any) -> None:
        if waiting and made.is_running != last and loop.is_running():
            signal.raise_signal(waiting.pop())
        write_gauges(*given)

    async def main() -> None:
        await asyncio.sleep(0 if last else 60)

    loop.run_until_complete(asyncio.sleep(0))
    monkeypatch.setattr(recorder, "write_gauges", interrupted)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(Programs):
            loop.run_until_complete(main())
        assert not waiting
    finally:
        signal.signal(signal.SIGUSR1, before)
    # The recording goes on.
    records = made.ring.records
    loop.run_until_complete(asyncio.sleep(0))
    assert made.ring.records > records and not made._broken
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_a_fault_of_the_recording_is_none_of_a_handlers():
    try:
        sys.intern(1)  # type: ignore[arg-type]
    except TypeError as error:
        assert not failures.is_handlers(error)
    try:
        asyncio.Future(loop=7)  # type: ignore[arg-type]
    except AttributeError as error:
        assert not failures.is_handlers(error)


@pytest.mark.parametrize("place", ["_run_forever_setup", "_run_forever_cleanup"])
@pytest.mark.parametrize("core", CORES)
def test_no_loop_stays_the_running_one_where_the_handler_raises_at_either_end_of_a_run(monkeypatch, core, place):
    """A handler runs where a function of Python's begins, and after each call within it."""
    kind: Any = CORES[core]
    loop = kind()
    original = getattr(loop, place)

    def interrupted() -> None:
        if place == "_run_forever_setup":
            original()
        signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, function)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(loop, place, interrupted)
            loop.call_soon(loop.stop)
            with pytest.raises(Programs):
                loop.run_forever()
        assert asyncio.events._get_running_loop() is None and not loop.is_running()
        if place == "_run_forever_setup":
            loop.run_forever()  # what was put in is there
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        signal.signal(signal.SIGUSR1, before)
        loop.close()


def test_an_audit_hook_that_looks_at_its_caller_is_no_handler():
    def hook() -> None:
        caller = sys._getframe(1)
        raise PermissionError(f"{caller.f_code.co_name} opens a file")

    def taking(number: int, frame: Any) -> None:
        raise PermissionError

    for raising, is_handler in ((hook, False), (lambda: taking(1, sys._getframe(0)), True)):
        with pytest.raises(PermissionError) as raised:
            raising()
        assert failures.is_handlers(raised.value) is is_handler
