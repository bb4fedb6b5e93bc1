"""Servers as they are started by hand: their requests are counted, under the names of the application's functions."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.helpers.served import LIFESPAN, ask, free_port, started
from tests.helpers.traced import Traced
from tests.helpers.waiting import PATIENCE
from traceloop.reading import read_run

APP = """
import asyncio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def quick(request):
    return PlainTextResponse("ok")

app = Starlette(routes=[Route("/", quick)])
"""
SERVERS = {
    "granian": "granian --interface asgi --loop asyncio --host 127.0.0.1 --port {port} app:app",
    "hypercorn": "hypercorn app:app -b 127.0.0.1:{port}",
    "gunicorn": "gunicorn app:app -b 127.0.0.1:{port} -w 2 -k uvicorn_worker.UvicornWorker",
}
ASKED = 20


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "granian" else [pytest.mark.slow]) for name in SERVERS]
)
def test_requests_are_named_by_the_endpoint(name: str, traced: Traced, tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip({"gunicorn": "uvicorn_worker"}.get(name, name))
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    options = ["--no-metrics", "--record", str(tmp_path / "kept")]
    with started(traced, tmp_path, [*options, *SERVERS[name].format(port=port).split()]) as server:
        answered = 0
        deadline = time.monotonic() + PATIENCE
        while answered < ASKED:
            assert time.monotonic() < deadline and server.poll() is None, (tmp_path / "log").read_text()
            if ask(port) is None:
                time.sleep(0.05)
            else:
                answered += 1
    (kept,) = (tmp_path / "kept").iterdir()
    counts: dict[str, int] = {}
    for series, labels, value in read_run(kept).samples():
        if series == "asyncio_request_duration_seconds":
            request = dict(labels)["request"]
            counts[request] = counts.get(request, 0) + value.count
    assert list(counts) == ["app.quick"]
    assert counts["app.quick"] >= ASKED  # a client that gave up was answered all the same

BARE = LIFESPAN + """
async def shop(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

class Middleware:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)

app = Middleware(shop)
"""
STARLETTE = """
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

async def chat(websocket):
    await websocket.accept()
    async for message in websocket.iter_text():
        await websocket.send_text(message)

app = Starlette(routes=[WebSocketRoute("/", chat)])
"""
TORNADO = """
import asyncio, sys
import tornado.web, tornado.websocket

class Chat(tornado.websocket.WebSocketHandler):
    async def on_message(self, message):
        await self.write_message(message)

async def main():
    tornado.web.Application([("/", Chat)]).listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()

asyncio.run(main())
"""
WEBSOCKETS = {
    "granian": (STARLETTE, SERVERS["granian"], "app.chat"),
    "granian-bare": (BARE, SERVERS["granian"], "app.shop"),
    "uvicorn-bare": (BARE, "uvicorn app:shop --port {port}", "app.shop"),
    "hypercorn-bare": (BARE, SERVERS["hypercorn"], "app.shop"),
    "tornado": (TORNADO, "app.py {port}", "__main__.Chat.on_message"),
}


def talk(port: int) -> bool:
    """Whether a websocket was opened, and has answered."""
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    try:
        with connect(f"ws://127.0.0.1:{port}/", open_timeout=5) as websocket:
            websocket.send("hello")
            return websocket.recv(5) == "hello"
    except (OSError, WebSocketException):
        return False


@pytest.mark.parametrize("case", WEBSOCKETS)
def test_a_websocket_is_named_by_the_applications_own_code(case: str, traced: Traced, tmp_path: Path) -> None:
    """Without a framework too: then by the application that middleware is wrapped around."""
    for module in ("websockets.sync.client", "starlette", case.partition("-")[0]):
        pytest.importorskip(module)
    program, command, name = WEBSOCKETS[case]
    (tmp_path / "app.py").write_text(program)
    port = free_port()
    options = ["--no-metrics", "--record", str(tmp_path / "kept")]
    with started(traced, tmp_path, [*options, *command.format(port=port).split()]) as server:
        deadline = time.monotonic() + PATIENCE
        while not talk(port):
            assert time.monotonic() < deadline and server.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
    (kept,) = (tmp_path / "kept").iterdir()
    requests = {
        dict(labels)["request"]
        for series, labels, _ in read_run(kept).samples()
        if series == "asyncio_request_duration_seconds"
    }
    assert requests == {name}
