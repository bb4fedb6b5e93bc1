"""Tasks that wait for a known time at a known line in asyncio and in libraries; writes down the truth as JSON.

Usage: python waits_of_libraries.py RECORD TRUTH POSTGRES_SOCKET_FOLDER REDIS_PORT

The last two are empty where there is no such server. `python -m tests.reading.statistics.test_waits_of_libraries`
starts them, runs this, and prints what the report says beside the truth.

Each case is a coroutine function whose task waits at one line, marked ``# here``, for the length of HOLD, because of
what another task holds. A case whose library cannot be imported is left out. The set of cases is in ``CASES``: what the
report must call the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import sys
import time

import traceloop

HOLD = 2.2
CASES = {}


def case(inside, *needs, waits=1):
    """``waits``: how many of HOLD there are at the line, one after the other."""

    def add(function):
        CASES[function.__name__] = (function, inside, needs, waits)
        return function

    return add


async def later(function, *arguments):
    """What frees the waiting task after HOLD."""
    await asyncio.sleep(HOLD)
    result = function(*arguments)
    if inspect.isawaitable(result):
        await result


@case("asyncio.Lock.acquire")
async def lock(start):
    it = asyncio.Lock()
    await it.acquire()
    start(it.release)
    await it.acquire()  # here


@case("asyncio.Semaphore.acquire")
async def semaphore(start):
    it = asyncio.Semaphore(0)
    start(it.release)
    async with it:  # here
        pass


@case("asyncio.Queue.get")
async def queue_get(start):
    it = asyncio.Queue()
    start(it.put_nowait, 1)
    await it.get()  # here


@case("asyncio.Queue.put")
async def queue_put(start):
    it = asyncio.Queue(1)
    it.put_nowait(1)
    start(it.get_nowait)
    await it.put(2)  # here


@case("asyncio.Event.wait")
async def event(start):
    it = asyncio.Event()
    start(it.set)
    await it.wait()  # here


@case("asyncio.Condition.wait")
async def condition(start):
    it = asyncio.Condition()

    async def notify():
        async with it:
            it.notify()

    start(notify)
    async with it:
        await it.wait()  # here


@case("asyncio.gather")
async def gather(start):
    await asyncio.gather(asyncio.sleep(HOLD), asyncio.sleep(0))  # here


@case("asyncio.TaskGroup.__aexit__")
async def task_group(start):
    async with asyncio.TaskGroup() as group:  # here
        group.create_task(asyncio.sleep(HOLD))


# Before 3.12 a task of its own waits for the event.
@case("asyncio.Event.wait" if sys.version_info >= (3, 12) else "asyncio.wait_for")
async def wait_for(start):
    with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), HOLD)  # here


@case("asyncio.sleep")
async def sleep(start):
    await asyncio.sleep(HOLD)  # here


@case("time.sleep in executor default")
async def to_thread(start):
    await asyncio.to_thread(time.sleep, HOLD)  # here


@case("anyio._backends._asyncio.CapacityLimiter.__aenter__", "anyio._backends._asyncio")
async def anyio_limiter(start):
    import anyio

    it = anyio.CapacityLimiter(1)
    it.acquire_on_behalf_of_nowait("other")
    start(it.release_on_behalf_of, "other")
    async with it:  # here
        pass


async def slow_server():
    """The address of an HTTP server whose answers take HOLD, and an event: it has got the first request."""
    asked = asyncio.Event()

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                asked.set()
                await asyncio.sleep(HOLD)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", asked


# For the connection, then for the answer.
@case("aiohttp.client.ClientSession._request", "aiohttp", waits=2)
async def aiohttp_connector(start):
    import aiohttp

    url, asked = await slow_server()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        other = asyncio.ensure_future(first(session, url))
        await asked.wait()
        await session.get(url)  # here
        await other


async def first(session, url):
    async with session.get(url) as answer:
        await answer.read()


@case("httpx._client.AsyncClient.get", "httpx", waits=2)
async def httpx_pool(start):
    import httpx

    url, asked = await slow_server()
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:
        other = asyncio.ensure_future(client.get(url))
        await asked.wait()
        await client.get(url)  # here
        await other


@case("asyncpg.pool.Pool._acquire", "asyncpg", "postgres")
async def asyncpg_pool(start):
    import asyncpg

    pool = await asyncpg.create_pool(host=POSTGRES, user="postgres", database="postgres", min_size=1, max_size=1)
    held = await pool.acquire()
    start(pool.release, held)
    await pool.acquire()  # here
    pool.terminate()


@case("asyncpg.connection.Connection.fetch", "asyncpg", "postgres")
async def asyncpg_query(start):
    import asyncpg

    connection = await asyncpg.connect(host=POSTGRES, user="postgres", database="postgres")
    await connection.fetch("select pg_sleep($1)", HOLD)  # here
    await connection.close()


@case("psycopg_pool.pool_async.AsyncConnectionPool.getconn", "psycopg_pool", "psycopg", "postgres")
async def psycopg_pool(start):
    from psycopg_pool import AsyncConnectionPool

    pool = AsyncConnectionPool(f"host={POSTGRES} user=postgres dbname=postgres", min_size=1, max_size=1, open=False)
    await pool.open()
    held = await pool.getconn()
    start(pool.putconn, held)
    await pool.putconn(await pool.getconn())  # here
    await pool.close()


@case("sqlalchemy.ext.asyncio.engine.AsyncConnection.start", "sqlalchemy.ext.asyncio", "asyncpg", "postgres")
async def sqlalchemy_pool(start):
    from sqlalchemy.ext.asyncio import create_async_engine

    url = f"postgresql+asyncpg://postgres@/postgres?host={POSTGRES}"
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    held = engine.connect()
    await held.start()
    start(held.close)
    connection = engine.connect()
    await connection.start()  # here
    await connection.close()
    await engine.dispose()


@case("redis.asyncio.client.Redis.execute_command", "redis.asyncio", "redis_server")
async def redis_pool(start):
    from redis.asyncio import BlockingConnectionPool, Redis

    pool = BlockingConnectionPool(host="127.0.0.1", port=REDIS, max_connections=1, timeout=60)
    held = await pool.get_connection()
    start(pool.release, held)
    await Redis(connection_pool=pool).ping()  # here
    await pool.disconnect()


@case("redis.asyncio.client.Redis.execute_command", "redis.asyncio", "redis_server")
async def redis_blpop(start):
    from redis.asyncio import Redis

    client = Redis(host="127.0.0.1", port=REDIS)
    await client.blpop("nothing", timeout=HOLD)  # here
    await client.aclose()


def can_run(needs):
    """Imports what is needed: an import within a case would block all of them."""
    there = {"postgres": bool(POSTGRES), "redis_server": bool(REDIS)}
    try:
        return all(there[each] if each in there else importlib.import_module(each) for each in needs)
    except ImportError:
        return False


def line_of(function):
    lines, begin = inspect.getsourcelines(function)
    (at,) = [number for number, line in enumerate(lines) if line.rstrip().endswith("# here")]
    return begin + at


async def main(cases):
    truth = {}
    started = []

    def start(function, *arguments):
        started.append(asyncio.create_task(later(function, *arguments)))

    tasks = {}
    for name, (function, inside, _, waits) in cases.items():
        truth[name] = {"line": line_of(function), "inside": inside, "seconds": waits * HOLD, "waits": waits}
        tasks[name] = asyncio.create_task(function(start))
        await asyncio.sleep(0.1)  # what one sets up would prolong what the others wait for
    await asyncio.wait(tasks.values())
    for name, task in tasks.items():
        if task.exception() is not None:
            truth[name]["failed"] = repr(task.exception())
    await asyncio.gather(*started)
    return truth


if __name__ == "__main__":
    POSTGRES = sys.argv[3]
    REDIS = int(sys.argv[4] or 0)
    chosen = {name: each for name, each in CASES.items() if can_run(each[2])}
    traceloop.install()
    with traceloop.start(metrics=False, spans="off", record=sys.argv[1]):
        told = asyncio.run(main(chosen))
    with open(sys.argv[2], "w") as file:
        json.dump(told, file)
