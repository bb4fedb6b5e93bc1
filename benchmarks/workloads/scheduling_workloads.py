"""What a loop does without a socket: chains of call_soon, futures, queues, tasks, timers, offloads.

Each workload takes a number of operations and returns how many it did; what an operation is stands in its docstring.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any


async def call_soon_1(n: int) -> int:
    """A callback that schedules itself. Operation: a handle."""
    return await _chain(n, 1)


async def call_soon_100(n: int) -> int:
    """A hundred such callbacks beside each other. Operation: a handle."""
    return await _chain(n, 100)


async def _chain(n: int, width: int) -> int:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = n

    def callback() -> None:
        nonlocal left
        left -= 1
        if left > 0:
            loop.call_soon(callback)
        elif not done.done():
            done.set_result(None)

    for _ in range(width):
        loop.call_soon(callback)
    await done
    return n


async def call_soon_1000_names(n: int) -> int:
    """call_soon_100 with a thousand callbacks of different code. Operation: a handle."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = n

    def ran(callback) -> None:
        nonlocal left
        left -= 1
        if left > 0:
            loop.call_soon(callback)
        elif not done.done():
            done.set_result(None)

    names = _thousand_callbacks()
    names["ran"] = ran
    for k in range(1000):
        loop.call_soon(names[f"callback_{k}"])
    await done
    return n


@functools.cache
def _thousand_callbacks() -> dict[str, Any]:
    """The functions by name, in the namespace that they find what they call in: ``ran``."""
    names: dict[str, Any] = {}
    source = "\n".join(f"def callback_{k}():\n    ran(callback_{k})" for k in range(1000))
    exec(compile(source, "names.py", "exec"), names)
    return names


async def sleep0(n: int) -> int:
    """A hundred tasks that sleep(0). Operation: a sleep."""
    return await _sleepers(n, 100)


async def sleep0_1(n: int) -> int:
    """One task that sleeps(0). Operation: a sleep."""
    return await _sleepers(n, 1)


async def sleep0_100k(n: int) -> int:
    """100,000 tasks that sleep(0), made before the clock starts to count. Operation: a sleep, and a task in ten."""
    return await _sleepers(max(n, 1_000_000), 100_000)


async def sleep0_spans(n: int) -> int:
    """sleep0 in an application that traces itself: each task has a span of its own current. Operation: a sleep."""
    tracer = _tracer()

    async def one() -> None:
        with tracer.start_as_current_span("request"):
            for _ in range(n // 100):
                await asyncio.sleep(0)

    await asyncio.gather(*[one() for _ in range(100)])
    return n


@functools.cache
def _tracer() -> Any:
    from opentelemetry.sdk.trace import TracerProvider

    return TracerProvider().get_tracer("application")


async def _sleepers(n: int, width: int) -> int:
    async def one() -> None:
        for _ in range(n // width):
            await asyncio.sleep(0)

    await asyncio.gather(*[one() for _ in range(width)])
    return n


async def futures(n: int) -> int:
    """A hundred tasks that wait for a future which a callback sets. Operation: a future, with its two handles."""
    loop = asyncio.get_running_loop()

    async def one() -> None:
        for _ in range(n // 100):
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future

    await asyncio.gather(*[one() for _ in range(100)])
    return n


async def queues(n: int) -> int:
    """Fifty pairs of tasks with a queue of one place between them. Operation: an item."""

    async def produce(queue: asyncio.Queue[int]) -> None:
        for item in range(n // 50):
            await queue.put(item)

    async def consume(queue: asyncio.Queue[int]) -> None:
        for _ in range(n // 50):
            await queue.get()

    queues: list[asyncio.Queue[int]] = [asyncio.Queue(1) for _ in range(50)]
    await asyncio.gather(*[side(queue) for queue in queues for side in (produce, consume)])
    return n


async def spawn(n: int) -> int:
    """Tasks that end at their first step, gathered a hundred at a time. Operation: a task."""

    async def nothing() -> None:
        pass

    for _ in range(n // 100):
        await asyncio.gather(*[nothing() for _ in range(100)])
    return n


async def wait_for(n: int) -> int:
    """A wait_for around a coroutine that sleeps(0). Operation: a wait_for."""

    async def nap() -> None:
        await asyncio.sleep(0)

    for _ in range(n):
        await asyncio.wait_for(nap(), 10)
    return n


async def timers_1k(n: int) -> int:
    """As timers_10k, with 1,000 in the heap; for turns.py. Operation: a timer."""
    return await _timers(n, 1000)


async def timers_10k(n: int) -> int:
    """10,000 timers in the heap of which 90 % are cancelled, then as many that run. Operation: a timer."""
    return await _timers(n, 10_000)


async def timers_1m(n: int) -> int:
    """The same with 1,000,000. Operation: a timer."""
    return await _timers(max(n, 1_000_000), 1_000_000)


async def _timers(n: int, size: int) -> int:
    loop = asyncio.get_running_loop()
    count = 0
    while count < n:
        handles = [loop.call_later(100 + place * 1e-6, print) for place in range(size)]
        for place, handle in enumerate(handles):
            if place % 10:
                handle.cancel()
        await asyncio.sleep(0)
        done = loop.create_future()
        left = run = size // 10

        def callback(done: asyncio.Future[None] = done) -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set_result(None)

        for _ in range(run):
            loop.call_later(0, callback)
        await done
        for handle in handles:
            handle.cancel()
        count += size + run
    return count


async def executor(n: int) -> int:
    """Offloads of an empty function to the default executor, twenty at a time. Operation: an offload."""
    loop = asyncio.get_running_loop()

    def nothing() -> None:
        pass

    for _ in range(n // 20):
        await asyncio.gather(*[loop.run_in_executor(None, nothing) for _ in range(20)])
    return n


#: Workload -> number of operations that take some tenths of a second on the standard loop.
WORKLOADS = {
    call_soon_1: 100_000,
    call_soon_100: 200_000,
    call_soon_1000_names: 200_000,
    sleep0: 200_000,
    sleep0_1: 100_000,
    sleep0_100k: 1_000_000,
    sleep0_spans: 200_000,
    futures: 80_000,
    queues: 60_000,
    spawn: 40_000,
    wait_for: 15_000,
    timers_10k: 55_000,
    timers_1m: 1_100_000,
    executor: 6_000,
}
