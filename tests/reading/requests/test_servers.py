"""Servers as they are started by hand: their requests are counted, under the names of the application's functions."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.helpers.served import ask, free_port, started
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
