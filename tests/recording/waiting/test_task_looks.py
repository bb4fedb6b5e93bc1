"""Where suspended tasks are found to stand, and whom they wait for: every kind of waiting that asyncio has."""

import asyncio
import contextlib
import json
import math
import sys
import weakref
from types import SimpleNamespace

import pytest

from traceloop.loop.event_loop import EventLoop
from traceloop.record import files, layout
from traceloop.recording.waiting import task_looks
from traceloop.recording.waiting.lock_holders import LockHolders
from traceloop.recording.waiting.task_looks import TaskLooks, task_references


class Written:
    """What a look leaves for the process ring."""

    forked = False

    def __init__(self):
        self.pending = []
        self.chains = {}

    def define(self, record, text, now):
        frames, awaited, *_ = json.loads(text)
        self.chains[record[0]] = [frame[3] for frame in frames], awaited


class Look:
    """One whole look at the running loop's tasks: names of the frames and of the awaited tasks by task name."""

    def __init__(self, looks, written):
        loop = asyncio.get_running_loop()
        loop._recorder.flush(loop, loop.time())  # a loop of which nothing is new is not looked at
        looks.poll([loop], loop.time())
        while looks._looks[id(loop)].left:
            looks.poll([loop], loop.time())
        names = {getattr(task, "_loop_ident", 0.0): task.get_name() for task in asyncio.all_tasks()}
        triples = list(zip(*[iter(written.pending)] * 3, strict=True))
        self.frames = {names[a]: written.chains[b] for a, kind, b in triples if kind == layout.R_AWAIT}
        self.awaited = {}
        for a, kind, b in triples:
            if kind == layout.R_AWAITED:
                self.awaited.setdefault(names[a], set()).add(names[b])


async def end(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def look_at(**coroutines):
    """Starts these as tasks, lets them go as far as they go, looks, and cancels them."""

    async def main():
        tasks = [asyncio.create_task(function(), name=name) for name, function in coroutines.items()]
        for _ in range(10):
            await asyncio.sleep(0)
        written = Written()
        look = Look(TaskLooks(written), written)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return look

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        return runner.run(main())


def named(coroutine, name):
    return asyncio.create_task(coroutine, name=name)


async def outer(inner):
    await inner()


async def wait_in_queue():
    await asyncio.Queue().get()


async def in_generator():
    async def numbers():
        yield 1
        await asyncio.Event().wait()

    async for _ in numbers():
        pass


async def in_awaitable():
    class Custom:
        def __await__(self):
            yield from asyncio.Event().wait().__await__()

    await Custom()


@contextlib.asynccontextmanager
async def resource():
    await asyncio.Event().wait()
    yield


async def in_context_manager():
    async with resource():
        pass


@pytest.mark.parametrize(
    ("function", "frames"),
    [
        (lambda: outer(wait_in_queue), ["outer", "wait_in_queue", "Queue.get"]),
        (in_generator, ["in_generator", "in_generator.<locals>.numbers", "Event.wait"]),
        (lambda: asyncio.sleep(60), ["sleep"]),
    ],
)
def test_the_chain_of_coroutines_is_found(function, frames):
    found, awaited = look_at(here=function).frames["here"]
    assert found == frames
    assert awaited.endswith("Future")


@pytest.mark.parametrize("function", [in_awaitable, in_context_manager])
def test_what_lies_between_coroutines_is_passed_through(function):
    found, _ = look_at(here=function).frames["here"]
    assert found[0] == function.__qualname__
    assert found[-1] == "Event.wait"


def test_a_task_that_is_awaited_is_found():
    async def waits():
        await named(asyncio.sleep(60), "inner")

    look = look_at(waits=waits)
    assert look.awaited == {"waits": {"inner"}}
    assert look.frames["waits"][0][-1].endswith("waits")


def test_members_of_a_gather_a_wait_and_a_group_are_found():
    async def gathers():
        await asyncio.gather(named(asyncio.sleep(60), "a"), named(asyncio.sleep(60), "b"))

    async def waits():
        await asyncio.wait([named(asyncio.sleep(60), "c"), named(asyncio.sleep(60), "d")])

    async def groups():
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60), name="e")

    async def shields():
        await asyncio.shield(named(asyncio.sleep(60), "f"))

    look = look_at(gathers=gathers, waits=waits, groups=groups, shields=shields)
    assert look.awaited == {"gathers": {"a", "b"}, "waits": {"c", "d"}, "groups": {"e"}, "shields": {"f"}}


async def named_inside(name):
    asyncio.current_task().set_name(name)
    await asyncio.sleep(60)


