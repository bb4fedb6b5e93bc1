"""Exceptions out of callbacks and tasks, and the loop's exception handler, as on the standard loop."""

import asyncio
import contextvars
import gc
import sys

import pytest

from tests.helpers.callbacks import Stop, fail, spin


def test_a_callback_that_raises(loop, contexts):
    loop.set_debug(False)
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
