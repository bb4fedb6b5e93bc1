"""Looks at tasks that are not as most are: no such task may be in the way of the others, or of itself."""

import asyncio
import collections.abc
import contextlib
import gc
import threading
import types

import pytest

from tests.helpers.cores import CORES
from tests.helpers.in_cython import compiled
from tests.recording.waiting.test_task_looks import Look, Written, in_generator, named, wait_in_queue
from traceloop.recording import failures
from traceloop.recording.waiting import task_looks
from traceloop.recording.waiting.task_looks import TaskLooks, task_references


@pytest.fixture(params=CORES)
def run(request):
    """Runs a coroutine function on a loop of each core."""

    def runs(main):
        with asyncio.Runner(loop_factory=CORES[request.param]) as runner:
            return runner.run(main())

    return runs


def looked_at(run, **coroutines):
    """As ``look_at``, on that core, beside a task that waits in a queue, which must be found."""

    async def main():
        tasks = [named(function(), name) for name, function in coroutines.items()]
        tasks.append(named(wait_in_queue(), "beside"))
        for _ in range(10):
            await asyncio.sleep(0)
        written = Written()
        looks = TaskLooks(written)
        look = Look(looks, written)
        assert not looks._failed
        assert look.frames["beside"][0][-1] == "Queue.get"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return look

    return run(main)


def test_a_failure_of_ours_is_reported_once_and_one_of_the_programs_not(run, monkeypatch, caplog):
    monkeypatch.setattr(failures, "_reported", set())
    looked_at(run, odd=Hand)
    assert not caplog.records
    monkeypatch.setattr(task_looks, "awaited_tasks", None)

    async def main():
        tasks = [named(wait_in_queue(), f"{number}") for number in range(3)]
        await asyncio.sleep(0)
        written = Written()
        for _ in range(2):
            Look(TaskLooks(written), written)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main)
    (record,) = caplog.records
    assert record.getMessage() == "traceloop: a task could not be looked at; the application runs on"


class Hand(collections.abc.Coroutine):
    """A coroutine by hand: it has no frame, and lies about one."""

    def __init__(self):
        self._inner = asyncio.Event().wait().__await__()

    @property
    def cr_frame(self):
        raise RuntimeError("code of the program's")

    gi_frame = cr_await = cr_frame

    def send(self, value):
        return self._inner.send(value)

    def throw(self, *error):
        return self._inner.throw(*error)

    def close(self):
        self._inner.close()

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)


def test_a_coroutine_without_a_frame(run):
    assert "odd" not in looked_at(run, odd=Hand).frames


def test_an_awaitable_without_a_frame_ends_the_chain(run):
    async def awaits():
        await Hand()

    assert [name.rpartition(".")[2] for name in looked_at(run, odd=awaits).frames["odd"][0]] == ["awaits"]


def test_a_coroutine_made_of_a_generator(run):
    @types.coroutine
    def generator():
        yield from asyncio.Event().wait().__await__()

    async def awaits():
        await generator()

    found, _ = looked_at(run, odd=awaits).frames["odd"]
    assert [name.rpartition(".")[2] for name in found] == ["awaits", "generator", "wait"]


def test_an_asynchronous_generator_that_is_being_closed(run):
    async def numbers():
        try:
            yield 1
        finally:
            await asyncio.Event().wait()

    async def closes():
        each = numbers()
        await anext(each)
        await each.aclose()

    found, _ = looked_at(run, odd=closes, generator=in_generator).frames["odd"]
    assert [name.rpartition(".")[2] for name in found] == ["closes", "numbers", "wait"]


def test_a_task_type_that_is_unlike_asyncios(run):
    class Odd(asyncio.Task):
        def get_coro(self):
            raise RuntimeError("code of the program's")

    async def starts():
        task = Odd(wait_in_queue(), loop=asyncio.get_running_loop(), name="task")
        try:
            await task
        finally:
            task.cancel()

    assert "task" not in looked_at(run, odd=starts).frames


