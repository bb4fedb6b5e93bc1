"""No growth: after much of anything memory, descriptors and the loop's own heaps are what they were before.

Run as a program it does one case, in an interpreter of its own, since what the interpreter has allocated is counted
for the whole process: ``python growth_cases.py CASE recorded|unrecorded``. It ends with an AssertionError that tells
what has grown. Each case does its work once to fill caches (interned names, free lists, the recorder's tables), then
again and more, and compares. Blocks are counted, not resident memory: those are exact, and a leak of one object for
each of a hundred thousand operations stands out against what the check's own bookkeeping moves.
"""

import asyncio
import gc
import os
import socket
import sys
import time

from traceloop.loop.event_loop import EventLoop

# Allocated blocks that may be more afterwards, whatever the number of operations.
SLACK_BLOCKS = 2000


def allocated():
    gc.collect()
    gc.collect()
    return sys.getallocatedblocks()


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def check_growth(loop, work, times):
    """Runs the coroutine function ``work(n)`` with a few, then with ``times``; nothing may be left of the latter.

    Something that is made once (a cache of the interpreter's, another thread's) may fall into one round, not into two.
    """
    loop.run_until_complete(work(max(times // 10, 1)))
    for _ in range(3):
        blocks, fds = allocated(), descriptors()
        loop.run_until_complete(work(times))
        grown = settle(blocks, fds, lambda: loop.run_until_complete(asyncio.sleep(0.05)))
        if not grown:
            break
    assert not grown
    assert not loop._ready
    assert not loop._timer_heap
    assert loop._recorder is None or not loop._recorder.stamps
    assert not loop._transports


def settle(blocks, fds, wait):
    """What has grown since, once that is less than the slack or for two minutes; an empty text for nothing."""
    deadline = time.monotonic() + 120
    while True:
        more_blocks, more_fds = allocated() - blocks, descriptors() - fds
        if more_blocks <= SLACK_BLOCKS and more_fds <= 0:
            return ""
        if time.monotonic() > deadline:
            return f"{more_blocks} blocks, {more_fds} descriptors"
        # What the recorder keeps until its next flush is bounded; so is what the watchdog's thread has at hand.
        wait()


def tasks(loop):
    async def nothing():
        pass

    async def work(number):
        for _ in range(number // 1000):
            await asyncio.gather(*(nothing() for _ in range(1000)))

    check_growth(loop, work, 100_000)


def tasks_that_wait_fail_and_are_cancelled(loop):
    async def wait():
        await asyncio.sleep(0)

    async def fail():
        raise ValueError

    async def work(number):
        for _ in range(number // 1000):
            tasks = [loop.create_task(wait()) for _ in range(500)]
            tasks += [loop.create_task(fail()) for _ in range(250)]
            tasks += [loop.create_task(asyncio.sleep(3600)) for _ in range(250)]
            await asyncio.sleep(0)
            for task in tasks[-250:]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            tasks.clear()

    check_growth(loop, work, 20_000)


def timers_set_and_cancelled(loop):
    async def work(number):
        for turn in range(number // 10_000):
            for _ in range(10_000):
                loop.call_later(3600, print).cancel()
            await asyncio.sleep(0)
            # Swept as they come, not kept until they are due in an hour.
            assert len(loop._timer_heap) <= 20_001, turn
        # One that lives keeps the others in the heap until they are swept, too.
        keep = loop.call_later(3600, print)
        await asyncio.sleep(0)
        keep.cancel()
        await asyncio.sleep(0)

    check_growth(loop, work, 1_000_000 if loop._recorder is None else 300_000)


def timers_that_fire(loop):
    async def work(number):
        done = loop.create_future()
        for _ in range(number):
            loop.call_later(0, int)
        loop.call_later(0.001, done.set_result, None)
        await done

    check_growth(loop, work, 50_000)


def callbacks_of_other_threads(loop):
    async def work(number):
        def call():
            for _ in range(number):
                loop.call_soon_threadsafe(int)

        await loop.run_in_executor(None, call)

    check_growth(loop, work, 20_000)


def offloads(loop):
    async def work(number):
        for _ in range(number // 100):
            await asyncio.gather(*(loop.run_in_executor(None, int) for _ in range(100)))

    check_growth(loop, work, 5_000)


def readers_and_writers(loop):
    a, b = socket.socketpair()

    async def work(number):
        for _ in range(number):
            loop.add_reader(a, int)
            loop.add_writer(a, int)
            loop.remove_reader(a)
            loop.remove_writer(a)

    with a, b:
        check_growth(loop, work, 5_000)
    assert len(loop._selector.get_map()) == 1  # the self-pipe


async def connect(loop, number):
    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)

    class Once(asyncio.Protocol):
        def __init__(self):
            self.done = loop.create_future()

        def connection_made(self, transport):
            self.transport = transport
            transport.write(b"x")

        def data_received(self, data):
            self.transport.close()

        def connection_lost(self, exc):
            self.done.set_result(None)

    async def one(address):
        _, protocol = await loop.create_connection(Once, *address)
        await protocol.done

    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=200)
    address = server.sockets[0].getsockname()
    for _ in range(number // 50):
        await asyncio.gather(*(one(address) for _ in range(50)))
    server.close()
    await server.wait_closed()
    while loop._transports:
        await asyncio.sleep(0.001)


def connections(loop):
    check_growth(loop, lambda number: connect(loop, max(number, 50)), 2_000)


def a_hundred_thousand_connections(loop):
    check_growth(loop, lambda number: connect(loop, number), 100_000)


def loops(loop):
    async def nothing(number):
        pass

    def work(number):
        for _ in range(number):
            one = EventLoop(recorder=False if loop._recorder is None else None)
            one.run_until_complete(nothing(1))
            one.close()

    work(20)
    for _ in range(3):
        blocks, fds = allocated(), descriptors()
        work(200)
        grown = settle(blocks, fds, lambda: time.sleep(0.05))
        if not grown:
            break
    assert not grown


CASES = {
    case.__name__: case
    for case in (
        tasks,
        tasks_that_wait_fail_and_are_cancelled,
        timers_set_and_cancelled,
        timers_that_fire,
        callbacks_of_other_threads,
        offloads,
        readers_and_writers,
        connections,
        a_hundred_thousand_connections,
        loops,
    )
}

if __name__ == "__main__":
    loop = EventLoop(recorder={"recorded": None, "unrecorded": False}[sys.argv[2]])
    CASES[sys.argv[1]](loop)
    loop.close()
