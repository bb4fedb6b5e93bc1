"""A small HTTP service with a load of its own and a menu of troubles: `traceloop demo`, or `traceloop run troubles.py`.

It needs nothing but Python. Troubles come and go by turns, until one is chosen by `--trouble` or by HTTP: its menu
(http://localhost:8080) switches each on and off. Dashboards and alerts show what each looks like. What is wrong here is
wrong on purpose: `load_prices` sleeps on the loop, and so on.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TROUBLES = {
    "blocking": "a handler calls time.sleep(0.4) on the loop, every second or so",
    "freeze": "a callback blocks the loop for 8 s, twice a minute or so",
    "busy": "parsing that never awaits takes nearly all of the loop's time, in short callbacks",
    "gil": "a thread computes in a C call that holds the GIL for a good while",
    "timers": "every request sets two timers for an hour from now and forgets them",
    "memory": "every request is remembered for ever (stops at 500 MB)",
    "pool": "more reports are ordered than the pool's four threads can write",
    "tasks": "every request starts a task that waits for something that never comes",
}
#: Seconds of quiet before each trouble of the tour, and for which it lasts.
PAUSE_SECONDS, TOUR_SECONDS = 3, 12


def say(line: str) -> None:
    """A line for the user of the demo."""
    print(f"traceloop: {line}", file=sys.stderr, flush=True)


class Service:
    """The requests, and the state of the troubles."""

    def __init__(self) -> None:
        self.on: set[str] = set()
        self.reports = ThreadPoolExecutor(4, thread_name_prefix="reports")
        self.remembered: list[bytearray] = []
        self.waiting: set[asyncio.Task[None]] = set()
        self.timers: list[asyncio.TimerHandle] = []
        self.stopped = threading.Event()
        self.port = 0
        self.chosen = False

    # The healthy part.

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, with as many requests as the client likes."""
        # Cancelled at the end of the program; asyncio's own callback on this task would print that as an error.
        gone = (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError)
        with contextlib.suppress(*gone):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                _, _, rest = head.partition(b" ")
                status, body = await self.answer(rest.partition(b" ")[0].decode("latin-1"))
                writer.write(
                    b"HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
                    % (status, len(body))
                )
                writer.write(body)
                await writer.drain()
        writer.close()

    async def answer(self, path: str) -> tuple[bytes, bytes]:
        """Status and body for a path."""
        if "timers" in self.on:
            self.timers += [asyncio.get_running_loop().call_later(3600, forget) for _ in range(2)]
        match path.strip("/").split("/"):
            case ["prices"]:
                return b"200 OK", await self.load_prices()
            case ["feed"]:
                return b"200 OK", self.parse_feed()
            case ["report"]:
                return b"200 OK", await asyncio.get_running_loop().run_in_executor(self.reports, write_report, 0.02)
            case ["file"]:
                return b"200 OK", await asyncio.to_thread(read_file)
            case ["trouble", name, "on" | "off" as wanted] if name in TROUBLES or name == "all":
                self.chosen = True
                self.switch(TROUBLES if name == "all" else (name,), wanted == "on")
                return b"200 OK", self.menu().encode()
            case [""] | ["trouble", *_]:
                return b"200 OK", self.menu().encode()
        return b"404 Not Found", b"see /\n"

    def menu(self) -> str:
        """What there is, and what is on."""
        lines = [f"  [{'x' if name in self.on else ' '}] {name:9} {text}" for name, text in TROUBLES.items()]
        return "\n".join(
            [
                "Troubles:",
                *lines,
                "",
                f"Switch: curl localhost:{self.port}/trouble/NAME/on (or off; NAME may be all)",
                "",
            ]
        )

    async def load_prices(self) -> bytes:
        """A handler as there are many: waits for something, computes a little."""
        if "blocking" in self.on and random.random() < 0.03:
            time.sleep(0.4)
        if "memory" in self.on and len(self.remembered) < 5000:
            self.remembered.append(bytearray(100_000))
        if "tasks" in self.on:
            task = asyncio.create_task(wait_for_ever())
            self.waiting.add(task)
            task.add_done_callback(self.waiting.discard)
        await asyncio.sleep(random.uniform(0.001, 0.01))
        return json.dumps({"price": random.random()}).encode()

    def parse_feed(self) -> bytes:
        """A little computing."""
        return str(len(json.loads(json.dumps([{"n": n} for n in range(100)])))).encode()

    # The troubles that do not hang on a request.

    def switch(self, names: object, on: bool) -> None:
        """Switches troubles on or off; what they left behind goes with them."""
        assert isinstance(names, tuple | dict)
        for name in names:
            (self.on.add if on else self.on.discard)(name)
        if "timers" not in self.on:
            while self.timers:
                self.timers.pop().cancel()
        if "memory" not in self.on:
            self.remembered.clear()
        if "tasks" not in self.on:
            for task in list(self.waiting):
                task.cancel()

    async def tour(self) -> None:
        """Shows the troubles by turns, until one is switched on or off by HTTP."""
        while True:
            for name, text in TROUBLES.items():
                await asyncio.sleep(PAUSE_SECONDS)
                if self.chosen:
                    return
                say(f"trouble on: {name}: {text}")
                self.switch((name,), True)
                await asyncio.sleep(TOUR_SECONDS)
                if self.chosen:
                    return
                say(f"trouble off: {name}")
                self.switch((name,), False)

    async def trouble(self) -> None:
        """Looks twenty times a second for what is on."""
        loop, frozen = asyncio.get_running_loop(), 0.0
        orders: set[asyncio.Future[bytes]] = set()
        while True:
            await asyncio.sleep(0.05)
            if "freeze" in self.on and loop.time() - frozen > 20:
                freeze()
                frozen = loop.time()
            if "busy" in self.on:
                for _ in range(30):
                    loop.call_soon(self.parse_all)
            while "pool" in self.on and len(orders) < 20:
                order = loop.run_in_executor(self.reports, write_report, 2.0)
                orders.add(order)
                order.add_done_callback(orders.discard)

    def parse_all(self) -> None:
        """Forty feeds in a row, a few milliseconds."""
        for _ in range(40):
            self.parse_feed()

    def hog(self) -> None:
        """A thread that asks for long computations in C, between which alone the interpreter can change threads."""
        while not self.stopped.wait(0.5):
            if "gil" in self.on:
                pow(7, 500_000)


