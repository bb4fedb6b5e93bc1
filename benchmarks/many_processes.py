"""A thousand traced processes in one Prometheus: series, memory, and how long each rule and panel takes.

    python benchmarks/many_processes.py --processes 1000 --seconds 360

A server of this script's stands for all processes: it serves one recorded scrape of a real process under as many
instance names, with the counters growing. Prometheus scrapes it with the rules of this repository; then every rule's
evaluation time is read from it, and every panel's queries are asked.
"""

from __future__ import annotations

import argparse
import asyncio
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
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.helpers.dashboard_files import dashboards, interpolate, panels  # noqa: E402

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


def ask(base: str, path: str, **parameters: str) -> tuple[float, int, object]:
    """Seconds, bytes of the answer, its data."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"{base}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=300) as answer:
        body = answer.read()
    return time.perf_counter() - began, len(body), json.loads(body)["data"]


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
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]
    log = (folder / "log").open("w")
    running = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=log)
    try:
        time.sleep(arguments.seconds)
        report(base, running.pid, arguments.interval)
    finally:
        running.terminate()
        running.wait()
        size = sum(path.stat().st_size for path in (folder / "data").rglob("*") if path.is_file())
        print(f"on disk: {size >> 20} MiB")
        shutil.rmtree(folder)


def report(base: str, pid: int, interval: int) -> None:
    status = Path(f"/proc/{pid}/status").read_text()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    _, _, head = ask(base, "status/tsdb")
    _, _, up = ask(base, "query", query="sum(up)")
    print(f"targets up: {up['result'][0]['value'][1]}, series: {head['headStats']['numSeries']:,}")  # type: ignore[index]
    print(re.search(r"VmHWM:.*", status)[0], f"  CPU {ticks / 100:.0f} s")  # type: ignore[index]
    print("\nrule groups, seconds for one evaluation")
    _, _, rules = ask(base, "rules")
    for group in rules["groups"]:  # type: ignore[index]
        print(f"  {group['evaluationTime']:8.3f}  {group['name']}")
        for rule in sorted(group["rules"], key=lambda rule: -rule["evaluationTime"])[:3]:
            print(f"  {rule['evaluationTime']:12.3f}  {rule['name']}")
    print("\npanels: seconds for the last 5 minutes, KiB of the answer")
    values = {
        "$__rate_interval": "2m",
        "$__range": "5m",
        "$job": ".+",
        "$instance": ".+",
        "$process": ".+",
        "$loop": ".+",
    }
    now = int(time.time())
    rows = []
    for name, board in dashboards().items():
        for panel in panels(board):
            took = size = 0.0
            for target in panel.get("targets", ()):
                query = interpolate(target["expr"], values)
                if target.get("instant"):
                    seconds, length, _ = ask(base, "query", query=query, time=str(now))
                else:
                    window = {"start": str(now - 300), "end": str(now), "step": str(interval)}
                    seconds, length, _ = ask(base, "query_range", query=query, **window)
                took, size = took + seconds, size + length / 1024
            rows.append((took, size, f"{name} / {panel['title']}"))
    for took, size, title in sorted(rows, reverse=True):
        print(f"  {took:8.3f} {size:10,.0f}  {title}")


if __name__ == "__main__":
    main()
