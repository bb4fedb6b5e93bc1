"""The life of a loop around its iterations, on both loops: errors, asynchronous generators, debug mode, its end."""

import asyncio
import contextvars
import gc
import logging
import sys
import threading
import time

import pytest


@pytest.fixture
def loop(loop_factory):
    loop = loop_factory()
    yield loop
    loop.close()


@pytest.fixture
def contexts(loop):
    seen = []
    loop.set_exception_handler(lambda _, context: seen.append(context))
    return seen


class Stop(BaseException):
    pass


def fail(error=None):
    raise error or ValueError("on purpose")


def spin(loop, times=3):
    for _ in range(times):
        loop.call_soon(loop.stop)
        loop.run_forever()


# -- what the exception handler is told


def test_a_callback_that_raises(loop, contexts):
    handle = loop.call_soon(fail)
    spin(loop)
    (context,) = contexts
    assert set(context) == {"message", "exception", "handle"}
    assert context["message"].startswith("Exception in callback fail() at ")
    assert context["handle"] is handle
    assert str(context["exception"]) == "on purpose"


def test_a_timer_and_a_threadsafe_callback_that_raise(loop, contexts):
    loop.call_later(0, fail)
    loop.call_soon_threadsafe(fail)
    while len(contexts) < 2:
        spin(loop, 1)
    assert {type(context["handle"]).__mro__[-2] for context in contexts} == {asyncio.Handle}


def test_in_debug_mode_the_context_says_where_the_handle_was_made(loop, contexts):
    loop.set_debug(True)
    loop.call_soon(fail)
    spin(loop)
    (context,) = contexts
    assert set(context) == {"message", "exception", "handle", "source_traceback"}
    assert context["message"].startswith("Exception in callback fail() at ")
    assert " created at " in repr(context["handle"])
    last = context["source_traceback"][-1]
    assert (last.filename, last.name) == (__file__, "test_in_debug_mode_the_context_says_where_the_handle_was_made")


@pytest.mark.parametrize("how", ["call_soon", "call_later", "call_at", "call_soon_threadsafe"])
def test_the_source_traceback_ends_at_the_caller(loop, contexts, how):
    loop.set_debug(True)
    first = {"call_later": (0,), "call_at": (loop.time(),)}.get(how, ())
    handle = getattr(loop, how)(*first, fail)
    assert handle._source_traceback[-1].name == "test_the_source_traceback_ends_at_the_caller"
    while not contexts:
        spin(loop, 1)


def test_a_task_whose_exception_nobody_asks_for(loop, contexts):
    async def main():
        fail()

    task = loop.create_task(main(), name="the task")
    spin(loop)
    del task
    gc.collect()
    (context,) = contexts
    assert context["message"] == "Task exception was never retrieved"
    assert context["future"].get_name() == "the task"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="handles and tasks do not tell their context before 3.12")
def test_the_handler_runs_in_the_context_of_the_task(loop_factory):
    loop = loop_factory()
    variable = contextvars.ContextVar("variable", default="none")
    seen = []
    loop.set_exception_handler(lambda _, context: seen.append(variable.get()))

    def callback():
        variable.set("callback")
        fail()

    async def main():
        variable.set("task")
        fail()

    loop.call_soon(callback)
    loop.create_task(main())
    spin(loop)
    gc.collect()
    loop.close()
    assert seen == ["callback", "task"]


def test_the_default_handler_logs(loop, caplog):
    loop.call_exception_handler({"message": "words", "exception": ValueError("of warning"), "b": 2, "a": "one"})
    loop.call_exception_handler({})
    first, second = caplog.records
    assert first.getMessage() == "words\na: 'one'\nb: 2"
    assert first.exc_info[0] is ValueError
    assert (first.name, first.levelname) == ("asyncio", "ERROR")
    assert second.getMessage() == "Unhandled exception in event loop"
    assert not second.exc_info


def test_the_default_handler_logs_where_things_were_made(loop, caplog):
    loop.set_debug(True)

    def callback():
        loop.call_exception_handler({"message": "words"})

    loop.call_soon(callback)
    spin(loop)
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("words\nhandle_traceback: Handle created at (most recent call last):\n")
    assert text.endswith("loop.call_soon(callback)")


def test_a_handler_that_raises(loop, caplog):
    loop.set_exception_handler(lambda *_: fail(KeyError("in the handler")))
    loop.call_soon(fail)
    spin(loop)
    (record,) = caplog.records
    assert record.getMessage().startswith("Unhandled error in exception handler\ncontext: {'message': 'Exception in")
    assert record.exc_info[0] is KeyError


def test_a_default_handler_that_raises(loop_factory, caplog):
    class Loop(loop_factory):
        def default_exception_handler(self, context):
            fail()

    loop = Loop()
    loop.call_exception_handler({"message": "words"})
    loop.set_exception_handler(lambda *_: fail())
    loop.call_exception_handler({"message": "words"})
    loop.close()
    assert caplog.messages == [
        "Exception in default exception handler",
        "Exception in default exception handler while handling an unexpected error in custom exception handler",
    ]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_handler_that_ends_the_program(loop, error):
    loop.set_exception_handler(lambda *_: fail(error()))
    loop.call_soon(fail)
    with pytest.raises(error):
        loop.run_forever()
    assert not loop.is_running()


