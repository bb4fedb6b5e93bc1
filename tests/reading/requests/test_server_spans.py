"""Requests are named by the application's own server spans, where these say which route they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cores import CORES
from tests.helpers.kept_report import report_of

pytest.importorskip("opentelemetry.sdk.trace")

HEAD = """
import asyncio, socket, sys
import traceloop
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

trace.set_tracer_provider(TracerProvider())
tracer = trace.get_tracer("app")

async def ask(port, *paths):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for path in paths:
        writer.write(f"GET {path} HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n".encode())
        head = await reader.readuntil(b"\\r\\n\\r\\n")
        length = next(line for line in head.lower().split(b"\\r\\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
    writer.close()
"""
TAIL = """
traceloop.install()
with traceloop.start(metrics=False, spans="off", record=sys.argv[1]):
    asyncio.run(main())
"""
PATHS = """
PATHS = [path for name in ("ann", "bob", "eve") for path in (f"/quick/{name}", f"/slow/{name}", f"/plain/{name}")]
"""
# The name of the third has what the user asked for in it, and nothing says that it is a route.
DETAILS = """
def details(scope):
    path = scope["path"]
    kind = path.split("/")[1]
    if kind == "plain":
        return f"GET {path}", {}
    return f"GET /{kind}/{{name}}", {"http.route": f"/{kind}/{{name}}"}
"""
ASGI = """
import uvicorn
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def quick(request):
    return PlainTextResponse("ok")

async def slow(request):
    await asyncio.sleep(0.01)
    return PlainTextResponse("ok")

async def plain(request):
    return PlainTextResponse("ok")

async def main():
    app = Starlette(routes=[Route(f"/{each.__name__}/{{name}}", each) for each in (quick, slow, plain)])
    app = OpenTelemetryMiddleware(app, default_span_details=details)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", http="h11"))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    await ask(listening.getsockname()[1], *PATHS)
    server.should_exit = True
    await task
"""
AIOHTTP = """
from aiohttp import web

async def quick(request):
    return web.Response(text="ok")

async def slow(request):
    await asyncio.sleep(0.01)
    return web.Response(text="ok")

async def plain(request):
    return web.Response(text="ok")

@web.middleware
async def traced(request, handler):
    name, attributes = details({"path": request.path})
    with tracer.start_as_current_span(name, kind=trace.SpanKind.SERVER, attributes=attributes):
        return await handler(request)

async def main():
    app = web.Application(middlewares=[traced])
    app.add_routes([web.get(f"/{each.__name__}/{{name}}", each) for each in (quick, slow, plain)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    await ask(site._server.sockets[0].getsockname()[1], *PATHS)
    await runner.cleanup()
"""


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("server", ["asgi", "aiohttp"])
def test_a_route_names_its_requests_and_a_path_does_not(server: str, core: str, tmp_path: Path) -> None:
    pytest.importorskip({"asgi": "opentelemetry.instrumentation.asgi"}.get(server, server))
    if server == "asgi":
        pytest.importorskip("starlette")
        pytest.importorskip("uvicorn")
    program = HEAD + PATHS + DETAILS + {"asgi": ASGI, "aiohttp": AIOHTTP}[server] + TAIL
    assert counts(report_of(tmp_path, program, core)) == {
        "GET /quick/{name}": 3,
        "GET /slow/{name}": 3,
        "__main__.plain": 3,
    }
    for file in (tmp_path / "kept").rglob("*"):
        assert not file.is_file() or b"/ann" not in file.read_bytes() or file.name == "run.json"


GRPC = """
import grpc

def served(name, function):
    async def handle(request, context):
        if not TRACED:
            return await function()
        attributes = {"rpc.service": "shop.Prices", "rpc.method": name}
        kind = trace.SpanKind.SERVER
        with tracer.start_as_current_span(f"/shop.Prices/{name}", kind=kind, attributes=attributes):
            return await function()
    handle.__qualname__ = function.__name__
    handle.__code__ = handle.__code__.replace(co_name=function.__name__, co_qualname=function.__name__)
    return grpc.unary_unary_rpc_method_handler(handle)

async def get_price():
    await asyncio.sleep(0.01)
    return b"1"

async def get_name():
    return b"2"

async def main():
    server = grpc.aio.server()
    handlers = {"GetPrice": served("GetPrice", get_price), "GetName": served("GetName", get_name)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Prices", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(5):
            assert await channel.unary_unary("/shop.Prices/GetPrice")(b"") == b"1"
            assert await channel.unary_unary("/shop.Prices/GetName")(b"") == b"2"
    await server.stop(None)
"""


@pytest.mark.parametrize("core", CORES)
def test_a_call_of_grpc_is_named_by_its_function(core: str, tmp_path: Path) -> None:
    pytest.importorskip("grpc.aio")
    found = counts(report_of(tmp_path, HEAD + "TRACED = False\n" + GRPC + TAIL, core))
    assert found == {"__main__.get_price": 5, "__main__.get_name": 5}


def test_a_call_of_grpc_is_named_by_its_server_span(tmp_path: Path) -> None:
    pytest.importorskip("grpc.aio")
    found = counts(report_of(tmp_path, HEAD + "TRACED = True\n" + GRPC + TAIL, "python"))
    # The first call has named its function before its span began.
    assert found["/shop.Prices/GetPrice"] == 5
    assert found["/shop.Prices/GetName"] + found.get("__main__.get_name", 0) == 5
    assert found["/shop.Prices/GetName"] >= 4


def counts(report: Any) -> dict[str, int]:
    (process,) = report["processes"]
    return {each["request"]: each["count"] for each in process["requests"]["by_name"]}
