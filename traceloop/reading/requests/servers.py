"""The tasks in which servers answer requests, by the names of the coroutines that a server's library runs in them."""

from __future__ import annotations

from typing import Final

#: The task is one request (of a websocket or a gRPC stream: one connection, one call).
REQUEST: Final = 1
#: The task is a connection, which answers one request after the other.
CONNECTION: Final = 2

_UVICORN: Final = "uvicorn.protocols."
_TASKS: Final = {
    _UVICORN + "http.h11_impl.RequestResponseCycle.run_asgi": REQUEST,
    _UVICORN + "http.httptools_impl.RequestResponseCycle.run_asgi": REQUEST,
    _UVICORN + "websockets.websockets_impl.WebSocketProtocol.run_asgi": REQUEST,
    _UVICORN + "websockets.websockets_sansio_impl.WebSocketsSansIOProtocol.run_asgi": REQUEST,
    _UVICORN + "websockets.wsproto_impl.WSProtocol.run_asgi": REQUEST,
    "hypercorn.asyncio.task_group._handle": REQUEST,
    "aiohttp.web_protocol.RequestHandler.start": CONNECTION,
    "tornado.web.RequestHandler._execute": REQUEST,
    "granian._futures._future_watcher_wrapper.<locals>.future_watcher": REQUEST,
    # grpc.aio: a coroutine of Cython, which has no module name.
    "_handle_exceptions": REQUEST,
    "websockets.asyncio.server.Server.conn_handler": REQUEST,
    "websockets.asyncio.server.serve.<locals>.protocol_handler": REQUEST,  # since 17
    "websockets.legacy.server.WebSocketServerProtocol.handler": REQUEST,
}


def kind_of(label: str) -> int:
    """What a task of this coroutine is: ``REQUEST``, ``CONNECTION``, or 0 for none of a server's."""
    return _TASKS.get(label, 0)