def test_a_task_that_was_started_for_another_thread_is_found():
    async def waits():
        loop = asyncio.get_running_loop()
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(named_inside("inner"), loop))

    look = look_at(waits=waits)
    assert look.awaited == {"waits": {"inner"}}
    assert look.frames["waits"][1] == "asyncio.run_coroutine_threadsafe"


def test_a_callback_of_the_programs_own_is_no_sign_of_a_task_that_is_waited_for():
    """It cancels, say, what the future was for: its closure has a task that may itself wait for the future's owner."""

    async def waits():
        other = named(asyncio.sleep(60), "other")
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: other.cancel())
        await future

    assert look_at(waits=waits).awaited == {}


def test_a_task_that_another_shields_is_what_is_awaited():
    async def waits():
        inner = named(asyncio.sleep(60), "inner")
        shielded = asyncio.shield(inner)
        await inner
        await shielded

    look = look_at(waits=waits)
    assert look.awaited == {"waits": {"inner"}}
    assert look.frames["waits"][1] == "_asyncio.Task"


def test_a_function_of_the_programs_own_that_is_called_as_asyncios_proves_nothing():
    async def waits():
        other = named(asyncio.sleep(60), "other")
        future = asyncio.get_running_loop().create_future()

        def cancel(_):
            other.cancel()

        cancel.__qualname__ = "shield.<locals>._outer_done_callback"
        future.add_done_callback(cancel)
        await future

    assert look_at(waits=waits).awaited == {}


def test_a_future_that_another_shields_is_awaited_itself():
    async def waits():
        inner = asyncio.get_running_loop().create_future()
        shielded = asyncio.shield(inner)
        await inner
        await shielded

    assert look_at(waits=waits).frames["waits"][1] == "_asyncio.Future"


def test_members_of_a_group_of_anyios_are_found():
    anyio = pytest.importorskip("anyio")

    async def groups():
        async with anyio.create_task_group() as group:
            group.start_soon(named_inside, "a")
            group.start_soon(named_inside, "b")

    assert look_at(groups=groups).awaited == {"groups": {"a", "b"}}


@pytest.mark.skipif(sys.version_info < (3, 13), reason="before, what it waits for is in no frame that awaits")
def test_tasks_that_are_waited_for_as_they_complete_are_found():
    async def completes():
        for each in asyncio.as_completed([named_inside("a"), named_inside("b")]):
            await each

    assert look_at(completes=completes).awaited == {"completes": {"a", "b"}}


def test_tasks_that_await_each_other_are_found():
    tasks = {}

    async def waits_for(other):
        await asyncio.sleep(0)
        # By wait on the way back: a circle of plain awaits could not be cancelled.
        await (tasks[other] if other == "two" else asyncio.wait([tasks[other]]))

    async def start():
        tasks["one"] = named(waits_for("two"), "one")
        tasks["two"] = named(waits_for("one"), "two")
        await asyncio.Event().wait()

    look = look_at(start=start)
    assert look.awaited == {"one": {"two"}, "two": {"one"}}


def test_a_task_that_is_about_to_run_stands_nowhere():
    async def spins():
        while True:
            await asyncio.sleep(0)

    assert "spins" not in look_at(spins=spins).frames


def test_an_eager_task_is_found():
    if not hasattr(asyncio, "eager_task_factory"):
        pytest.skip("eager tasks came with 3.12")

    async def starts():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        try:
            task = asyncio.create_task(wait_in_queue(), name="eager")
        finally:
            loop.set_task_factory(None)
        await task

    look = look_at(starts=starts)
    assert look.awaited == {"starts": {"eager"}}


def test_the_same_place_has_the_same_number_and_is_written_down_once():
    async def stands():
        await asyncio.Event().wait()

    async def main():
        tasks = [asyncio.create_task(stands()) for _ in range(100)]
        await asyncio.sleep(0)
        written = Written()
        looks = TaskLooks(written)
        Look(looks, written)
        await end(tasks)
        return written

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        written = runner.run(main())
    numbers = [written.pending[i + 2] for i in range(0, len(written.pending), 3) if written.pending[i + 1] == -31.0]
    assert len(numbers) == 100
    assert len(set(numbers)) == 1 == len(written.chains)


def test_code_is_not_kept_alive():
    async def main():
        space = {"asyncio": asyncio}
        exec("async def made():\n    await asyncio.Event().wait()", space)
        code = weakref.ref(space["made"].__code__)
        task = asyncio.create_task(space["made"]())
        await asyncio.sleep(0)
        written = Written()
        looks = TaskLooks(written)
        Look(looks, written)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        del task
        space.clear()
        loop = asyncio.get_running_loop()
        loop._recorder.process.site_log.by_code.clear()
        await asyncio.sleep(0)
        return code, looks

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        code, looks = runner.run(main())
    import gc

    gc.collect()
    assert code() is None
    assert not looks._chains._known


