"""A server of known requests under load, and what its ledger must say of them.

    python tests/reading/requests/mixed_load.py fastapi|aiohttp [--requests 10000] [--connections 40] [--spans]

The requests are a mixture of all that a request can spend its time on; the server itself notes down what is known of
them: how long each waited for its lock, for how long each computed. Run as a program it prints the table and what was
checked, and ends with status 1 where something does not hold; tests/reading/requests/test_mixed_load.py does the same.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
SLEEP, SHORT, LONG, COMPUTE, HOLD, CALL = 0.02, 0.005, 0.015, 0.002, 0.001, 0.004
KINDS = ("plain", "sleeps", "computes", "offloads", "gathers", "locks")

SERVER = f"""
import asyncio, concurrent.futures, json, socket, sys, threading, time
import traceloop
KINDS = {KINDS}
known = {{"lock": 0.0, "computed": 0.0}}

def compute(seconds):
    begun = time.perf_counter()
    while time.perf_counter() < begun + seconds:
        pass
    known["computed"] += time.perf_counter() - begun

async def child(seconds):
    await asyncio.sleep(seconds)

lock = asyncio.Lock()
pool = concurrent.futures.ThreadPoolExecutor(2, "calls")

async def plain(): pass
async def sleeps(): await asyncio.sleep({SLEEP})
async def computes(): compute({COMPUTE})
async def offloads(): await asyncio.get_running_loop().run_in_executor(pool, time.sleep, {CALL})
async def gathers(): await asyncio.gather(child({SHORT}), child({LONG}))
async def locks():
    begun = time.monotonic()
    async with lock:
        known["lock"] += time.monotonic() - begun
        await asyncio.sleep({HOLD})

def handler(kind):
    async def handle(request: REQUEST):
        await kind()
        return RESPONSE
    handle.__name__ = handle.__qualname__ = kind.__name__
    handle.__code__ = handle.__code__.replace(co_name=kind.__name__, co_qualname=kind.__name__)
    return handle

async def ask(port, kinds, counts):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for kind in kinds:
        writer.write(f"GET /{{kind}} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n".encode())
        head = (await reader.readuntil(b"\\r\\n\\r\\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\\r\\n")[0]))
        counts[kind] = counts.get(kind, 0) + (b" 200 " in head)
    writer.close()
    await writer.wait_closed()

def client(port, requests, connections, counts):
    async def main():
        asked = [KINDS[number % len(KINDS)] for number in range(requests)]
        await asyncio.gather(*(ask(port, asked[each::connections], counts) for each in range(connections)))
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())

async def main():
    requests, connections = int(sys.argv[2]), int(sys.argv[3])
    counts = {{}}
    async def asked(port):
        await asyncio.to_thread(client, port, requests, connections, counts)
    await serve(asked)
    print(json.dumps({{"counts": counts}} | known))

if __name__ == "__main__":
    traceloop.install()
    with traceloop.start(metrics=False, spans="off", record=sys.argv[1], ring_size=1 << 26):
        asyncio.run(main())
"""
SERVERS = {
    "fastapi": """
from fastapi import FastAPI, Request as REQUEST
import uvicorn
RESPONSE = {"answer": "ok"}

async def serve(asked):
    app = FastAPI()
    for kind in (plain, sleeps, computes, offloads, gathers, locks):
        app.get("/" + kind.__name__)(handler(kind))
    listening = socket.create_server(("127.0.0.1", 0), backlog=200)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    await asked(listening.getsockname()[1])
    server.should_exit = True
    await task
""",
    "aiohttp": """
from aiohttp import web
REQUEST = web.Request

class RESPONSE:
    pass

def handler(kind):
    async def handle(request):
        await kind()
        return web.Response(text="ok")
    handle.__name__ = handle.__qualname__ = kind.__name__
    handle.__code__ = handle.__code__.replace(co_name=kind.__name__, co_qualname=kind.__name__)
    return handle

async def serve(asked):
    app = web.Application()
    for kind in (plain, sleeps, computes, offloads, gathers, locks):
        app.router.add_get("/" + kind.__name__, handler(kind))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=200)
    await site.start()
    await asked(site._server.sockets[0].getsockname()[1])
    await runner.cleanup()
""",
}


# What makes a server span for each request, which says its route.
SPANS = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())

def route_of(path):
    return f"GET {path}", {"http.route": path}
"""
SPANNED = {
    "fastapi": (
        "    listening = ",
        """    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    app = OpenTelemetryMiddleware(app, default_span_details=lambda scope: route_of(scope["path"]))
    listening = """,
    ),
    "aiohttp": (
        "    app = web.Application()",
        """    @web.middleware
    async def traced(request, handler):
        name, attributes = route_of(request.path)
        kind = trace.SpanKind.SERVER
        with trace.get_tracer("app").start_as_current_span(name, kind=kind, attributes=attributes):
            return await handler(request)
    app = web.Application(middlewares=[traced])""",
    ),
}