def test_the_task_that_runs_in_the_loops_thread(run):
    """The look is made in another thread in the middle of a task's step, as the watchdog makes it."""

    async def main():
        loop = asyncio.get_running_loop()
        waits = named(wait_in_queue(), "waits")
        await asyncio.sleep(0)
        loop._recorder.flush(loop, loop.time())
        written = Written()
        looks = TaskLooks(written)

        def look():
            looks.poll([loop], loop.time())
            while looks.under_way:
                looks.poll([loop], loop.time())

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        waits.cancel()
        return written.pending[3::3], waits._loop_ident, looks._failed

    found, ident, failed = run(main)
    assert found == [ident] and not failed


def test_tasks_that_are_collected_while_they_are_looked_at(run, monkeypatch):
    monkeypatch.setattr(task_looks, "_TAKING_SECONDS", 0.0)  # those of the look's beginning

    async def main():
        loop = asyncio.get_running_loop()
        tasks = [named(wait_in_queue(), f"{number}") for number in range(50)]
        await asyncio.sleep(0)
        loop._recorder.flush(loop, loop.time())
        written = Written()
        looks = TaskLooks(written)
        look = looks._look_of(loop)
        look.begin(loop, loop.time())
        for task in tasks[10:]:
            task.cancel()
        await asyncio.gather(*tasks[10:], return_exceptions=True)
        del tasks[10:], task
        gc.collect()
        while look.left:
            looks.poll([loop], loop.time())
        found = {a for a, kind in zip(written.pending[::3], written.pending[1::3], strict=True) if kind == -31.0}
        assert {task._loop_ident for task in tasks} == found and not looks._failed
        for task in tasks:
            task.cancel()

    run(main)


def test_each_loop_has_its_own_tasks(run):
    async def main():
        there, over = threading.Event(), threading.Event()

        async def elsewhere():
            task = named(wait_in_queue(), "elsewhere")
            await asyncio.sleep(0)
            there.set()
            await asyncio.to_thread(over.wait)
            task.cancel()

        def run_elsewhere():
            with asyncio.Runner(loop_factory=type(loop)) as runner:
                runner.run(elsewhere())

        thread = threading.Thread(target=run_elsewhere)
        loop = asyncio.get_running_loop()
        thread.start()
        try:
            await asyncio.to_thread(there.wait)
            here = named(wait_in_queue(), "here")
            await asyncio.sleep(0)
            written = Written()
            frames = Look(TaskLooks(written), written).frames
            here.cancel()
        finally:
            over.set()
            await asyncio.to_thread(thread.join)
        return set(frames)

    assert run(main) == {"here"}


def test_the_child_of_a_fork_writes_nothing(run):
    async def main():
        loop = asyncio.get_running_loop()
        task = named(wait_in_queue(), "waits")
        await asyncio.sleep(0)
        written = Written()
        looks = TaskLooks(written)
        looks._look_of(loop).begin(loop, loop.time())
        written.forked = True  # in the middle of a look
        looks.poll([loop], loop.time())
        task.cancel()
        return written.pending

    assert run(main) == []


CYTHON = """
async def outer(function):
    await inner(function)

async def inner(function):
    await function()
"""


@pytest.fixture(scope="module")
def in_cython(tmp_path_factory):
    """The module above, compiled."""
    with compiled(tmp_path_factory.mktemp("cython"), "compiled_waits", CYTHON) as module:
        yield module


def test_coroutines_of_cython_are_part_of_the_chain(run, in_cython):
    found, _ = looked_at(run, odd=lambda: in_cython.outer(wait_in_queue)).frames["odd"]
    assert [name.rpartition(".")[2] for name in found] == ["outer", "inner", "wait_in_queue", "get"]


def test_references_to_tasks_that_end_meanwhile(run):
    async def main():
        tasks = [asyncio.create_task(asyncio.sleep(0)) for _ in range(100)]
        references = task_references(asyncio.get_running_loop())
        await asyncio.gather(*tasks)
        with contextlib.suppress(NameError):
            del tasks
        await asyncio.sleep(0)
        gc.collect()
        return [reference() for reference in references if reference() is not None and not reference().done()]

    assert len(run(main)) == 1  # the main task