def test_a_task_that_nobody_else_holds_is_let_go_of_in_the_loops_thread():
    async def main():
        loop = asyncio.get_running_loop()

        async def ended():
            pass

        task = asyncio.create_task(ended())
        await task
        looks = TaskLooks(Written())
        holder = [task]
        del task
        await asyncio.sleep(0)
        looks._look_at(holder.pop(), loop, [], LockHolders())
        kept = len(loop._recorder.dropped_tasks)
        loop._recorder.flush(loop, loop.time())
        return kept, len(loop._recorder.dropped_tasks)

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        assert runner.run(main()) == (1, 0)


def test_references_to_all_tasks_are_weak():
    async def main():
        tasks = [asyncio.create_task(asyncio.sleep(0)) for _ in range(3)]
        found = {reference() for reference in task_references(asyncio.get_running_loop())}
        assert set(tasks) <= found
        await asyncio.gather(*tasks)

    asyncio.run(main())


class Drained(Written):
    """It also counts how often what waits is written."""

    drains = 0

    def drain(self, now):
        self.drains += 1


def test_a_command_that_asks_has_every_task_looked_at_at_once(tmp_path):
    count = 600

    async def main():
        loop = asyncio.get_running_loop()
        never = asyncio.Event()
        tasks = [asyncio.create_task(never.wait()) for _ in range(count)]
        await asyncio.sleep(0)
        written = Drained()
        looks = TaskLooks(written, str(tmp_path))
        loop._recorder.flush(loop, loop.time())
        looks.poll([loop], loop.time())  # a usual look has begun
        assert looks.pause is None
        (tmp_path / files.LOOK).touch()
        written.pending.clear()
        looks.poll([loop], loop.time())
        assert not (tmp_path / files.LOOK).exists()
        while looks.pause is not None:
            assert (tmp_path / files.LOOKING).exists()
            looks.poll([loop], loop.time())
        assert list(tmp_path.iterdir()) == [] and written.drains == 1
        triples = list(zip(*[iter(written.pending)] * 3, strict=True))
        found = {a for a, kind, _ in triples if kind == layout.R_AWAIT}
        assert found == {task._loop_ident for task in tasks}
        await end(tasks)

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(main())


def test_a_look_that_has_failed_does_not_go_on(caplog):
    async def main():
        loop = asyncio.get_running_loop()
        never = asyncio.Event()
        tasks = [asyncio.create_task(never.wait()) for _ in range(600)]
        await asyncio.sleep(0)
        looks = TaskLooks(Written())
        loop._recorder.flush(loop, loop.time())
        looks.poll([loop], loop.time())
        left = len(looks._looks[id(loop)].left)
        assert looks.under_way
        looks.go_on([loop], loop.time())
        assert len(looks._looks[id(loop)].left) < left
        tried = []
        looks._look = lambda *arguments: tried.append(1) or 1 / 0
        looks.go_on([loop], loop.time())
        assert not looks.under_way
        looks.go_on([loop], loop.time())
        assert len(tried) == 1
        await end(tasks)

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(main())
    assert "looking at tasks failed" in caplog.text


def test_the_time_between_two_looks_is_told_before_the_first_whole_one_is_over(monkeypatch):
    monkeypatch.setattr(task_looks, "_SLICE_SECONDS", 0.0)  # eight tasks a slice
    monkeypatch.setattr(task_looks, "_TAKING_SECONDS", 0.0)  # those of its beginning

    async def main():
        loop = asyncio.get_running_loop()
        never = asyncio.Event()
        tasks = [asyncio.create_task(never.wait()) for _ in range(8 * 100 - 1)]
        await asyncio.sleep(0)
        written = Written()
        looks = TaskLooks(written)
        loop._recorder.flush(loop, loop.time())
        begun = loop.time()
        periods = []
        for turn in range(5):
            looks.poll([loop], begun + 0.1 * turn)
            periods += [b for _, kind, b in zip(*[iter(written.pending)] * 3, strict=True) if kind == layout.R_LOOK]
            written.pending.clear()
        await end(tasks)
        return periods

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        periods = runner.run(main())
    assert periods == pytest.approx([1.0, 5.0, 0.2 * 100 / 3, 7.5, 8.0], abs=0.2)