def run(
    server: str, requests: int, connections: int, folder: Path, core: str = "", *, spans: bool = False
) -> tuple[dict[str, Any], Path]:
    """Serves the requests; what the program knows of them, and its record. ``core``: c or python, the usual one.
    ``spans``: each request has a server span of OpenTelemetry's, which names it.
    """
    program = folder / "app.py"
    head, main, tail = SERVER.rpartition("async def main():")
    serving = SERVERS[server]
    if spans:
        assert SPANNED[server][0] in serving
        serving = SPANS + serving.replace(*SPANNED[server])
    program.write_text(head + serving + main + tail)
    command = [sys.executable, str(program), str(folder / "kept"), str(requests), str(connections)]
    done = subprocess.run(
        command, cwd=folder, env=_environ(core), check=True, timeout=600, stdout=subprocess.PIPE, text=True
    )
    (kept,) = (folder / "kept").iterdir()
    return json.loads(done.stdout), kept


def _environ(core: str) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return environ | {"PYTHONPATH": str(ROOT)} | ({"OTEL_PYTHON_TRACELOOP_CORE": core} if core else {})


def ledger_of(kept: Path, core: str = "") -> dict[str, Any]:
    """What a reader says of the requests in a record."""
    command = [sys.executable, "-m", "traceloop", "report", "--json", str(kept)]
    done = subprocess.run(command, env=_environ(core), check=True, timeout=600, stdout=subprocess.PIPE, text=True)
    (process,) = json.loads(done.stdout)["processes"]
    found: dict[str, Any] = process["requests"]
    return found


def problems_of(known: dict[str, Any], ledger: dict[str, Any]) -> list[str]:
    """What does not hold."""
    # Named by the handler, or by the server span (GET /plain).
    found = {each["request"].rpartition(".")[2].rpartition("/")[2]: each for each in ledger["by_name"]}
    counts = {name: each["count"] for name, each in found.items()}
    out = []

    def check(holds: bool, what: str) -> None:
        if not holds:
            out.append(what)

    check(counts == known["counts"], f"counted {counts}, asked {known['counts']}")
    check(not ledger["incomplete"], f"{ledger['incomplete']} incomplete")
    for each in (*ledger["by_name"], *ledger["slowest"]):
        took = each["sum_seconds"] if "sum_seconds" in each else each["seconds"]
        rest = took - sum(each["parts"].values())
        check(math.isclose(rest, 0.0, abs_tol=1e-6), f"{each['request']}: {rest} s are in no part")
        check(not each["parts"].get("unknown"), f"{each['request']}: {each['parts'].get('unknown')} s not known")
    if counts != known["counts"]:
        return out

    def seconds(name: str, *parts: str) -> float:
        return sum(found[name]["parts"].get(part, 0.0) for part in parts)

    # A step that sets a timer may go on to run until after it is due, and a timer may be early by a clock tick.
    early = 0.0001
    for name, each_s in (("sleeps", SLEEP), ("gathers", LONG), ("locks", HOLD)):
        least = counts[name] * each_s
        waited = seconds(name, "wait_timer")
        check(0.0 < waited <= least + counts[name] * early, f"{name}: {waited} s for timers, known {least}")
        check(found[name]["sum_seconds"] >= waited, f"{name}: shorter than its timers")
    computed = seconds("computes", "running")
    check(computed >= known["computed"], f"computes: {computed} s running, known {known['computed']}")
    # What the program measured ends with the step that has the lock, which began when the wait was over.
    locked = seconds("locks", "wait_task")
    whole = locked + seconds("locks", "ready", "running")
    check(locked <= known["lock"] <= whole, f"locks: {locked} to {whole} s for others, known {known['lock']}")
    calls = seconds("offloads", "executor_run")
    all_of_calls = calls + seconds("offloads", "executor_queue", "executor_return", "running")
    check(calls > 0.0 and all_of_calls >= counts["offloads"] * CALL, f"offloads: {calls} s in the executor")
    for name in ("plain", "computes"):
        others = [part for part in found[name]["parts"] if part.startswith(("wait", "executor"))]
        check(not others, f"{name}: {others}")
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=40)
    parser.add_argument("--core", choices=("c", "python"), default="c")
    parser.add_argument("--spans", action="store_true", help="with server spans of OpenTelemetry's")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        choice = (options.server, options.requests, options.connections, Path(folder), options.core)
        known, kept = run(*choice, spans=options.spans)
        ledgers = [ledger_of(kept, core) for core in ("c", "python")]
    for each in ledgers[0]["by_name"]:
        parts = {part: round(spent / each["count"] * 1e3, 3) for part, spent in each["parts"].items()}
        print(each["request"], each["count"], f"p50 {each['p50_seconds'] * 1e3:.1f} ms, means in ms:", parts)
    problems = [problem for ledger in ledgers for problem in problems_of(known, ledger)]
    problems += differences(*ledgers)
    print(f"lock: {known['lock']:.3f} s, computed: {known['computed']:.3f} s by the program")
    print("\n".join(problems) or "all holds, by both readers")
    return 1 if problems else 0


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two readers do not say the same, but for the last bits of sums."""
    if isinstance(one, float) and isinstance(other, float | int):
        return [] if math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9) else [f"{where}: {one}, {other}"]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [each for key in one for each in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [each for at in range(len(one)) for each in differences(one[at], other[at], f"{where}/{at}")]
    return [] if one == other else [f"{where}: {one}, {other}"]


if __name__ == "__main__":
    sys.exit(main())
