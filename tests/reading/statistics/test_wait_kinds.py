"""What is waited for, from the names on the chain: as libraries have them."""

import pytest

from traceloop.reading.statistics import wait_kinds

FUTURE = "_asyncio.Future"


def frames(*names):
    out = []
    for name in names:
        module, _, qualname = name.partition(":")
        out.append(("f.py", 1, module, qualname))
    return out


@pytest.mark.parametrize(
    ("below", "awaited", "kind"),
    [
        (["asyncio.tasks:sleep"], FUTURE, wait_kinds.SLEEP),
        (["asyncio.locks:_ContextManagerMixin.__aenter__", "asyncio.locks:Lock.acquire"], FUTURE, wait_kinds.LOCK),
        (["asyncio.tasks:wait_for", "asyncio.locks:Semaphore.acquire"], FUTURE, wait_kinds.LOCK),
        (["asyncio.queues:Queue.get"], FUTURE, wait_kinds.QUEUE),
        (["asyncio.tasks:wait", "asyncio.tasks:_wait"], FUTURE, wait_kinds.TASK),
        ([], "asyncio.tasks._GatheringFuture", wait_kinds.TASK),
        ([], "_asyncio.Task", wait_kinds.TASK),
        ([], FUTURE, wait_kinds.OTHER),
        (["asyncpg.pool:Pool._acquire", "asyncpg.pool:Pool._acquire.<locals>._acquire_impl"], FUTURE, wait_kinds.POOL),
        (["psycopg_pool.pool_async:AsyncConnectionPool.getconn"], FUTURE, wait_kinds.POOL),
        (
            ["sqlalchemy.ext.asyncio.session:AsyncSession.get", "asyncio.tasks:wait_for", "asyncio.queues:Queue.get"],
            FUTURE,
            wait_kinds.POOL,
        ),
        (
            ["aiohttp.client:ClientSession._request", "aiohttp.connector:BaseConnector._wait_for_available_connection"],
            FUTURE,
            wait_kinds.POOL,
        ),
        (
            ["httpx._client:AsyncClient.get", "httpcore._async.connection_pool:AsyncPoolRequest.wait_for_connection"],
            FUTURE,
            wait_kinds.POOL,
        ),
        (
            [
                "httpx._client:AsyncClient.get",
                "httpcore._async.connection_pool:AsyncConnectionPool.handle_async_request",
                "httpcore._async.http11:AsyncHTTP11Connection.handle_async_request",
                "httpcore._async.http11:AsyncHTTP11Connection._receive_event",
                "httpcore._backends.anyio:AnyIOStream.read",
            ],
            FUTURE,
            wait_kinds.OTHER,
        ),
        (["redis.asyncio.connection:BlockingConnectionPool.get_connection"], FUTURE, wait_kinds.POOL),
        (["anyio._backends._asyncio:CapacityLimiter.acquire_on_behalf_of"], FUTURE, wait_kinds.LOCK),
        (["aiohttp.client_reqrep:ClientResponse.start"], FUTURE, wait_kinds.OTHER),
    ],
)
def test_kinds(below, awaited, kind):
    assert wait_kinds.kind_of(frames(*below), awaited) == kind
