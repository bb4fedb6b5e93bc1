"""Servers that make their loops in their own ways: each answers which loop served the request."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.helpers.served import AIOHTTP, ASGI, ask, free_port, started
from tests.helpers.traced import Traced
from tests.helpers.waiting import PATIENCE

TORNADO = """
import asyncio, os, sys
import tornado.web
class Look(tornado.web.RequestHandler):
    def get(self):
        self.write(f"{type(asyncio.get_running_loop()).__mro__} {os.getpid()}")
async def main():
    tornado.web.Application([("/", Look)]).listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()
asyncio.run(main())
"""
SANIC = """
import asyncio, os, sys
from sanic import Sanic, text
app = Sanic("look")
@app.get("/")
async def look(request):
    return text(f"{type(asyncio.get_running_loop()).__mro__} {os.getpid()}")
if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), single_process=True, motd=False)
"""

#: name -> (modules it takes, words, workers that answer)
SERVERS: dict[str, tuple[tuple[str, ...], str, int]] = {
    "uvicorn": (("uvicorn",), "uvicorn app:app --port {port}", 1),
    "uvicorn asyncio": (("uvicorn",), "uvicorn app:app --port {port} --loop asyncio", 1),
    "uvicorn uvloop": (("uvicorn", "uvloop"), "uvicorn app:app --port {port} --loop uvloop", 1),
    "uvicorn as a module": (("uvicorn",), "-m uvicorn app:app --port {port}", 1),
    "uvicorn reload": (("uvicorn",), "uvicorn app:app --port {port} --reload", 1),
    "uvicorn workers": (("uvicorn",), "uvicorn app:app --port {port} --workers 2", 2),
    "gunicorn uvicorn worker": (
        ("gunicorn", "uvicorn_worker"),
        "gunicorn app:app -b 127.0.0.1:{port} -w 2 -k uvicorn_worker.UvicornWorker",
        2,
    ),
    "gunicorn preload": (
        ("gunicorn", "uvicorn_worker"),
        "gunicorn app:app -b 127.0.0.1:{port} -w 2 -k uvicorn_worker.UvicornWorker --preload",
        2,
    ),
    "gunicorn aiohttp": (
        ("gunicorn", "aiohttp"),
        "gunicorn service:app -b 127.0.0.1:{port} -k aiohttp.GunicornWebWorker",
        1,
    ),
    "hypercorn": (("hypercorn",), "hypercorn app:app -b 127.0.0.1:{port}", 1),
    "daphne": (("daphne",), "daphne -b 127.0.0.1 -p {port} app:app", 1),
    "aiohttp": (("aiohttp",), "service.py {port}", 1),
    "tornado": (("tornado",), "tornado_service.py {port}", 1),
    "sanic": (("sanic",), "sanic_service.py {port}", 1),
    "granian": (("granian",), "granian --interface asgi --host 127.0.0.1 --port {port} app:app", 1),
}


#: The others take as long as they are rare.
ALWAYS = ("uvicorn", "uvicorn reload", "gunicorn uvicorn worker", "aiohttp")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in ALWAYS else pytest.mark.slow) for n in SERVERS])
def test_every_process_of_the_server_runs_the_traced_loop(name: str, traced: Traced, tmp_path: Path) -> None:
    modules, words, workers = SERVERS[name]
    for module in modules:
        pytest.importorskip(module)
    for file, text in (
        ("app.py", ASGI), ("service.py", AIOHTTP), ("tornado_service.py", TORNADO), ("sanic_service.py", SANIC),
    ):  # fmt: skip
        (tmp_path / file).write_text(text)
    port = free_port()
    log = tmp_path / "log"
    with started(traced, tmp_path, ["--metrics-port", "0", *words.format(port=port).split()]) as server:
        answers: dict[str, str] = {}
        deadline = time.monotonic() + PATIENCE
        while len(answers) < workers:
            assert time.monotonic() < deadline and server.poll() is None, (answers, log.read_text())
            answer = ask(port)
            if answer is None:
                time.sleep(0.05)
                continue
            loop, _, pid = answer.rpartition(" ")
            answers[pid] = loop
        assert all("traceloop.loop.event_loop.EventLoop" in loop for loop in answers.values()), answers
    text = log.read_text()
    # Some servers leave by a KeyboardInterrupt; it has to be the end of every traceback.
    ends = re.findall(r"^Traceback .*\n(?:[ \t].*\n|\n)*(.*)", text, re.MULTILINE)
    assert all(end.startswith("KeyboardInterrupt") for end in ends), text
    assert re.search(r"traceloop: page at \S+/, metrics at ", text)
