"""References of a million handles: runs each piece of work over and over, and looks at what lives afterwards.

    python tests/core/leak_hunt.py [--handles 1000000] [--only-run]

By the interpreter's count of allocated blocks (with a debug build also by that of references): a reference that is not
given back for each handle, task, timer or offload keeps one block and more of each. One line for each piece of work:
what was left over, in blocks a thousand operations. Ends with status 1 where that is more than ten.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from traceloop.core.choose import core
from traceloop.loop.event_loop import EventLoop

MOST_BLOCKS = 10.0


class Seen(Exception):
    """What the callbacks raise."""


async def handles(loop: Any, n: int) -> None:
    """Functions, methods, partials, builtins; cancelled ones; ones that raise."""

    def function(*args: object) -> None:
        pass

    def failing() -> None:
        raise Seen

    thing = [0]
    for _ in range(n // 6):
        loop.call_soon(function, 1, 2)
        loop.call_soon(functools.partial(function, 3))
        loop.call_soon(thing.append, None)
        loop.call_soon(thing.clear)
        loop.call_soon(function, object()).cancel()
        loop.call_soon(failing)
        await asyncio.sleep(0)


async def timers(loop: Any, n: int) -> None:
    """Set, cancelled, swept and run."""
    for _ in range(n // 200):
        waiting = [loop.call_later(100, print, object()) for _ in range(150)]
        done = [loop.call_later(0, waiting.count, None) for _ in range(50)]
        for timer in waiting:
            timer.cancel()
        await asyncio.sleep(0)
        del waiting, done
    await asyncio.sleep(0.01)


async def tasks(loop: Any, n: int) -> None:
    """Named and not, that end well, raise, and are cancelled."""

    async def work(how: int) -> int:
        await asyncio.sleep(0)
        if how == 1:
            raise Seen
        if how == 2:
            await loop.create_future()
        return how

    for _ in range(n // 9):
        made = [asyncio.create_task(work(how % 3), name="named" if how == 0 else None) for how in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        made[2].cancel()
        await asyncio.gather(*made, return_exceptions=True)


async def threads(loop: Any, n: int) -> None:
    """Handles that another thread puts in."""
    done = asyncio.Event()

    def call() -> None:
        for number in range(n):
            loop.call_soon_threadsafe([number].append, object())
        loop.call_soon_threadsafe(done.set)

    thread = threading.Thread(target=call)
    thread.start()
    await done.wait()
    thread.join()


async def offloads(loop: Any, n: int) -> None:
    """That end well, raise, and are cancelled before and after they begin."""

    def fail() -> None:
        raise Seen

    for _ in range(n // 40):
        calls = [loop.run_in_executor(None, [object()].count, 1) for _ in range(2)]
        calls += [loop.run_in_executor(None, fail) for _ in range(2)]
        calls[0].cancel()
        await asyncio.gather(*calls, return_exceptions=True)


class Echo(asyncio.Protocol):
    """Sends back what comes, ``left`` times; then it raises, and its connection is closed."""

    left = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.closed = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.left -= 1
        if self.left < 0:
            raise Seen
        self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set_result(None)


class BufferedEcho(Echo, asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    def __init__(self) -> None:
        self.buffer = bytearray(70_000)

    def get_buffer(self, hint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, size: int) -> None:
        self.data_received(self.buffer[:size])


async def messages(loop: Any, n: int) -> None:
    """Of 10 bytes and of 60,000, to and fro between two transports, until one of both raises."""
    for number in range(n // 200):
        ends = []
        for sock in socket.socketpair():
            protocol = Echo if number % 2 else BufferedEcho
            ends.append((await loop.create_connection(protocol, sock=sock))[1])
        ends[0].left = ends[1].left = 100
        ends[0].transport.write(bytes(60_000 if number % 10 == 0 else 10))
        await asyncio.gather(*(end.closed for end in ends))


WORK: list[Callable[[Any, int], Awaitable[None]]] = [handles, timers, tasks, threads, offloads, messages]


def alive() -> int:
    gc.collect()
    return sys.getallocatedblocks()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--handles", type=int, default=1_000_000)
    parser.add_argument("--only-run", action="store_true", help="what is left over is not judged")
    options = parser.parse_args()
    loop = EventLoop()
    loop.set_exception_handler(lambda loop, context: None)
    print(f"Python {sys.version.split()[0]}, the core in {core().name}")
    bad = False
    for work in WORK:
        n = options.handles // len(WORK)
        loop.run_until_complete(work(loop, n // 4))  # what is kept for good: caches, sites, threads
        for _ in range(3):  # on a busy machine more is kept for good later; a leak is there each time
            before, references = alive(), getattr(sys, "gettotalrefcount", lambda: 0)()
            loop.run_until_complete(work(loop, n))
            blocks = (alive() - before) * 1000 / n
            found = f", {(sys.gettotalrefcount() - references) * 1000 / n:.2f} references" if references else ""
            print(f"{work.__name__}: {blocks:.2f} blocks a thousand{found}", flush=True)
            if blocks <= MOST_BLOCKS or options.only_run:
                break
        bad = bad or blocks > MOST_BLOCKS
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    return bad and not options.only_run


if __name__ == "__main__":
    sys.exit(main())