def freeze() -> None:
    """What no loop can survive unnoticed."""
    time.sleep(8)


def forget() -> None:
    """What the leaked timers would do in an hour."""


async def wait_for_ever() -> None:
    """What the leaked tasks do."""
    await asyncio.Event().wait()


def write_report(seconds: float) -> bytes:
    """Takes its time in a thread."""
    time.sleep(seconds)
    return b"report\n"


def read_file() -> bytes:
    """Reads itself."""
    with open(__file__, "rb") as file:
        return file.read(2000)


async def client(port: int) -> None:
    """One user with a connection: a request, a moment of thought, and again."""
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while True:
                    path = random.choices(("prices", "feed", "report", "file"), (70, 20, 5, 5))[0]
                    writer.write(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split()[0]))
                    await asyncio.sleep(random.uniform(0.05, 0.15))
            finally:
                writer.close()
        await asyncio.sleep(1)


async def main(host: str, port: int, users: int, troubles: tuple[str, ...]) -> None:
    """Serves until it is interrupted or terminated."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    service = Service()
    service.chosen = bool(troubles)
    service.switch(troubles, True)
    try:
        server = await asyncio.start_server(service.handle, host, port)
    except OSError as error:
        say(f"the demo cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}; another: --port PORT")
        sys.exit(2)
    service.port = port = server.sockets[0].getsockname()[1]
    say(f"the demo and its menu of troubles: http://localhost:{port}/")
    metrics = os.environ.get("OTEL_PYTHON_TRACELOOP_METRICS_URL")
    where = f"metrics: {metrics}; " if metrics else ""
    say(f"{where}in another terminal: traceloop top; Ctrl-C ends it with a report")
    thread = threading.Thread(target=service.hog, name="hog", daemon=True)
    thread.start()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(service.trouble())
            if not troubles:
                group.create_task(service.tour())
            for _ in range(users):
                group.create_task(client(port))
    finally:
        service.stopped.set()
        service.reports.shutdown(wait=False, cancel_futures=True)


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    if folder.name.startswith("traceloop-demo-"):
        # `traceloop demo` made this copy.
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--users", type=int, default=10, help="clients, each about ten requests a second")
    parser.add_argument("--trouble", action="append", default=[], choices=[*TROUBLES, "all"], help="on from the start")
    chosen = parser.parse_args()
    started = tuple(TROUBLES) if "all" in chosen.trouble else tuple(chosen.trouble)
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(main(chosen.host, chosen.port, chosen.users, started))
