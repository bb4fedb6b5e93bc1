"""A small aiohttp service that loads itself, for ``make demo``: one slow handler, a pool, timers, background tasks.

    traceloop run --report examples/service.py --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import aiohttp
from aiohttp import web

POOL = web.AppKey("pool", ThreadPoolExecutor)
CARTS = [{"id": number, "items": list(range(number % 40))} for number in range(2000)]


async def cart(request: web.Request) -> web.Response:
    """What most requests are: a little waiting, a little JSON."""
    await asyncio.sleep(0.002)
    return web.json_response(CARTS[int(request.match_info["number"])])


def price(text: str) -> str:
    """The slow one's mistake: it computes on the loop."""
    digest = text.encode()
    until = time.perf_counter() + 0.15
    while time.perf_counter() < until:
        digest = hashlib.sha256(digest).digest()
    return digest.hex()


async def checkout(request: web.Request) -> web.Response:
    """One in three hundred requests; blocks the loop for 150 ms."""
    return web.json_response({"receipt": price(str(request.match_info["number"]))})


def thumbnail(number: int) -> int:
    """Work for the pool."""
    return sum(hashlib.blake2b(str(number + step).encode()).digest()[0] for step in range(300))


async def picture(request: web.Request) -> web.Response:
    """Hands its work to a pool of threads."""
    loop = asyncio.get_running_loop()
    size = await loop.run_in_executor(request.app[POOL], thumbnail, int(request.match_info["number"]))
    return web.json_response({"size": size})


async def refresh() -> None:
    """A background task with a beat of its own."""
    while True:
        json.dumps(CARTS[:200])
        await asyncio.sleep(0.25)


async def countdown(until: float) -> None:
    """Says now and then that it is still at work."""
    while True:
        await asyncio.sleep(8)
        print(f"   {max(0, until - time.monotonic()):.0f} s left", flush=True)


async def client(base: str, until: float) -> int:
    """One simulated user; returns how many requests it made."""
    count = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while time.monotonic() < until:
            draw = random.random()
            page = "checkout" if draw < 0.003 else "picture" if draw < 0.2 else "cart"
            async with session.get(f"{base}/{page}/{random.randrange(2000)}") as response:
                await response.read()
            count += 1
            await asyncio.sleep(0.01)
    return count


async def main(seconds: float, users: int) -> None:
    """Serves, and visits itself, for ``seconds``."""
    app = web.Application()
    app[POOL] = ThreadPoolExecutor(4, thread_name_prefix="thumbnails")
    app.add_routes(
        [
            web.get("/cart/{number}", cart),
            web.get("/checkout/{number}", checkout),
            web.get("/picture/{number}", picture),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"serving http://{host}:{port}/cart/1 for {seconds:g} s, with {users} users of its own", flush=True)
    background = [asyncio.create_task(refresh(), name="refresh")]
    until = time.monotonic() + seconds
    background.append(asyncio.create_task(countdown(until), name="countdown"))
    counts = await asyncio.gather(*[client(f"http://{host}:{port}", until) for _ in range(users)])
    for task in background:
        task.cancel()
    await runner.cleanup()
    app[POOL].shutdown()
    print(f"{sum(counts)} requests answered")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--users", type=int, default=20)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.seconds, arguments.users))
