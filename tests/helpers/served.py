"""Small services that answer which loop they run on, and what asks them."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.helpers.differential import clean_environ
from tests.helpers.traced import Traced

#: For programs that are ASGI applications.
LIFESPAN = """
async def lifespan(receive, send):
    message = None
    while message is None or message["type"] != "lifespan.shutdown":
        message = await receive()
        await send({"type": message["type"] + ".complete"})
"""
ASGI = f"""
import asyncio, os
{LIFESPAN}
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    body = f"{{type(asyncio.get_running_loop()).__mro__}} {{os.getpid()}}".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})
"""
AIOHTTP = """
import asyncio, os, sys
from aiohttp import web
async def look(request):
    return web.Response(text=f"{type(asyncio.get_running_loop()).__mro__} {os.getpid()}")
def make():
    app = web.Application()
    app.router.add_get("/", look)
    return app
app = make()
if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def ask(port: int) -> str | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return str(answer.read().decode())
    except (OSError, http.client.HTTPException):  # a worker that is killed may break off within its answer
        return None


@contextlib.contextmanager
def started(traced: Traced, folder: Path, words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server under `traceloop run` with these words, in folder, which has its output in folder/log. It is ended by
    SIGTERM, and none of its processes outlives the block.
    """
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*traced.command, *words],
            cwd=folder,
            env=clean_environ({"PATH": f"{traced.folder}/bin{os.pathsep}{os.environ['PATH']}"}),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield server
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=120)
    finally:
        try:
            os.killpg(server.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        server.wait()
