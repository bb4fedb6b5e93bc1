"""Results, errors, cancellation, pickling and lifetimes: what a program sees, on the standard loop and on the recorded
one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import logging
import multiprocessing
import sys
import threading
import traceback
import weakref
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from tests.helpers import offloaded_functions as functions
from tests.helpers.executors import ContextPool, Inline, OneThread
from tests.helpers.offloads import run
from traceloop.loop.event_loop import EventLoop
from traceloop.recording.process import Process
from traceloop.recording.recorder import Recorder
from traceloop.settings import Settings


@pytest.fixture(params=["standard", "recorded"])
def loop(request: Any) -> Iterator[Any]:
    if request.param == "standard":
        loop: Any = asyncio.SelectorEventLoop()
    else:
        loop = EventLoop(recorder=Recorder(Process(Settings(ring_size=1 << 20))))
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def _frames(error: BaseException) -> list[str]:
    """The functions of the worker's part of a traceback."""
    workers = ("/concurrent/", "/tests/helpers/", "/traceloop/recording/")
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.name for frame in frames if any(part in frame.filename for part in workers)]


@pytest.mark.parametrize("make", [concurrent.futures.ThreadPoolExecutor, ContextPool, OneThread])
def test_results_and_errors_with_the_workers_traceback(loop: Any, make: Any) -> None:
    async def main() -> None:
        pool = make()
        try:
            assert await loop.run_in_executor(pool, functions.square, 3) == 9
            with pytest.raises(ValueError) as caught:
                await loop.run_in_executor(pool, functions.fail, 3)
            names = _frames(caught.value)
            assert names[-1] == "fail"
            # Nothing between what runs the function and the function, and no frame of the recorder's anywhere.
            files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
            assert not any("traceloop/recording" in file for file in files)
            assert caught.value.__context__ is None and caught.value.__cause__ is None
            with pytest.raises(TypeError) as wrong:
                await loop.run_in_executor(pool, functions.square)
            files = [frame.filename for frame in traceback.extract_tb(wrong.value.__traceback__)]
            assert not any("traceloop/recording" in file for file in files)
        finally:
            pool.shutdown()

    run(loop, main())


def test_an_error_keeps_no_frame_of_the_recorder_alive(loop: Any) -> None:
    class Held:
        pass

    async def main() -> weakref.ref[Held]:
        held = Held()
        with pytest.raises(ValueError):
            await loop.run_in_executor(None, _raise_with, held)
        reference = weakref.ref(held)
        del held
        await loop.shutdown_default_executor()  # the worker lets go of the call after its result is known
        return reference

    def _raise_with(held: Held) -> None:
        raise ValueError

    reference = run(loop, main())
    gc.collect()
    assert reference() is None


def test_arguments_and_results_live_no_longer(loop: Any) -> None:
    class Held:
        pass

    async def main() -> list[weakref.ref[Held]]:
        argument = Held()
        references = [weakref.ref(argument)]
        result = await loop.run_in_executor(None, lambda held: Held(), argument)
        references.append(weakref.ref(result))
        del argument, result
        # The worker lets go of its work item at its own time; the next one makes sure of it.
        await loop.run_in_executor(None, functions.square, 1)
        return references

    gc.disable()
    try:
        references = run(loop, main())
        deadline = threading.Event()
        for _ in range(100):
            if not any(reference() is not None for reference in references):
                break
            deadline.wait(0.02)
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("make", [concurrent.futures.ThreadPoolExecutor, ContextPool])
def test_cancelled_before_it_starts_it_never_runs(loop: Any, make: Any) -> None:
    ran: list[int] = []

    async def main() -> None:
        go = threading.Event()
        with make(1) as pool:
            first = loop.run_in_executor(pool, go.wait, 10)
            second = loop.run_in_executor(pool, ran.append, 2)
            second.cancel()
            await asyncio.sleep(0)  # the cancellation is passed on by a callback
            with pytest.raises(asyncio.CancelledError):
                await second
            go.set()
            assert await first
            await loop.run_in_executor(pool, ran.append, 3)

    run(loop, main())
    assert ran == [3]


def test_cancelled_while_it_runs_it_runs_to_its_end(loop: Any) -> None:
    ran: list[str] = []

    async def main() -> None:
        started, go = threading.Event(), threading.Event()

        def work() -> None:
            started.set()
            go.wait(120)
            ran.append("to the end")

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            future = loop.run_in_executor(pool, work)
            await loop.run_in_executor(None, started.wait, 120)
            future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future
            assert ran == []
            go.set()

    run(loop, main())
    assert ran == ["to the end"]


