"""The life of a loop around its iterations, on both loops: errors, asynchronous generators, debug mode, its end."""

import asyncio
import gc
import logging
import sys
import threading
import time

import pytest

from tests.helpers.callbacks import fail, spin

# -- what the exception handler is told


# -- BaseException out of a callback


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

    loop.run_until_complete(asyncio.wait_for(main(), 120))
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
        thread.join(120)
    assert sorted(number for number, _ in results) == list(range(8))
    assert len({id(each) for _, each in results}) == 8


def test_what_was_never_awaited_has_the_standard_loop_s_name(loop_factory):
    """pytest-asyncio ignores this warning by the name, where a test has closed its loop."""
    loop = loop_factory()
    loop.close()
    with pytest.warns(RuntimeWarning, match=r"'BaseEventLoop\.shutdown_asyncgens' was never awaited"):
        loop.shutdown_asyncgens()
        gc.collect()


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
