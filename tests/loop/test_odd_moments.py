"""What the program does at odd moments: in finalizers, in signal handlers, in objects that the loop only looks at."""

import asyncio
import collections
import ctypes
import gc
import signal
import sys
import threading

import pytest

raise_signal = ctypes.CDLL(None)["raise"]


@pytest.fixture
def sigterm():
    before = signal.getsignal(signal.SIGTERM)
    gc.disable()  # what a handler raises within a callback of the garbage collector is lost, whoever's it is
    yield lambda handler: signal.signal(signal.SIGTERM, handler)
    gc.enable()
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_a_handler_raises_after_the_last_step_of_a_task_ends_the_loop(loop, sigterm, error):
    async def work():
        pass

    def cancelled():
        task = loop.create_task(work())
        task.cancel()
        return task

    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(cancelled())

    def handler(number, frame):
        raise error

    sigterm(handler)
    # No line of Python runs between the signal and the end of the task's step.
    loop.call_soon(raise_signal, int(signal.SIGTERM))
    task = cancelled()
    loop.call_later(5, loop.stop)
    with pytest.raises(error):
        loop.run_forever()
    loop.run_until_complete(asyncio.wait([task]))


def test_the_queue_is_replaced_while_a_cancelled_handle_is_looked_at(loop):
    class Cancelled:
        def __bool__(self):
            loop._ready = collections.deque(loop._ready)
            return True

    def begin():
        handle = loop.call_soon(print)
        handle._callback = None
        handle._cancelled = Cancelled()

    loop.call_soon(begin)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert isinstance(loop._ready, collections.deque)


def test_the_queue_is_replaced_while_a_handle_is_made(loop):
    class Cycle:
        def __init__(self):
            self.itself = self

        def __del__(self):
            loop._ready = collections.deque()

    before, thresholds = loop._ready, gc.get_threshold()
    gc.disable()
    try:
        for number in range(500):
            Cycle()
            gc.set_threshold(number % 40 + 1)
            gc.enable()
            handles = [loop.call_soon(print, 1, 2, 3) for _ in range(30)]
            gc.disable()
            assert len(handles) == 30
            loop._ready = type(before)()
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()


def test_what_finalizers_schedule_while_the_queue_is_cleared_stays(loop):
    made = []

    class Again:
        def __call__(self):
            pass

        def __del__(self):
            made.append(1)
            if len(made) < 1000:
                loop.call_soon(Again())

    loop.call_soon(Again())
    loop._ready.clear()
    assert (len(made), len(loop._ready)) == (1, 1)
    made += [1] * 1000


def test_a_generator_that_runs_a_loop_handles_no_exception_of_its_caller(loop):
    loop.set_exception_handler(lambda *_: None)

    def fail():
        raise ValueError

    def generator():
        loop.call_soon(fail)
        loop.call_soon(loop.stop)
        loop.run_forever()
        yield
        yield sys.exc_info()[1]

    steps = generator()
    try:
        raise KeyError("outer")
    except KeyError:
        next(steps)
    assert next(steps) is None


def test_an_exception_that_is_handled_is_so_while_the_handler_of_errors_runs_and_after(loop):
    seen = []
    loop.set_exception_handler(lambda *_: seen.append(repr(sys.exc_info()[1])))

    def fail():
        raise ValueError

    loop.call_soon(fail)
    loop.call_soon(loop.stop)
    try:
        raise KeyError("outer")
    except KeyError as error:
        loop.run_forever()
        assert sys.exc_info()[1] is error
    assert seen == ["ValueError()"]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a tuple that is made begins no collection")
def test_another_thread_may_ask_what_runs_though_a_collection_begins_there(ours):
    """A finalizer lets the loop's thread go on meanwhile."""
    started, may_end = threading.Event(), threading.Event()

    class Cycle:
        def __init__(self):
            self.itself = self

        def __del__(self):
            may_end.set()
            ended.wait(2)

    ended = threading.Event()
    answers = []

    def ask(loop):
        started.wait(10)
        gc.collect()
        gc.disable()
        Cycle()
        asked = getattr(loop, "_run_under_way", tuple)
        gc.set_threshold(1)
        gc.enable()
        answers.append(asked())
        may_end.set()

    def run():
        started.set()
        may_end.wait(10)

    async def main(loop):
        thread = threading.Thread(target=ask, args=(loop,))
        thread.start()
        loop.call_soon(run)
        await asyncio.sleep(0.05)
        ended.set()
        await asyncio.to_thread(thread.join)

    thresholds = gc.get_threshold()
    try:
        ours(main)
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()
    repr(answers)
