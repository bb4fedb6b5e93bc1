"""A request's ledger, against requests of which it is known what they do; over real connections."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cores import CORES
from tests.helpers.paths import ROOT
from traceloop.reading.requests.stretches import PARTS

# Each program has a server of one library, handlers with known waits, and asks each of them on one connection.
ASK = """
import asyncio, json, sys, threading, time
import traceloop

def compute(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass

lock = asyncio.Lock()

async def child(seconds):
    await asyncio.sleep(seconds)
    compute(0.005)

async def plain():
    pass

async def sleeps():
    await asyncio.sleep(0.05)

async def computes():
    compute(0.03)

async def offloads():
    await asyncio.to_thread(time.sleep, 0.04)

async def gathers():
    await asyncio.gather(child(0.01), child(0.06))

arrived = 0

async def locks():
    global arrived
    arrived += 1
    async with lock:
        while arrived < 3:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)

KINDS = (plain, sleeps, computes, offloads, gathers, locks)

async def ask(port, path, times):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(times):
        writer.write(f"GET /{path} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n".encode())
        head = (await reader.readuntil(b"\\r\\n\\r\\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\\r\\n")[0])
        await reader.readexactly(length)
    writer.close()

async def pipeline(port, path, times):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /{path} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n".encode() * times)
    for _ in range(times):
        head = (await reader.readuntil(b"\\r\\n\\r\\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\\r\\n")[0]))
    writer.close()

def client(port):
    async def main():
        for kind in KINDS[:-1]:
            await ask(port, kind.__name__, 3)
        await pipeline(port, "plain", 4)
        await asyncio.gather(*(ask(port, "locks", 1) for _ in range(3)))
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())
"""
SERVERS = {
    "aiohttp": """
from aiohttp import web

def handler(kind):
    async def handle(request):
        await kind()
        return web.Response(text="ok")
    handle.__qualname__ = kind.__name__
    handle.__code__ = handle.__code__.replace(co_name=kind.__name__, co_qualname=kind.__name__)
    return handle

async def serve(asked):
    app = web.Application()
    for kind in KINDS:
        app.router.add_get("/" + kind.__name__, handler(kind))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    await asked(site._server.sockets[0].getsockname()[1])
    await runner.cleanup()
""",
    "uvicorn": """
import socket, uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

def handler(kind):
    async def handle(request):
        await kind()
        return PlainTextResponse("ok")
    handle.__qualname__ = kind.__name__
    handle.__code__ = handle.__code__.replace(co_name=kind.__name__, co_qualname=kind.__name__)
    return handle

async def serve(asked):
    app = Starlette(routes=[Route("/" + kind.__name__, handler(kind)) for kind in KINDS])
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", http="h11"))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    await asked(listening.getsockname()[1])
    server.should_exit = True
    await task
""",
}
MAIN = """
async def main():
    async def asked(port):
        thread = threading.Thread(target=client, args=(port,))
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.01)
    await serve(asked)

traceloop.install()
with traceloop.start(metrics=False, spans="off", record=sys.argv[1]):
    asyncio.run(main())
"""


def report_of(folder, **variables):
    """Runs ``app.py`` in this folder; what the report on its record says of requests."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **variables}
    command = [sys.executable, "app.py", str(folder / "kept")]
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=120, capture_output=True)
    (kept,) = Path(folder / "kept").iterdir()
    command = [sys.executable, "-m", "traceloop", "report", "--json", str(kept)]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, timeout=120, capture_output=True, text=True)
    (process,) = json.loads(done.stdout)["processes"]
    return process["requests"]


@pytest.fixture(scope="module", params=SERVERS)
def requests(request, tmp_path_factory):
    pytest.importorskip({"uvicorn": "starlette"}.get(request.param, request.param))
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "app.py").write_text(ASK + SERVERS[request.param] + MAIN)
    return report_of(folder)


def by_name(requests):
    return {each["request"].rpartition(".")[2]: each for each in requests["by_name"]}


def test_each_request_is_counted_by_its_handler(requests):
    counts = {name: each["count"] for name, each in by_name(requests).items()}
    # Four more were sent at once, on one connection.
    assert counts == {"plain": 7, "sleeps": 3, "computes": 3, "offloads": 3, "gathers": 3, "locks": 3}
    assert not requests["incomplete"]


