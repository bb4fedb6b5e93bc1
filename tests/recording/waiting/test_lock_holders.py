"""Who holds the lock that a task waits for: said where it is certain, and nothing where it is not."""

import asyncio
import contextlib
import importlib.util
import weakref

import pytest

from tests.helpers.cores import CORES
from tests.recording.waiting.test_task_looks import Look, Written, named
from traceloop.recording.waiting import task_looks
from traceloop.recording.waiting.task_looks import TaskLooks


async def in_block(lock, inside):
    async with lock:
        await inside()


async def in_generator(lock, inside):
    @contextlib.asynccontextmanager
    async def locked():
        async with lock:
            yield

    async with locked():
        await inside()


async def in_exit_stack(lock, inside):
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(lock)
        await inside()


async def below_a_time_limit(lock, inside):
    async with asyncio.timeout(600), lock:
        await inside()


async def by_plain_acquire(lock, inside):
    await lock.acquire()
    try:
        await inside()
    finally:
        lock.release()


async def who_gave_it_back(lock, inside):
    async with lock:
        lock.release()
        await inside()
        await lock.acquire()


async def waiting_for_its_condition(lock, inside):
    condition = asyncio.Condition(lock)
    async with lock:
        await condition.wait()


async def forever():
    await asyncio.get_running_loop().create_future()


@pytest.fixture(params=CORES)
def awaited(request):
    """Starts the coroutines of a program by name, looks once, and says who waits for whom."""

    async def main(program):
        tasks = [named(coroutine, name) for name, coroutine in program().items()]
        for _ in range(20):
            await asyncio.sleep(0)
        written = Written()
        looks = TaskLooks(written)
        look = Look(looks, written)
        assert not looks._failed
        del tasks
        return look.awaited

    def run(program):
        with asyncio.Runner(loop_factory=CORES[request.param]) as runner:
            return runner.run(main(program))

    return run


HOLDERS = [in_block, in_generator, in_exit_stack, below_a_time_limit]
LOCKS = [asyncio.Lock, asyncio.Condition, lambda: asyncio.BoundedSemaphore(1)]
if importlib.util.find_spec("anyio"):
    import anyio

    LOCKS += [anyio.Lock, lambda: anyio.CapacityLimiter(1)]


@pytest.mark.parametrize("make", LOCKS)
@pytest.mark.parametrize("hold", HOLDERS)
def test_who_is_inside_of_a_lock_holds_it(awaited, hold, make):
    def program():
        lock = make()
        return {"holder": hold(lock, forever), "first": in_block(lock, forever), "second": in_generator(lock, forever)}

    assert awaited(program) == {"first": {"holder"}, "second": {"holder"}}


def test_the_holder_is_found_whichever_of_them_is_looked_at_first(awaited):
    """One whole look is all that there is of a program that hangs: its loop runs nothing afterwards."""

    def program():
        locks = [asyncio.Lock() for _ in range(20)]
        waiters = {f"waiter {number}": in_block(lock, forever) for number, lock in enumerate(locks[:10])}
        holders = {f"holder {number}": in_block(lock, forever) for number, lock in enumerate(locks)}
        later = {f"waiter {number + 10}": in_block(lock, forever) for number, lock in enumerate(locks[10:])}
        return {**dict(reversed(list(waiters.items()))), **holders, **later}

    found = awaited(program)
    assert len(found) == 20
    # Of the first ten, which were made before their "holders", these wait for the waiters.
    assert all(found[f"holder {number}"] == {f"waiter {number}"} for number in range(10))
    assert all(found[f"waiter {number}"] == {f"holder {number}"} for number in range(10, 20))


@pytest.mark.parametrize("make", LOCKS)
def test_two_that_take_two_locks_crosswise_wait_for_each_other(awaited, make):
    def program():
        locks = make(), make()

        async def both(outer, inner):
            async with outer:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                await in_generator(inner, forever)

        return {"a": both(*locks), "b": both(*reversed(locks))}

    assert awaited(program) == {"a": {"b"}, "b": {"a"}}


def test_a_task_that_takes_its_own_lock_again_waits_for_itself(awaited):
    def program():
        lock = asyncio.Lock()
        return {"twice": in_block(lock, lambda: in_block(lock, forever))}

    assert awaited(program) == {"twice": {"twice"}}


@pytest.mark.parametrize("hold", [by_plain_acquire, who_gave_it_back, waiting_for_its_condition])
def test_where_it_is_not_certain_who_holds_a_lock_nobody_is_said_to(awaited, hold):
    def program():
        lock = asyncio.Lock()
        return {
            "perhaps": hold(lock, forever),
            "unknown": by_plain_acquire(lock, forever),
            "waits": in_block(lock, forever),
        }

    assert awaited(program) == {}


def test_a_semaphore_that_several_may_be_inside_of_has_no_holder(awaited):
    def program():
        semaphore = asyncio.Semaphore(1)
        return {"inside": in_block(semaphore, forever), "waits": in_block(semaphore, forever)}

    assert awaited(program) == {}


def test_a_look_ends_though_whoever_was_inside_of_a_lock_has_left_it_meanwhile(monkeypatch):
    """The next one begins only then, and there would be no other of the program's tasks."""

    async def main():
        loop, lock, leave = asyncio.get_running_loop(), asyncio.Lock(), asyncio.Event()
        tasks = [named(in_block(lock, leave.wait), "inside")]
        tasks += [named(by_plain_acquire(lock, forever), "next"), named(in_block(lock, forever), "waits")]
        for _ in range(20):
            await asyncio.sleep(0)
        loop._recorder.flush(loop, loop.time())
        # The last one is looked at first. Few enough for one slice.
        monkeypatch.setattr(task_looks, "task_references", lambda _: [weakref.ref(task) for task in tasks])
        written = Written()
        looks = TaskLooks(written)
        looks.poll([loop], loop.time())
        left = [len(looks._looks[id(loop)].left)]
        leave.set()
        for _ in range(20):
            await asyncio.sleep(0)
        for _ in range(2):
            looks.poll([loop], loop.time())
            left.append(len(looks._looks[id(loop)].left))
        assert not looks._failed
        return left

    for make in CORES.values():
        with asyncio.Runner(loop_factory=make) as runner:
            assert runner.run(main()) == [2, 0, 0]


def test_who_left_the_lock_since_the_last_look_does_not_hold_it():
    async def main():
        lock, leave = asyncio.Lock(), asyncio.Event()

        async def inside_and_on():
            await in_block(lock, leave.wait)
            await forever()

        tasks = [named(inside_and_on(), "left"), named(in_block(lock, forever), "next"), named(lock.acquire(), "waits")]
        written = Written()
        looks = TaskLooks(written)
        found = []
        for _ in range(2):
            for _ in range(20):
                await asyncio.sleep(0)
            for look in looks._looks.values():
                look.started = 0.0  # the next one is due
            found.append(Look(looks, written).awaited)
            written.pending.clear()
            leave.set()
        del tasks
        return found

    for make in CORES.values():
        with asyncio.Runner(loop_factory=make) as runner:
            before, after = runner.run(main())
        assert before == {"next": {"left"}, "waits": {"left"}}
        assert after == {"waits": {"next"}}
