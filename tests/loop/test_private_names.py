"""Private names that programs in the field read, call or replace: they work as on the standard loop."""

from __future__ import annotations

import asyncio
import selectors
import threading
from asyncio.base_events import _format_handle
from concurrent.futures import ThreadPoolExecutor


def test_another_thread_wakes_the_loop_by_write_to_self(loop):
    async def main():
        loop.call_later(60, loop.stop)
        done = loop.create_future()

        def poke():
            # As programs do that put something into a queue of the loop's from outside.
            loop._ready.append(asyncio.Handle(done.set_result, (1,), loop))
            loop._write_to_self()

        thread = threading.Thread(target=poke)
        loop.call_soon(thread.start)
        assert await done == 1
        thread.join()

    loop.run_until_complete(main())


def test_the_thread_of_a_running_loop_is_known(loop):
    async def main():
        return loop._thread_id

    assert loop._thread_id is None
    assert loop.run_until_complete(main()) == threading.get_ident()
    assert loop._thread_id is None


def test_the_default_executor_is_there_once_it_is_used_and_can_be_taken_away(loop):
    async def main():
        assert loop._default_executor is None
        await loop.run_in_executor(None, int)
        first = loop._default_executor
        assert isinstance(first, ThreadPoolExecutor)
        loop._default_executor = None
        await loop.run_in_executor(None, int)
        assert loop._default_executor is not first
        first.shutdown()

    loop.run_until_complete(main())


def test_a_handle_shows_what_it_calls(loop):
    def callback(a, b):
        pass

    async def main():
        handle = loop.call_soon(callback, 1, 2)
        timer = loop.call_later(60, callback, 3, 4)
        task = asyncio.ensure_future(asyncio.sleep(0))
        assert (handle._callback, handle._args, handle._loop) == (callback, (1, 2), loop)
        assert (timer._callback, timer._args, timer._scheduled) == (callback, (3, 4), True)
        assert ".callback(" in _format_handle(handle)  # with its arguments up to 3.11
        assert any(_format_handle(each) == repr(task) for each in loop._ready)
        assert timer in loop._scheduled and len(loop._scheduled) == 1
        timer.cancel()
        assert timer._callback is None and timer._args is None and timer._cancelled
        await task

    loop.run_until_complete(main())


def test_what_waits_can_be_thrown_away(loop):
    """Clean-up code of tests and of workers after a fork does so."""
    called = []

    async def main():
        loop.call_soon(called.append, 1)
        loop._ready.clear()
        loop.call_later(0.0, called.append, 2)
        loop._scheduled.clear()
        await asyncio.sleep(0.01)

    loop.run_until_complete(main())
    assert called == []


def test_the_selector_has_the_registered_descriptors(loop):
    async def main():
        assert isinstance(loop._selector, selectors.BaseSelector)
        files = {key.fileobj for key in loop._selector.get_map().values()}
        assert loop._ssock in files or loop._ssock.fileno() in files
        assert loop._ssock.fileno() in loop._selector._fd_to_key

    loop.run_until_complete(main())


def test_flags_are_those_of_the_standard_loop(loop):
    async def main():
        assert (loop._debug, loop._closed, loop._stopping) == (False, False, False)
        loop.stop()
        assert loop._stopping

    loop.run_until_complete(asyncio.sleep(0))
    loop.create_task(main())
    loop.run_forever()
    assert loop.is_closed() is loop._closed is False