def test_a_loop_closed_before_the_end_hears_nothing(caplog: pytest.LogCaptureFixture) -> None:
    for loop in (asyncio.SelectorEventLoop(), EventLoop(recorder=Recorder(Process(Settings(ring_size=1 << 20))))):
        go = threading.Event()
        pool = concurrent.futures.ThreadPoolExecutor(1)
        with caplog.at_level(logging.ERROR):
            loop.call_soon(loop.stop)
            loop.run_forever()
            future = loop.run_in_executor(pool, go.wait, 10)
            loop.close()
            go.set()
            pool.shutdown()
        assert not future.done()
        assert caplog.text == ""


def test_system_exit_and_stop_iteration(loop: Any) -> None:
    def exits() -> None:
        raise SystemExit(3)

    def stops() -> None:
        raise StopIteration

    async def main() -> None:
        with pytest.raises(SystemExit):
            await loop.run_in_executor(None, exits)
        if sys.version_info >= (3, 13):
            # An earlier asyncio leaves that future pending for ever.
            with pytest.raises(RuntimeError):
                await loop.run_in_executor(None, stops)

    run(loop, main())


def test_process_pool_results_errors_and_what_cannot_be_pickled(loop: Any) -> None:
    async def main() -> None:
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
            assert await loop.run_in_executor(pool, functions.square, 3) == 9
            with pytest.raises(ValueError) as caught:
                await loop.run_in_executor(pool, functions.fail, 3)
            remote = str(caught.value.__cause__)
            assert "in fail" in remote and "traceloop" not in remote.replace(functions.__file__, "")
            with pytest.raises(Exception, match=r"pickle|local object") as local:
                await loop.run_in_executor(pool, lambda: 1)
            assert not any("traceloop" in note for note in getattr(local.value, "__notes__", []))
            with pytest.raises(Exception, match="not to be pickled"):
                await loop.run_in_executor(pool, functions.return_unpicklable)
            with pytest.raises(RuntimeError, match="not to be pickled"):
                await loop.run_in_executor(pool, functions.square, functions.Unpicklable())
            assert await loop.run_in_executor(pool, functools.partial(functions.square, 4)) == 16
            assert await loop.run_in_executor(pool, functions.Thing().method, 4) == 5

    run(loop, main())


def test_a_broken_process_pool_says_so(loop: Any) -> None:
    import os

    async def main() -> None:
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
            futures = [loop.run_in_executor(pool, os._exit, 1), loop.run_in_executor(pool, functions.square, 1)]
            results = await asyncio.gather(*futures, return_exceptions=True)
            assert all(isinstance(each, concurrent.futures.BrokenExecutor) for each in results)
            with pytest.raises(concurrent.futures.BrokenExecutor):
                await loop.run_in_executor(pool, functions.square, 1)

    run(loop, main())


def test_an_executor_of_the_programs_own_gets_the_callers_function(loop: Any) -> None:
    async def main() -> None:
        with ContextPool(1) as pool:
            await loop.run_in_executor(pool, functions.square, 1)
            assert pool.submitted == [functions.square]
        assert await loop.run_in_executor(Inline(), functions.square, 5) == 25
        with pytest.raises(ValueError):
            await loop.run_in_executor(Inline(), functions.fail, 5)

    run(loop, main())


