"""A thousand traced processes in one Prometheus: series, memory, and how long each rule and panel takes.

    python benchmarks/many_processes.py --processes 1000 --seconds 360

A server of this script's stands for all processes: it serves one recorded scrape of a real process under as many
instance names, with the counters growing. Prometheus scrapes it, with the rules of this repository. Then a second one,
which scrapes nothing, is asked for each rule and each panel over the same data. Costs are its processor time: the
figures hold on a busy machine, too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.helpers.dashboard_files import dashboards, interpolate, panels, rules  # noqa: E402

SAMPLE = re.compile(r"^(\w+)(\{.*\})? (\S+)( #.*)?$")
GROWING = re.compile(r"_(total|bucket|count|sum)$")


class Scrapes:
    """The recorded scrape at any time: counters grow by a minute's worth a minute, gauges stay."""

    def __init__(self, text: str, seconds: float) -> None:
        self._lines: list[str | tuple[str, float]] = []
        for line in text.splitlines():
            match = SAMPLE.match(line)
            if match and GROWING.search(match[1]):
                self._lines.append((f"{match[1]}{match[2] or ''}", float(match[3])))
            else:
                self._lines.append(line)
        self._seconds, self._began = seconds, time.monotonic()
        self._at, self._body = 0, b""

    def body(self) -> bytes:
        now = int(time.monotonic() - self._began)
        if now != self._at or not self._body:
            factor = 1 + now / self._seconds
            made = (
                f"{line[0]} {round(line[1] * factor, 6)}" if isinstance(line, tuple) else line for line in self._lines
            )
            self._at, self._body = now, ("\n".join(made) + "\n").encode()
        return self._body


class Server(asyncio.Protocol):
    """Answers every request with the scrape of the moment, on connections that stay open."""

    scrapes: Scrapes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self._transport, asyncio.WriteTransport)
        for _ in range(data.count(b"\r\n\r\n")):
            body = self.scrapes.body()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\n\r\n"
            self._transport.write(head.encode() + body)


