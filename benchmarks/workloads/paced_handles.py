"""A load for ``span_soak.py``: ``paced_handles.py RATE SECONDS`` runs that many handles a second, of several kinds.

Callbacks, callbacks of futures, items through a queue to tasks, short-lived tasks, timers, a socket pair.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time

_PER_UNIT = 20  # handles, about


async def main(rate: float, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def consume() -> None:
        while True:
            await queue.get()

    async def receive() -> None:
        while True:
            await loop.sock_recv(far, 100)

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.01)

    async def short() -> None:
        await asyncio.sleep(0)

    def callback() -> None:
        pass

    def other(argument: object) -> None:
        pass

    background = [asyncio.create_task(each()) for each in (consume, consume, receive, *[tick] * 10)]
    begun = time.monotonic()
    units = 0
    tasks = set()
    while (now := time.monotonic()) - begun < seconds:
        due = (now - begun) * rate / _PER_UNIT
        for _ in range(25):
            if units >= due:
                break
            units += 1
            for _ in range(8):
                loop.call_soon(callback)
            for _ in range(5):
                loop.call_soon(other, 1)
            queue.put_nowait(1)
            future = loop.create_future()
            future.add_done_callback(other)
            future.set_result(None)
            task = asyncio.create_task(short())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if units % 4 == 0:
                near.send(b"x")
        await asyncio.sleep(0 if units < due else 0.001)
    for each in background:
        each.cancel()
    print(f"paced: {units} of {int(due)} units in {time.monotonic() - begun:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), float(sys.argv[2])))
