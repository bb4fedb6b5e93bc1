"""A small ASGI application for the files beside it: no framework, so that any server runs it.

    traceloop run uvicorn app:app
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]


def slow_digest(rounds: int) -> str:
    """What belongs into a thread, and is called on the loop: `/slow` shows what traceloop says of it."""
    digest = b"traceloop"
    for _ in range(rounds):
        digest = hashlib.sha256(digest).digest()
    return digest.hex()


async def respond(send: Callable[[Message], Awaitable[None]], status: int, content: Any) -> None:
    """Sends one JSON document."""
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """`/` waits a little, `/slow` blocks the loop, `/healthz` is for probes."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/healthz":
        await respond(send, 200, "ok")
    elif scope["path"] == "/slow":
        await respond(send, 200, {"digest": slow_digest(400_000)})
    elif scope["path"] == "/":
        await asyncio.sleep(0.005)
        await respond(send, 200, {"hello": "world"})
    else:
        await respond(send, 404, "not found")