def test_setting_the_handler(loop):
    assert loop.get_exception_handler() is None
    with pytest.raises(TypeError, match="A callable object or None is expected, got 'no'"):
        loop.set_exception_handler("no")
    loop.set_exception_handler(print)
    assert loop.get_exception_handler() is print
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None


# -- BaseException out of a callback


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_program_leaves_run_forever_and_the_loop_usable(loop, contexts, error):
    seen = []
    loop.call_soon(fail, error("out"))
    loop.call_soon(seen.append, "the next one")
    with pytest.raises(error, match="out"):
        loop.run_forever()
    assert not loop.is_running()
    assert asyncio._get_running_loop() is None
    spin(loop)
    assert seen == ["the next one"]
    assert contexts == []


def test_another_base_exception_goes_to_the_handler(loop, contexts):
    loop.call_soon(fail, Stop("on purpose"))
    spin(loop)
    assert [type(context["exception"]) for context in contexts] == [Stop]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, Stop])
def test_a_base_exception_out_of_a_task(loop, contexts, error):
    async def main():
        fail(error("out"))

    with pytest.raises(error, match="out"):
        loop.run_until_complete(main())
    gc.collect()
    assert not loop.is_running()
    assert contexts == []


# -- asynchronous generators


def test_shutdown_asyncgens_closes_them(loop):
    closed = []

    async def numbers():
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(1)

    async def main():
        kept.extend([numbers(), numbers()])
        for agen in kept:
            await anext(agen)

    kept = []
    loop.run_until_complete(main())
    assert len(loop._asyncgens) == 2
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert closed == [1, 1]
    assert not loop._asyncgens


def test_a_generator_that_goes_away_is_closed_by_the_loop(loop):
    closed = []

    async def numbers():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(asyncio.get_running_loop())

    async def main():
        async for _ in numbers():
            break
        gc.collect()
        while not closed:
            await asyncio.sleep(0)

    loop.run_until_complete(asyncio.wait_for(main(), 60))
    assert closed == [loop]


def test_a_generator_that_fails_to_close(loop, contexts):
    async def numbers():
        try:
            yield 1
        finally:
            fail()

    async def main():
        kept.append(numbers())
        await anext(kept[0])

    kept = []
    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    (context,) = contexts
    assert context["message"].startswith("an error occurred during closing of asynchronous generator <async_generator")
    assert context["asyncgen"] is kept[0]
    assert str(context["exception"]) == "on purpose"


def test_a_generator_after_the_shutdown_warns(loop):
    async def numbers():
        yield 1

    async def main():
        agen = numbers()
        await anext(agen)
        await agen.aclose()

    loop.run_until_complete(loop.shutdown_asyncgens())
    with pytest.warns(ResourceWarning, match=r"was scheduled after loop.shutdown_asyncgens\(\) call"):
        loop.run_until_complete(main())


def test_the_hooks_of_before_come_back(loop):
    before = sys.get_asyncgen_hooks()
    loop.call_soon(fail, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert sys.get_asyncgen_hooks() == before


# -- debug mode


def test_origins_are_tracked_in_debug_mode_only(loop):
    depths = []

    async def main():
        depths.append(sys.get_coroutine_origin_tracking_depth())
        loop.set_debug(False)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        depths.append(sys.get_coroutine_origin_tracking_depth())
        loop.set_debug(True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        depths.append(sys.get_coroutine_origin_tracking_depth())

    loop.set_debug(True)
    assert loop.get_debug() is True
    loop.run_until_complete(main())
    assert depths == [10, 0, 10]
    assert sys.get_coroutine_origin_tracking_depth() == 0


def test_slow_callbacks_are_logged(loop, caplog):
    loop.set_debug(True)
    assert loop.slow_callback_duration == 0.1
    loop.slow_callback_duration = 0.01
    loop.call_soon(time.sleep, 0.02)
    spin(loop)

    async def main():
        time.sleep(0.02)

    loop.run_until_complete(main())
    handle, task = (text for text in caplog.messages if text.startswith("Executing"))
    assert handle.startswith("Executing <Handle sleep(0.02)") and handle.endswith(" seconds")
    assert task.startswith("Executing <Task ") and "created at" in task


def test_other_threads_are_noticed(loop):
    errors = []

    def other():
        for call in (lambda: loop.call_soon(print), lambda: loop.call_later(1, print)):
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))
        loop.call_soon_threadsafe(loop.stop)

    loop.set_debug(True)
    thread = threading.Thread(target=other)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert errors == ["Non-thread-safe operation invoked on an event loop other than the current one"] * 2


def test_what_is_no_callback(loop):
    async def coroutine():
        pass

    loop.set_debug(True)
    with pytest.raises(TypeError, match=r"coroutines cannot be used with call_soon\(\)"):
        loop.call_soon(coroutine)
    with pytest.raises(TypeError, match=r"a callable object was expected by call_soon\(\), got 1"):
        loop.call_soon(1)
    with pytest.raises(TypeError, match=r"coroutines cannot be used with call_at\(\)"):
        loop.call_later(1, coroutine)
    with pytest.raises(TypeError, match=r"coroutines cannot be used with call_soon_threadsafe\(\)"):
        loop.call_soon_threadsafe(coroutine)


