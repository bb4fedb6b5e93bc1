"""Names, makers and number of tasks as they stand in the record, however the tasks were made."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from typing import Any

import pytest

from traceloop.loop.event_loop import EventLoop
from traceloop.reading.decoding.ring_reader import RingReader
from traceloop.reading.decoding.stream import LoopStream


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from traceloop.recording import process

    monkeypatch.setattr(process, "_current", None)


def recorded(main: Any) -> list[Any]:
    """What ``main(loop)`` did: every chunk of the record of its loop."""
    loop = EventLoop()
    try:
        loop.run_until_complete(main(loop))
        buffer = loop._recorder.ring.buffer
    finally:
        loop.close()
    stream = LoopStream()
    return [*stream.feed(RingReader(buffer).read(final=True)), stream.finish()]


def tasks_of(chunks: list[Any]) -> list[Any]:
    return [task for decoded in chunks for task in decoded.tasks]


async def steps(number: int) -> str:
    for _ in range(number):
        await asyncio.sleep(0)
    return asyncio.current_task().get_name()  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(5))
def test_every_task_has_its_name(seed: int) -> None:
    choose = random.Random(seed)

    def make(loop: Any, index: int) -> asyncio.Task[str]:
        way = choose.choice(["plain"] * 6 + ["named", "renamed", "like an automatic one", "direct", "empty"])
        coro = steps(choose.choice([0, 0, 1, 3]))
        if way == "named":
            return loop.create_task(coro, name=f"worker {index}")
        if way == "like an automatic one":
            return loop.create_task(coro, name=f"Task-{index}")
        if way == "empty":
            return loop.create_task(coro, name=" ")
        task = asyncio.Task(coro, loop=loop) if way == "direct" else loop.create_task(coro)
        if way == "renamed":
            task.set_name(f"renamed {index}")
        return task

    names: list[str] = []

    async def main(loop: Any) -> None:
        for _ in range(5):
            tasks = [make(loop, index) for index in range(choose.choice([1, 30, 400]))]
            names.extend(await asyncio.gather(*tasks))

    found = tasks_of(recorded(main))
    assert sorted(task.name for task in found if task.first_run > 1) == sorted(names)
    assert len({task.ident for task in found}) == len(found) == len(names) + 1


def test_the_maker_is_the_run_that_made_it() -> None:
    async def child() -> None:
        await asyncio.sleep(0)

    async def main(loop: Any) -> None:
        await asyncio.gather(*[loop.create_task(child()) for _ in range(10)])

    first, *others = tasks_of(recorded(main))
    assert first.creator == 0
    assert {(task.creator, task.creator_ident) for task in others} == {(first.first_run, first.ident)}
    assert all(task.made_by_loop for task in others)


def test_tasks_that_run_out_of_their_order_are_told_apart() -> None:
    async def child(number: int) -> None:
        await asyncio.sleep(0)

    async def main(loop: Any) -> None:
        tasks = [loop.create_task(child(k), name=f"child {k}") for k in range(20)]
        loop._ready.rotate(7)
        await asyncio.gather(*tasks)
        assert not loop._recorder.tasks.fresh

    chunks = recorded(main)
    found = tasks_of(chunks)
    assert sorted(task.name for task in found[1:]) == sorted(f"child {k}" for k in range(20))
    steps_of = [run[3] for decoded in chunks for run in decoded.runs if run[4] == "task"]
    assert all(steps_of.count(task.ident) == 2 for task in found[1:])


def test_a_task_that_is_interrupted_at_its_first_step_is_in_the_record() -> None:
    async def child() -> None:
        raise SystemExit(3)

    async def main(loop: Any) -> None:
        loop.create_task(child(), name="leaving")
        await asyncio.sleep(60)

    loop = EventLoop()
    try:
        with pytest.raises(SystemExit):
            loop.run_until_complete(main(loop))
        buffer = loop._recorder.ring.buffer  # type: ignore[union-attr]
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.01))
    finally:
        loop.close()
    stream = LoopStream()
    chunks = stream.feed(RingReader(buffer).read(final=True))
    names = {task.ident: task.name for task in tasks_of(chunks)}
    outcomes = {names[ident]: outcome for decoded in chunks for ident, outcome, _, _ in decoded.finished}
    assert outcomes["leaving"] == 2


def test_an_empty_name_is_not_taken_for_an_automatic_one() -> None:
    async def main(loop: Any) -> None:
        await asyncio.gather(*[loop.create_task(steps(1), name=name) for name in (None, "", None)])

    before, empty, after = [task.name for task in tasks_of(recorded(main)) if task.first_run > 1]
    assert empty == " "
    assert int(after.removeprefix("Task-")) == int(before.removeprefix("Task-")) + 1


@pytest.mark.parametrize("debug", [False, True])
def test_a_task_that_has_no_name_takes_no_other_s(debug: bool) -> None:
    class Nameless(asyncio.Task[Any]):
        def get_name(self) -> str:
            raise RuntimeError

    async def main(loop: Any) -> None:
        loop.set_debug(debug)
        await asyncio.sleep(0)
        tasks = [asyncio.Task(steps(1), loop=loop, name=""), Nameless(asyncio.sleep(0), loop=loop)]
        await asyncio.gather(*tasks, loop.create_task(steps(1), name="last"))

    assert [task.name for task in tasks_of(recorded(main))[1:]] == [" ", " ", "last"]


def test_automatic_names_are_the_program_s_own() -> None:
    # Nothing of ours may take one away: tools and tests expect "Task-1".
    program = (
        "import asyncio, traceloop\n"
        "async def main(): print(asyncio.current_task().get_name())\n"
        "loop = traceloop.new_event_loop(); loop.run_until_complete(main()); loop.close()\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "Task-1"
