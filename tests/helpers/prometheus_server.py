"""Real Prometheus and Alertmanager servers for a test: on free ports, with their data in the test's folder."""

import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request


def free_port():
    """A port that was free a moment ago; the servers cannot be given a listening socket."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def fetch(url, **parameters):
    """The JSON answer to a POST of form parameters, or to a GET without any."""
    body = urllib.parse.urlencode(parameters).encode() if parameters else None
    try:
        with urllib.request.urlopen(url, body, timeout=120) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(f"{url} {parameters}: {error.read().decode()}") from None


class Prometheus:
    """A running server."""

    def __init__(self, url):
        self.url = url

    def query(self, query, at):
        return fetch(f"{self.url}/api/v1/query", query=query, time=at)["data"]["result"]

    def query_range(self, query, start, end, step):
        return fetch(f"{self.url}/api/v1/query_range", query=query, start=start, end=end, step=step)["data"]["result"]

    def get(self, path):
        return fetch(f"{self.url}/api/v1/{path}")["data"]


@contextlib.contextmanager
def running(command, ready, log):
    """The process of `command` until the block ends; waits until the URL `ready` answers."""
    with open(log, "wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    with urllib.request.urlopen(ready, timeout=120):
                        break
                except OSError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.05)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def prometheus(program, folder, config="", *arguments):
    """A Prometheus with the text of a configuration; data in folder/data, which may hold blocks already."""
    (folder / "prometheus.yml").write_text(config)
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        "--storage.tsdb.retention.time=10y",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--enable-feature=exemplar-storage",
        *arguments,
    ]
    with running(command, f"{url}/-/ready", folder / "prometheus.log"):
        yield Prometheus(url)


@contextlib.contextmanager
def alertmanager(program, folder, config):
    """An Alertmanager with the text of a configuration; yields its URL."""
    (folder / "alertmanager.yml").write_text(config)
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        program,
        f"--config.file={folder}/alertmanager.yml",
        f"--storage.path={folder}/alertmanager",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
    ]
    with running(command, f"{url}/-/ready", folder / "alertmanager.log"):
        yield url