# -- states


def test_repr(loop_factory):
    loop = loop_factory()
    name = type(loop).__name__
    assert repr(loop) == f"<{name} running=False closed=False debug=False>"
    loop.set_debug(True)
    loop.call_soon(lambda: (seen.append(repr(loop)), loop.stop()))
    seen = []
    loop.run_forever()
    loop.close()
    assert seen == [f"<{name} running=True closed=False debug=True>"]
    assert repr(loop) == f"<{name} running=False closed=True debug=True>"


def test_an_unclosed_loop_warns_and_closes_itself(loop_factory):
    loop = loop_factory()
    self_pipe = loop._csock
    with pytest.warns(ResourceWarning, match="unclosed event loop <"):
        del loop
        gc.collect()
    assert self_pipe.fileno() == -1


def test_a_closed_loop(loop_factory):
    loop = loop_factory()
    loop.call_soon(print)
    loop.call_later(10, print)
    loop.close()
    loop.close()
    assert loop.is_closed()
    assert not loop._ready and not loop._scheduled
    for call in (
        loop.run_forever,
        lambda: loop.call_soon(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_at(1, print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.run_in_executor(None, print),
    ):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            call()
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_until_complete(coroutine)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.create_task(coroutine)
    coroutine.close()


def test_a_running_loop(loop, loop_factory):
    if loop_factory is asyncio.SelectorEventLoop and sys.version_info[:2] == (3, 13):
        pytest.skip("the standard run_forever of 3.13.0 that refuses takes the running loop's state with it")
    other = loop_factory()
    messages = []

    async def main():
        for call in (
            loop.run_forever,
            lambda: loop.run_until_complete(loop.create_future()),
            other.run_forever,
            loop.close,
        ):
            try:
                call()
            except RuntimeError as error:
                messages.append(str(error))

    loop.run_until_complete(main())
    other.close()
    assert messages == [
        "This event loop is already running",
        "This event loop is already running",
        "Cannot run the event loop while another loop is running",
        "Cannot close a running event loop",
    ]
    assert loop.is_running() is False


def test_stop_before_the_future_is_done(loop):
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match=r"Event loop stopped before Future completed\."):
        loop.run_until_complete(loop.create_future())


def test_stop_ends_after_the_iteration(loop):
    seen = []
    loop.call_soon(loop.stop)
    loop.call_soon(lambda: (seen.append(1), loop.call_soon(seen.append, 2)))
    loop.run_forever()
    assert seen == [1]
    loop.stop()
    loop.run_forever()
    assert seen == [1, 2]


def test_close_is_logged_in_debug_mode(loop_factory, caplog):
    caplog.set_level(logging.DEBUG, "asyncio")
    loop = loop_factory()
    loop.set_debug(True)
    loop.close()
    assert any(text.startswith("Close <") for text in caplog.messages)
    assert any(text.startswith("Using selector: ") for text in caplog.messages)


def test_many_loops_in_many_threads(loop_factory):
    results = []

    async def main(number):
        await asyncio.sleep(0.001)
        results.append((number, asyncio.get_running_loop()))

    def other(number):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main(number))

    threads = [threading.Thread(target=other, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(number for number, _ in results) == list(range(8))
    assert len({id(each) for _, each in results}) == 8


def test_a_class_s_clock_and_call_at_are_asked_for_timers(loop_factory, monkeypatch):
    """freezegun replaces the clock of the loop's class while loops of it run."""

    async def main():
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patch:
            patch.setattr(type(loop), "time", lambda self: 1e6)
            timer = loop.call_later(5, print)
            assert timer.when() == 1e6 + 5
            timer.cancel()
        asked = []
        call_at = type(loop).call_at

        def noted(self, when, *args, **rest):
            asked.append(when)
            return call_at(self, when, *args, **rest)

        with monkeypatch.context() as patch:
            patch.setattr(type(loop), "call_at", noted)
            timer = loop.call_later(5, print)
        assert asked == [timer.when()]
        timer.cancel()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


@pytest.mark.parametrize("recorder", [None, False], ids=["recorded", "unrecorded"])
def test_a_clock_that_a_test_puts_on_the_running_loop(loop_factory, recorder, monkeypatch):
    """aiohttp's tests move the time of their loop by a mock while it runs."""

    async def main():
        loop = asyncio.get_running_loop()
        fired = []
        start = loop.time()
        loop.call_later(3600, fired.append, "an hour")
        loop.call_later(7200, fired.append, "two hours")
        with monkeypatch.context() as patch:
            patch.setattr(loop, "time", lambda: start + 3601)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert fired == ["an hour"]
        await asyncio.wait_for(asyncio.sleep(0.01), 10)
        assert fired == ["an hour"]
        assert loop.time() - start < 3600

    standard = loop_factory is asyncio.SelectorEventLoop
    factory = loop_factory if standard else lambda: loop_factory(recorder=recorder)
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
