"""A service with a leak, or without: shows what traceloop tells of growing heaps.

    traceloop run --report --memory-trace examples/leaks.py {none|timer|memory} SECONDS

It answers 100 requests a second, keeps a thousand timers and a cache that fills up to its size, and has bursts: 15,000
timers and 100,000 objects that are gone after some seconds. ``timer`` leaks one timer a request, ``memory`` twenty
objects a request; ``none`` leaks nothing, and nothing is told of it.
"""

from __future__ import annotations

import asyncio
import random
import sys

REQUESTS_A_SECOND = 100
CACHED = 5000

leak = sys.argv[1] if len(sys.argv) > 1 else "none"
seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0


class Record:
    def __init__(self, number: int) -> None:
        self.number = number
        self.body = "x" * 300 + str(number)


cache: dict[int, Record] = {}
forgotten: list[Record] = []


def session_expired(number: int) -> None:
    cache.pop(number, None)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    number = 0
    while line := await reader.readline():
        number += 1
        expiry = loop.call_later(1800, session_expired, -1)
        if leak != "timer":
            loop.call_later(0.5, expiry.cancel)
        cache[number % CACHED] = Record(number)
        if leak == "memory":
            forgotten.extend(Record(number) for _ in range(20))
        async with asyncio.timeout(30):
            await asyncio.sleep(0)
        writer.write(line)
        await writer.drain()
    writer.close()


async def bursts() -> None:
    loop = asyncio.get_running_loop()
    chance = random.Random(3)
    while True:
        await asyncio.sleep(chance.uniform(15, 45))
        timers = [loop.call_later(600, session_expired, -1) for _ in range(15_000)]
        objects = [Record(number) for number in range(100_000)]
        await asyncio.sleep(chance.uniform(1, 12))
        for timer in timers:
            timer.cancel()
        del timers, objects


async def main() -> None:
    loop = asyncio.get_running_loop()
    steady = [loop.call_later(7200, session_expired, -1) for _ in range(1000)]
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    task = loop.create_task(bursts())
    begin, number = loop.time(), 0
    while loop.time() - begin < seconds:
        writer.write(b"request\n")
        await reader.readline()
        number += 1
        await asyncio.sleep(max(0.0, begin + number / REQUESTS_A_SECOND - loop.time()))
    task.cancel()
    writer.close()
    server.close()
    for timer in steady:
        timer.cancel()


if __name__ == "__main__":
    asyncio.run(main())