def test_where_tasks_stand_is_written_down_again_before_the_ring_has_lost_it(tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(outer(wait_in_queue))
        await asyncio.sleep(0)
        words = [0.0] * layout.WORDS
        written = Drained()
        looks = TaskLooks(written, str(tmp_path), lambda: SimpleNamespace(words=words, capacity=1000))
        described = []
        for moment, head in enumerate((0.0, 500.0, 501.0, 1001.0, 1002.0)):
            written.chains.clear()
            words[layout.W_HEAD] = head
            loop._recorder.flush(loop, loop.time())
            looks.poll([loop], loop.time() + 10.0 * moment)
            described.append(dict(written.chains))
            await asyncio.sleep(0)
        written.chains.clear()
        (tmp_path / files.LOOK).touch()
        looks.poll([loop], loop.time() + 60.0)
        described.append(dict(written.chains))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return described

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        first, *later = runner.run(main())
    assert [frames for frames, _ in first.values()] == [["outer", "wait_in_queue", "Queue.get"]]
    assert later == [{}, first, {}, first, first]


def test_tasks_that_come_while_a_look_lasts_are_looked_at_in_it(monkeypatch):
    monkeypatch.setattr(task_looks, "_SLICE_SECONDS", 0.0)  # eight tasks a slice
    monkeypatch.setattr(task_looks, "_TAKING_SECONDS", math.inf)
    # In the order of a set that does not grow, and without tasks that other tests have left behind.
    monkeypatch.setattr(
        task_looks, "task_references", lambda loop: list(map(weakref.ref, sorted(asyncio.all_tasks(loop), key=id)))
    )
    lasting, short, rounds = 400, 40, 10

    async def tasks_that_wait(count):
        never = asyncio.Event()
        tasks = [asyncio.create_task(never.wait()) for _ in range(count)]
        await asyncio.sleep(0)
        return tasks

    async def look():
        """One whole look: the idents of the tasks that it found, and of those that came after its first slice."""
        loop = asyncio.get_running_loop()
        written = Written()
        looks = TaskLooks(written)
        loop._recorder.flush(loop, loop.time())
        later = set()
        begun = loop.time()
        for slice_ in range(1000):
            served = await tasks_that_wait(short)
            later |= {task._loop_ident for task in served} if slice_ else set()
            looks.poll([loop], begun)
            await end(served)
            if not looks.under_way:
                break
        return [a for a, kind, _ in zip(*[iter(written.pending)] * 3, strict=True) if kind == layout.R_AWAIT], later

    async def main():
        kept = await tasks_that_wait(lasting)
        lasted = {task._loop_ident for task in kept}
        of_lasting = of_later = 0
        for _ in range(rounds):
            found, later = await look()
            of_lasting += sum(ident in lasted for ident in found)
            of_later += sum(ident in later for ident in found)
        await end(kept)
        return of_lasting / rounds, of_later / rounds

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        of_lasting, of_later = runner.run(main())
    # Some are looked at twice and some not at all where many come and go beside them.
    assert of_lasting == pytest.approx(lasting, rel=0.1)
    assert of_later == pytest.approx(short, rel=0.5)


def test_the_time_between_two_looks_is_shorter_again_when_a_slice_was_late(monkeypatch):
    monkeypatch.setattr(task_looks, "_SLICE_SECONDS", 0.0)  # eight tasks a slice
    monkeypatch.setattr(task_looks, "_TAKING_SECONDS", 0.0)

    async def main():
        loop = asyncio.get_running_loop()
        never = asyncio.Event()
        tasks = [asyncio.create_task(never.wait()) for _ in range(200)]
        await asyncio.sleep(0)
        looks = TaskLooks(Written())
        loop._recorder.flush(loop, loop.time())
        begun = loop.time()
        periods = []
        for when in (0.0, 2.0, *(2.0 + 0.1 * turn for turn in range(1, 40))):
            looks.poll([loop], begun + when)
            periods.append(looks._looks[id(loop)].period)
            if not looks.under_way:
                break
        await end(tasks)
        return periods

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        periods = runner.run(main())
    assert max(periods) > 10.0 and 3.0 < periods[-1] < 6.0


def test_what_tasks_did_since_the_last_look_is_to_be_looked_at():
    """A loop may sleep for good right after: the watchdog's turns that find nothing must not put that look off."""

    async def main():
        loop = asyncio.get_running_loop()
        written = Written()
        looks = TaskLooks(written)
        unseen = looks.have_seen_all([loop])
        Look(looks, written)
        seen = looks.have_seen_all([loop])
        await asyncio.sleep(0)
        loop._recorder.flush(loop, loop.time())
        return unseen, seen, looks.have_seen_all([loop])

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        assert runner.run(main()) == (False, True, False)