def serve(scrapes: Scrapes) -> int:
    """Serves on a thread of its own until the program ends; returns the port."""
    Server.scrapes = scrapes
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Server, sock=listener)
        await server.serve_forever()

    threading.Thread(target=asyncio.run, args=(run(),), daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def record(seconds: float) -> str:
    """A scrape of examples/service.py after some seconds of load."""
    port = free_port()
    command = ["-m", "traceloop", "run", "--spans", "off", "--metrics-port", str(port)]
    program = [str(ROOT / "examples" / "service.py"), "--seconds", str(seconds + 5)]
    with subprocess.Popen([sys.executable, *command, *program], stdout=subprocess.DEVNULL) as running:
        time.sleep(seconds)
        with urllib.request.urlopen(f"http://localhost:{port}/metrics") as answer:
            text: str = answer.read().decode()
        running.terminate()
    return text


def ask(base: str, path: str, **parameters: str) -> tuple[int, Any]:
    """Bytes of the answer, and its data."""
    with urllib.request.urlopen(f"{base}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=900) as answer:
        body = answer.read()
    return len(body), json.loads(body)["data"]


def configuration(folder: Path, processes: int, port: int, interval: int) -> Path:
    targets = [f"shop-{number}:9464" for number in range(processes)]
    path = folder / "prometheus.yml"
    path.write_text(
        json.dumps(
            {
                "global": {
                    "scrape_interval": f"{interval}s",
                    "scrape_timeout": f"{interval}s",
                    "evaluation_interval": f"{interval}s",
                },
                "rule_files": [str(ROOT / "dashboards" / "prometheus" / "rules" / "*.yml")],
                "scrape_configs": [
                    {
                        "job_name": "shop",
                        "static_configs": [{"targets": targets}],
                        "relabel_configs": [
                            {"source_labels": ["__address__"], "target_label": "instance"},
                            {"target_label": "__address__", "replacement": f"127.0.0.1:{port}"},
                            {"source_labels": ["instance"], "target_label": "__param_target"},
                        ],
                    }
                ],
            }
        )
    )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--processes", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=360, help="how long Prometheus scrapes before it is asked")
    parser.add_argument("--interval", type=int, default=30, help="seconds between two scrapes of a process")
    parser.add_argument("--scrape", type=Path, help="a recorded scrape to serve; without it one is recorded")
    arguments = parser.parse_args()
    text = arguments.scrape.read_text() if arguments.scrape else record(20)
    lines = sum(1 for line in text.splitlines() if line and not line.startswith("#"))
    print(f"a scrape: {lines:,} series, {len(text) >> 10} KiB", flush=True)
    serving = serve(Scrapes(text, 20))
    folder = Path(tempfile.mkdtemp(prefix="many-processes-"))
    config = configuration(folder, arguments.processes, serving, arguments.interval)
    data = folder / "data"
    try:
        with prometheus(config, data) as (base, pid):
            time.sleep(arguments.seconds)
            collected(base, pid)
            at = time.time() - 5
        empty = folder / "empty.yml"
        empty.write_text("{}")
        with prometheus(empty, data) as (base, pid):
            asked(base, pid, at, arguments.interval)
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def prometheus(config: Path, data: Path) -> Iterator[tuple[str, int]]:
    """A server on a free port, ready: its address and process id."""
    port = free_port()
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}", "--query.timeout=10m"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        base = f"http://127.0.0.1:{port}"
        while True:
            try:
                urllib.request.urlopen(f"{base}/-/ready", timeout=60).close()
                break
            except OSError:
                time.sleep(0.5)
        try:
            yield base, running.pid
        finally:
            running.terminate()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def collected(base: str, pid: int) -> None:
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    head = ask(base, "status/tsdb")[1]["headStats"]["numSeries"]
    up = ask(base, "query", query="sum(up)")[1]["result"][0]["value"][1]
    print(f"targets up: {up}, series: {head:,}, peak memory: {int(peak[1]) >> 10 if peak else 0} MiB,", end=" ")
    print(f"processor time: {cpu_seconds(pid):.0f} s", flush=True)


def asked(base: str, pid: int, at: float, interval: int) -> None:
    def cost(query: str, instant: bool) -> tuple[float, float]:
        before = cpu_seconds(pid)
        if instant:
            size, _ = ask(base, "query", query=query, time=str(at))
        else:
            window = {"start": str(at - 300), "end": str(at), "step": str(interval)}
            size, _ = ask(base, "query_range", query=query, **window)
        return cpu_seconds(pid) - before, size / 1024

    print("\nprocessor seconds, KiB of the answer: rules, one evaluation")
    total = 0.0
    for rule in sorted(rules(), key=lambda rule: "alert" in rule):
        took, size = cost(rule["expr"], True)
        total += took
        print(f"  {took:8.2f} {size:10,.0f}  {rule.get('alert') or rule['record']}", flush=True)
    print(f"  {total:8.2f} all")
    print("\nprocessor seconds, KiB of the answer: panels, the last 5 minutes")
    some = {"$__rate_interval": "2m", "$__range": "5m"}
    some |= dict.fromkeys(("$job", "$instance", "$process", "$loop"), ".+")
    one = some | {"$instance": "shop-7:9464"}
    for name, board in dashboards().items():
        for panel in panels(board):
            rows = []
            for values in (some, one):
                targets = panel.get("targets", ())
                costs = [cost(interpolate(target["expr"], values), bool(target.get("instant"))) for target in targets]
                rows.append((sum(took for took, _ in costs), sum(size for _, size in costs)))
            (took, size), (took_one, size_one) = rows
            text = f"  {took:8.2f} {size:10,.0f}   one instance {took_one:6.2f} {size_one:6,.0f}"
            print(f"{text}  {name} / {panel['title']}", flush=True)


if __name__ == "__main__":
    main()
