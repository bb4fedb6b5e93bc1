"""The kind of thing that a task waits for, derived from the names in its chain of coroutines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ...record.frames import Frame

SLEEP: Final = "sleep"
LOCK: Final = "lock"
POOL: Final = "pool"
QUEUE: Final = "queue"
TASK: Final = "task"
#: The task waits in ``drain`` for a peer that does not read.
PEER: Final = "peer"
OTHER: Final = "other"

# The names of functions in which libraries wait for a connection that others have: SQLAlchemy, asyncpg, psycopg, redis,
# aiohttp (BaseConnector._wait_for_available_connection), httpcore (wait_for_connection), aiomysql, motor.
_POOL: Final = re.compile(
    r"(?i)\bpool|[._]pool\b|acquire|checkout|getconn|get_connection|wait_for_(available_)?connection"
)
_POOL_DEPTH: Final = 3
_LOCKS: Final = ("Lock.acquire", "Semaphore.acquire", "CapacityLimiter.acquire_on_behalf_of")
_DRAINS: Final = re.compile(r"(^|\.)_?drain(_helper)?$")
_TASKS: Final = ("gather", "wait", "wait_for", "TaskGroup.__aexit__", "shield", "as_completed")


def kind_of(below: Sequence[Frame], awaited: str) -> str:
    """The kind of wait; ``below``: the frames below the application's line, outermost first; ``awaited``: the type of
    the future at the end.
    """
    if not below:
        return TASK if "Task" in awaited or "Gathering" in awaited else OTHER
    in_asyncio = below[0][2].partition(".")[0] == "asyncio"
    innermost = below[-1][3]
    if any(_DRAINS.search(qualname) for _, _, _, qualname in below[-2:]):
        return PEER
    if not in_asyncio:
        names = [f"{module}.{qualname}" for _, _, module, qualname in below if module.partition(".")[0] != "asyncio"]
        # SQLAlchemy's pool waits in a greenlet, whose frames are in no chain. Only the queue's frame can be seen.
        if any(name.startswith("sqlalchemy.") for name in names) and innermost == "Queue.get":
            return POOL
        # A pool's own method may stand above every wait of a connection that it gave out (httpcore's
        # handle_async_request does). So only the innermost frames decide.
        if any(_POOL.search(name) for name in names[-_POOL_DEPTH:]):
            return LOCK if any(name.endswith(_LOCKS) for name in names) else POOL
        return OTHER
    if any(qualname.endswith(_LOCKS) for _, _, _, qualname in below):
        return LOCK
    if innermost == "sleep":
        return SLEEP
    if innermost.startswith("Queue."):
        return QUEUE
    return TASK if any(qualname in _TASKS for _, _, _, qualname in below) else OTHER