class _Passes:
    """An executor that passes everything on to another, and asks nobody what it is."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor

    def __getattr__(self, name: str) -> Any:
        if name != "submit":
            raise KeyError(name)
        return getattr(self.executor, name)


def test_what_stands_in_for_an_executor_is_asked_for_submit_only(loop: Any) -> None:
    done: concurrent.futures.Future[int] = concurrent.futures.Future()
    done.set_result(9)
    pool = concurrent.futures.ThreadPoolExecutor(1)

    async def main() -> None:
        for make in (mock.Mock, mock.MagicMock):
            for spec in (None, concurrent.futures.Executor, concurrent.futures.ThreadPoolExecutor):
                executor = make(spec=spec)
                executor.submit.return_value = done
                assert await loop.run_in_executor(executor, functions.square, 3) == 9
                assert executor.mock_calls == [mock.call.submit(functions.square, 3)]
        with (
            mock.patch("concurrent.futures.ThreadPoolExecutor") as threads,
            mock.patch("concurrent.futures.process.ProcessPoolExecutor"),
        ):
            threads.return_value.submit.return_value = done
            executor = concurrent.futures.ThreadPoolExecutor(2)
            assert await loop.run_in_executor(executor, functions.square, 3) == 9
        assert await loop.run_in_executor(_Passes(pool), functions.square, 3) == 9

    run(loop, main())
    pool.shutdown()


class _Liar:
    @property
    def __class__(self) -> Any:
        raise ZeroDivisionError

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise ZeroDivisionError

    def __call__(self) -> str:
        return "liar"


class _Silent:
    def __getattribute__(self, name: str) -> Any:
        raise ZeroDivisionError

    def __call__(self) -> str:
        return "silent"


class _Kind(type):
    def __getattribute__(cls, name: str) -> Any:
        raise ZeroDivisionError


def _of_silent_kind() -> Any:
    # Made where it is used, and gone with it: other tests ask all objects that there are for their class.
    class OfSilentKind(metaclass=_Kind):
        def __call__(self) -> str:
            return "of a silent kind"

    return OfSilentKind()


def _without_module(function: Any) -> str:
    return "without module"


_without_module.__module__ = 7  # type: ignore[assignment]


@pytest.mark.parametrize("number", range(4))
def test_what_lies_about_itself_runs(loop: Any, number: int) -> None:
    make, result = [
        (_Liar, "liar"),
        (_Silent, "silent"),
        (_of_silent_kind, "of a silent kind"),
        (functools.partial(functools.partial, _without_module, function=len), "without module"),
    ][number]

    async def main() -> None:
        assert await loop.run_in_executor(None, make()) == result

    loop.set_debug(False)  # there it is asked whether it is a coroutine, on either loop
    run(loop, main())
    gc.collect()


class _OwnFuture(concurrent.futures.Future[int]):
    """One that keeps its state in a way of its own."""

    @property
    def _condition(self) -> Any:
        raise ZeroDivisionError

    @_condition.setter
    def _condition(self, value: Any) -> None:
        pass

    def add_done_callback(self, function: Any) -> None:
        function(self)

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def exception(self, timeout: float | None = None) -> None:
        return None

    def result(self, timeout: float | None = None) -> int:
        return 5

    def _get_snapshot(self) -> tuple[bool, bool, int, None]:  # what 3.14 asks
        return True, False, 5, None


def test_a_future_that_cannot_be_watched_reaches_the_loop(loop: Any) -> None:
    class Executor(concurrent.futures.Executor):
        def submit(self, *args: Any, **keywords: Any) -> Any:
            return _OwnFuture()

    async def main() -> None:
        assert await asyncio.wait_for(loop.run_in_executor(Executor(), functions.square, 3), 30) == 5

    run(loop, main())


def test_a_submit_put_in_place_of_the_pools_gets_the_callers_function(loop: Any) -> None:
    pool: Any = concurrent.futures.ThreadPoolExecutor(1)
    seen: list[Any] = []
    original = pool.submit

    def submit(function: Any, *args: Any) -> Any:
        seen.append((function, *args))
        return original(function, *args)

    async def main() -> None:
        pool.submit = submit
        assert await loop.run_in_executor(pool, functions.square, 3) == 9
        del pool.submit
        assert await loop.run_in_executor(pool, functions.square, 4) == 16

    run(loop, main())
    assert seen == [(functions.square, 3)]
    pool.shutdown()


def test_refused_submissions_raise_where_they_are_made(loop: Any) -> None:
    pool = concurrent.futures.ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown") as caught:
        loop.run_in_executor(pool, functions.square, 1)
    assert caught.value.__traceback__ is not None

    class Wrong:
        def submit(self, function: Any, *args: Any) -> str:
            return "no future"

    with pytest.raises(AssertionError, match=r"concurrent\.futures\.Future is expected"):
        loop.run_in_executor(Wrong(), functions.square, 1)


def test_a_thread_pool_whose_initializer_fails_is_broken(loop: Any, caplog: pytest.LogCaptureFixture) -> None:
    def initializer() -> None:
        raise OSError("no")

    async def main() -> None:
        pool = concurrent.futures.ThreadPoolExecutor(1, initializer=initializer)
        with pool, pytest.raises(concurrent.futures.BrokenExecutor):
            await loop.run_in_executor(pool, functions.square, 1)

    with caplog.at_level(logging.CRITICAL + 1):
        run(loop, main())


def test_to_thread_carries_the_context(loop: Any) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")

    async def main() -> None:
        variable.set(5)
        assert await asyncio.to_thread(variable.get) == 5

    run(loop, main())


@pytest.mark.skipif(sys.version_info < (3, 14), reason="pools of interpreters came with 3.14")
def test_a_pool_of_interpreters_gets_what_the_caller_gave(loop: Any) -> None:
    """It has a thread pool's ``submit``, and pickles."""

    async def main() -> None:
        with concurrent.futures.InterpreterPoolExecutor(1) as pool:  # type: ignore[attr-defined,unused-ignore]
            assert await loop.run_in_executor(pool, abs, -4) == 4

    run(loop, main())