def test_the_parts_add_up_to_the_duration(requests):
    for each in requests["by_name"]:
        assert math.isclose(sum(each["parts"].values()), each["sum_seconds"], abs_tol=1e-6), each
        assert set(each["parts"]) <= set(PARTS)
        assert not each["parts"].get("unknown")
    for each in requests["slowest"]:
        assert math.isclose(sum(each["parts"].values()), each["seconds"], abs_tol=1e-6), each


def test_the_time_is_where_it_was_spent(requests):
    found = by_name(requests)

    def mean(name, part):
        return found[name]["parts"].get(part, 0.0) / found[name]["count"]

    # A timer is set within a step, whose rest, however long on a busy machine, is running.
    assert 0.0 < mean("sleeps", "wait_timer") <= 0.0501 <= found["sleeps"]["sum_seconds"] / 3 + 0.0002
    assert 0.0 < mean("gathers", "wait_timer") <= 0.0601 <= found["gathers"]["sum_seconds"] / 3 + 0.0002
    assert mean("computes", "running") >= 0.03
    # A worker may begin while the step that gave it the call still runs.
    assert mean("offloads", "executor_run") > 0.0 and found["offloads"]["sum_seconds"] / 3 >= 0.04
    for name in ("plain", "computes"):
        assert not any(mean(name, part) for part in PARTS if part.startswith(("wait", "executor")))


def test_who_waits_for_a_lock_waits_for_the_request_that_has_it(requests):
    locks = by_name(requests)["locks"]
    # Three at once: the second waits for the first, the third for both.
    assert locks["parts"]["wait_task"] >= 0.055
    details = [each["detail"] for each in locks["details"] if each["part"] == "wait_task"]
    # Who had it; or the place where a look saw the task wait, if it waited so long that one did.
    assert details and all(re.match(r"for |.*\basyncio\.Lock\.acquire$", detail) for detail in details), details


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@pytest.mark.parametrize("core", CORES)
def test_a_request_that_an_eager_task_answers_counts_from_its_arrival(tmp_path, core):
    pytest.importorskip("starlette")
    set_factory = "asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)"
    eager = MAIN.replace("    await serve", f"    {set_factory}\n    await serve")
    (tmp_path / "app.py").write_text(ASK + SERVERS["uvicorn"] + eager)
    requests = report_of(tmp_path, OTEL_PYTHON_TRACELOOP_CORE=core)
    sleeps = by_name(requests)["sleeps"]
    assert sleeps["count"] == 3
    assert 0.0 < sleeps["parts"]["wait_timer"] / 3 <= 0.0501 <= sleeps["sum_seconds"] / 3 + 0.0002
    # What it did before it first waited is in it, as far as the run that read its bytes tells.
    assert sleeps["parts"]["running"] > 0.0
    for each in requests["by_name"]:
        assert math.isclose(sum(each["parts"].values()), each["sum_seconds"], abs_tol=1e-6), each
        assert not each["parts"].get("unknown"), each


WEBSOCKETS = """
import asyncio, sys
import traceloop
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

async def echo(socket):
    async for message in socket:
        await asyncio.sleep(0.01)
        await socket.send(message)

async def ask(port):
    async with connect(f"ws://127.0.0.1:{port}/") as socket:
        for _ in range(3):
            await socket.send("a")
            await socket.recv()

async def main():
    async with serve(echo, "127.0.0.1", 0) as server:
        await asyncio.gather(*(ask(server.sockets[0].getsockname()[1]) for _ in range(4)))

traceloop.install()
with traceloop.start(metrics=False, spans="off", record=sys.argv[1]):
    asyncio.run(main())
"""


def test_a_connection_of_websockets_is_one_request_named_by_its_handler(tmp_path):
    pytest.importorskip("websockets.asyncio.server")
    (tmp_path / "app.py").write_text(WEBSOCKETS)
    (found,) = report_of(tmp_path)["by_name"]
    assert (found["request"], found["count"]) == ("__main__.echo", 4)
    assert 0.0 < found["parts"]["wait_timer"] <= 4 * 3 * 0.0101
