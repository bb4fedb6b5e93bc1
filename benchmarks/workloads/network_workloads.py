"""Servers under load: the client is a process of its own (load.py), only the server is measured."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from harness import stopwatch


async def _under_load(kind: str, port: int, n: int) -> int:
    """Runs the client against ``port``; returns how many operations it did."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_PYTHON_TRACELOOP_")}
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "load.py")
    client = subprocess.Popen(
        [sys.executable, path, kind, str(port), str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
    )
    assert client.stdin is not None and client.stdout is not None
    if await read_line(client.stdout.fileno()) != b"ready":
        raise RuntimeError("the client failed")
    stopwatch.start()
    client.stdin.write(b"go\n")
    client.stdin.close()
    line = await read_line(client.stdout.fileno())
    stopwatch.stop()
    client.stdout.close()
    if client.wait():
        raise RuntimeError("the client failed")
    return int(line)


async def read_line(descriptor: int) -> bytes:
    """The next line without its end, empty where there is none. To be called when one line at most is under way."""
    loop = asyncio.get_running_loop()
    data = b""
    while not data.endswith(b"\n"):
        readable = loop.create_future()
        loop.add_reader(descriptor, readable.set_result, None)
        await readable
        loop.remove_reader(descriptor)
        part = os.read(descriptor, 1024)
        if not part:
            break
        data += part
    return data.strip()


class Echo(asyncio.Protocol):
    """Sends back what it is sent; stops reading while the other side does not read."""

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


async def _stream_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(64 * 1024):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _protocol_server(kind: str, n: int) -> int:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    async with server:
        return await _under_load(kind, server.sockets[0].getsockname()[1], n)


async def _stream_server(kind: str, n: int) -> int:
    server = await asyncio.start_server(_stream_echo, "127.0.0.1", 0)
    async with server:
        return await _under_load(kind, server.sockets[0].getsockname()[1], n)


async def echo_protocol_1k(n: int) -> int:
    """TCP echo by a protocol, 50 connections, 1 KiB. Operation: an echo."""
    return await _protocol_server("echo_1k", n)


async def echo_protocol_64k(n: int) -> int:
    """TCP echo by a protocol, 50 connections, 64 KiB. Operation: an echo."""
    return await _protocol_server("echo_64k", n)


async def echo_streams_1k(n: int) -> int:
    """TCP echo by streams, 50 connections, 1 KiB. Operation: an echo."""
    return await _stream_server("echo_1k", n)


async def echo_streams_64k(n: int) -> int:
    """TCP echo by streams, 50 connections, 64 KiB. Operation: an echo."""
    return await _stream_server("echo_64k", n)


async def mixed_200(n: int) -> int:
    """TCP echo by streams, 200 connections with messages of 128 B to 64 KiB. Operation: an echo."""
    return await _stream_server("mixed", n)


#: The command wrk, where HTTP is to be asked for by it; else load.py asks.
WRK = os.environ.get("BENCHMARK_WRK", "")


async def aiohttp(n: int) -> int:
    """An aiohttp service that answers with a few bytes of JSON, 50 connections. Operation: a request."""
    from aiohttp import web

    return await _serve_aiohttp(web, web.Application(), _greeting(web), n)


def _greeting(web):
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"hello": "world"})

    return answer


async def _serve_aiohttp(web, application, answer, n: int) -> int:
    application.router.add_get("/", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        return await _under_load(WRK or "http", runner.addresses[0][1], n)
    finally:
        await runner.cleanup()


async def aiohttp_span(n: int) -> int:
    """The same in an application that traces itself: a span for each request. Operation: a request."""
    from aiohttp import web

    application, _ = _traced_application(web)
    return await _serve_aiohttp(web, application, _greeting(web), n)


async def aiohttp_spans(n: int) -> int:
    """The same, and a second span for what the request awaits in two turns of the loop. Operation: a request."""
    from aiohttp import web

    application, tracer = _traced_application(web)

    async def answer(request: web.Request) -> web.Response:
        with tracer.start_as_current_span("query"):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return web.json_response({"hello": "world"})

    return await _serve_aiohttp(web, application, answer, n)


def _traced_application(web):
    """An application with a span for each request, and its tracer."""
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("application")

    @web.middleware
    async def traced(request: web.Request, handler) -> web.StreamResponse:
        with tracer.start_as_current_span("request"):
            return await handler(request)

    return web.Application(middlewares=[traced]), tracer


async def uvicorn(n: int) -> int:
    """A bare ASGI application under uvicorn, 50 connections. Operation: a request."""
    import uvicorn as package

    body = b'{"hello":"world"}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]

    async def application(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    config = package.Config(application, port=0, log_level="error", access_log=False, lifespan="off")
    server = package.Server(config)
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        return await _under_load(WRK or "http", server.servers[0].sockets[0].getsockname()[1], n)
    finally:
        server.should_exit = True
        await serving


#: Workload -> number of operations of all slices (by wrk: what it does in a second, in each).
WORKLOADS = {
    echo_protocol_1k: 40_000,
    echo_protocol_64k: 16_000,
    echo_streams_1k: 30_000,
    echo_streams_64k: 12_000,
    mixed_200: 30_000,
    aiohttp: 10_000,
    aiohttp_span: 7_000,
    aiohttp_spans: 6_000,
    uvicorn: 15_000,
}
