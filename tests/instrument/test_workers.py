"""Several workers as one endpoint: slots are reused, no counter falls when a worker dies, spans come from all."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.differential import clean_environ
from tests.helpers.served import AIOHTTP, ASGI, ask, free_port
from tests.helpers.traced import Traced
from tests.helpers.waiting import PATIENCE

WORKERS = 4
CLASSES = {
    "uvicorn_worker.UvicornWorker": ("uvicorn_worker", "app:app"),
    "aiohttp.GunicornWebWorker": ("aiohttp", "service:app"),
}
# Keeps the numbers of the spans' processes, as a collector of OTLP would see them.
RECEIVER = """
import http.server, json, sys
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            import gzip
            body = gzip.decompress(body)
        for part in ExportTraceServiceRequest.FromString(body).resource_spans:
            values = {each.key: each.value for each in part.resource.attributes}
            print(values["process.pid"].int_value, flush=True)
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def log_message(self, *arguments): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
"""

Key = tuple[str, tuple[tuple[str, str], ...]]


class Scraper:
    """Scrapes, and notes every counter that falls or goes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.last: dict[Key, float] = {}
        self.problems: list[str] = []
        self.infos: dict[str, str] = {}
        self.slots: set[str] = set()

    def scrape(self) -> None:
        with urllib.request.urlopen(self.url, timeout=120) as answer:
            text = answer.read().decode()
        seen: dict[Key, float] = {}
        self.infos = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if "process" in sample.labels:
                    self.slots.add(sample.labels["process"])
                if sample.name == "traceloop_process_info":
                    assert sample.value == 1
                    assert sample.labels["process"] not in self.infos
                    self.infos[sample.labels["process"]] = sample.labels["pid"]
                if family.type in ("counter", "histogram"):
                    seen[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
        for key, value in self.last.items():
            if key not in seen:
                self.problems.append(f"{key} is gone")
            elif seen[key] < value:
                self.problems.append(f"{key} fell from {value} to {seen[key]}")
        self.last = seen

    def total(self, name: str) -> float:
        return sum(value for key, value in self.last.items() if key[0] == name)


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@pytest.mark.parametrize("worker_class", CLASSES)
def test_workers_that_die_under_load_leave_counters_that_never_fall(
    worker_class: str, traced: Traced, tmp_path: Path
) -> None:
    module, application = CLASSES[worker_class]
    for name in ("gunicorn", module, "opentelemetry.proto"):
        pytest.importorskip(name)
    (tmp_path / "app.py").write_text(ASGI)
    (tmp_path / "service.py").write_text(AIOHTTP)
    port = free_port()
    log = tmp_path / "log"
    receiver = subprocess.Popen([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE, text=True)
    assert receiver.stdout is not None
    endpoint = f"http://127.0.0.1:{int(receiver.stdout.readline())}"
    spans_of: set[int] = set()
    listening = threading.Thread(target=lambda: spans_of.update(int(line) for line in receiver.stdout or ()))
    listening.start()
    with log.open("w") as file:
        server = subprocess.Popen(
            [*traced.command, "--metrics-port", "0", "--otlp-endpoint", endpoint, "gunicorn", application, "-b",
             f"127.0.0.1:{port}", "-w", str(WORKERS), "-k", worker_class, "--graceful-timeout", "5"],
            cwd=tmp_path,
            env=clean_environ({"PATH": f"{traced.folder}/bin{os.pathsep}{os.environ['PATH']}"}),
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    stop = threading.Event()
    load = [threading.Thread(target=_ask_until, args=(stop, port)) for _ in range(3)]
    deadline = time.monotonic() + 3 * PATIENCE
    try:
        while ask(port) is None:
            assert time.monotonic() < deadline and server.poll() is None, log.read_text()
            time.sleep(0.05)
        url = re.search(r"metrics at (\S+)", log.read_text())
        assert url
        scraper = Scraper(url[1])
        for thread in load:
            thread.start()

        def scrape_until(condition) -> None:  # type: ignore[no-untyped-def]
            while True:
                scraper.scrape()
                if condition():
                    return
                assert time.monotonic() < deadline, (scraper.infos, children(server.pid), log.read_text()[-3000:])
                time.sleep(0.02)

        def all_are_seen() -> bool:
            living = {str(pid) for pid in children(server.pid)}
            return len(living) == WORKERS and living <= set(scraper.infos.values())

        scrape_until(all_are_seen)
        every = set(children(server.pid))
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            # One that dies before it has written what it ran has no spans.
            scrape_until(lambda: children(server.pid) <= spans_of)
            victim = min(children(server.pid))
            before = scraper.total("asyncio_callback_runs_total")
            os.kill(victim, number)
            scrape_until(lambda victim=victim: victim not in children(server.pid) and all_are_seen())
            every |= children(server.pid)
            scrape_until(lambda before=before: scraper.total("asyncio_callback_runs_total") > before)
        assert not scraper.problems, scraper.problems[:20]
        # Seven workers and their master: the slots of the dead were given to the next.
        assert len(every) == WORKERS + 3
        assert len(scraper.slots) <= WORKERS + 2, scraper.slots
        while not every <= spans_of:
            assert time.monotonic() < deadline, (every, spans_of)
            ask(port)
            time.sleep(0.02)
    finally:
        stop.set()
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(120)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(server.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        server.wait()
        for thread in load:
            if thread.ident is not None:
                thread.join()
        receiver.kill()
        receiver.wait()
        listening.join()
        receiver.stdout.close()
        text = log.read_text()
        for record in set(re.findall(r"`traceloop report ([^`]+)`", text)):
            shutil.rmtree(record, ignore_errors=True)
    assert text.count("ended without an exit record") >= 2, text


def _ask_until(stop: threading.Event, port: int) -> None:
    while not stop.is_set():
        ask(port)
        stop.wait(0.005)
