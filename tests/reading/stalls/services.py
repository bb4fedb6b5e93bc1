"""Two services with a handler that blocks, and a client: `python services.py fastapi|aiohttp`."""

import asyncio
import sys
import time

import aiohttp

from traceloop import EventLoop


def compute():
    time.sleep(0.6)  # guilty


async def warm():
    return {}


async def handle_fastapi():
    compute()
    return {"done": True}


async def handle_aiohttp(request):
    compute()
    return aiohttp.web.Response(text="done")


async def ask(port, path=""):
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/{path}") as response:
        assert response.status == 200, await response.text()


async def serve_fastapi():
    import fastapi
    import uvicorn

    app = fastapi.FastAPI()
    app.get("/")(handle_fastapi)
    app.get("/warm")(warm)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    # A first request imports modules and reads sources: on a busy machine that takes longer than what is looked for.
    await ask(port, "warm")
    await ask(port)
    server.should_exit = True
    await task


async def serve_aiohttp():
    from aiohttp import web

    app = web.Application()
    app.router.add_get("/", handle_aiohttp)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    await ask(runner.addresses[0][1])
    await runner.cleanup()


if __name__ == "__main__":
    import aiohttp.web

    with asyncio.Runner(loop_factory=EventLoop) as made:
        made.run({"fastapi": serve_fastapi, "aiohttp": serve_aiohttp}[sys.argv[1]]())
