"""`traceloop demo`: its troubles show, and what it writes for Prometheus works."""

import contextlib
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
import yaml

from tests.helpers.dashboard_files import RULES, load
from tests.helpers.prometheus_server import free_port
from traceloop.dashboards import shortened


def get(url):
    with urllib.request.urlopen(url, timeout=120) as answer:
        return answer.read().decode()


@contextlib.contextmanager
def demo(python, *options):
    """The running demo: yields its URL and that of its metrics."""
    port, metrics = free_port(), free_port()
    command = [python, "-m", "traceloop", "demo", "--port", str(port), "--metrics-port", str(metrics), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if "menu of troubles" in line:
                    break
            assert process.poll() is None
            yield f"http://localhost:{port}", f"http://localhost:{metrics}/metrics"
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=120)


def until(url, pattern, seconds=120):
    deadline = time.monotonic() + seconds
    while True:
        text = get(url)
        found = re.search(pattern, text, re.MULTILINE)
        if found:
            return found
        assert time.monotonic() < deadline, f"{pattern} not in\n{text}"
        time.sleep(0.2)


@pytest.mark.slow
def test_troubles_show_in_the_metrics_and_go_when_switched_off(python):
    with demo(python, "--trouble", "tasks", "--trouble", "pool") as (url, metrics):
        until(metrics, r"^asyncio_tasks\{.*\} [1-9]\d\d")
        until(metrics, r'^asyncio_executor_queue_length\{executor="reports".*\} [1-9]')
        assert "[x] tasks" in get(url) and "[ ] blocking" in get(url)
        assert "[ ] tasks" in get(f"{url}/trouble/tasks/off")
        until(metrics, r"^asyncio_tasks\{.*\} \d\d?\.0$")
        get(f"{url}/trouble/blocking/on")
        until(metrics, r'^asyncio_slow_callbacks_total\{.*culprit="__main__.Service.load_prices"')
        with pytest.raises(urllib.error.HTTPError) as missing:
            get(f"{url}/nothing")
        missing.value.close()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--trouble", "nosuch"), "there is no 'nosuch'; expected one of blocking, freeze,"),
        (("--port", "99999"), "--port: expected a number from 0 to 65535, got 99999"),
        (("--metrics-port", "70000"), "--metrics-port: expected a number from 0 to 65535, got 70000"),
        (("--users", "-1"), ", got -1"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(python, words, expected):
    done = subprocess.run([python, "-m", "traceloop", "demo", *words], capture_output=True, text=True, timeout=120)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert line.startswith("traceloop: ") and expected in line


def test_a_taken_port_is_told_in_one_line(python):
    with socket.create_server(("localhost", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [python, "-m", "traceloop", "demo", "--host", "127.0.0.1", "--port", port, "--metrics-port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"the demo cannot listen on 127.0.0.1, port {port}: " in done.stderr


def test_what_it_prints_first_is_true_and_troubles_come_by_turns(python):
    command = [python, "-u", "-m", "traceloop", "demo", "--port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            text = ""
            while "stall: " not in text:
                text += process.stderr.readline()
            (menu,) = re.findall(r"troubles: (http://localhost:\d+/)\n", text)
            (metrics,) = re.findall(r"traceloop: metrics: (\S+);", text)
            assert "trouble on: blocking" in text and "[x] blocking" in get(menu)
            assert "asyncio_eventloop_iterations_total" in get(metrics)
            (switch,) = re.findall(r"curl (localhost:\d+/trouble)/NAME/on", get(menu))
            assert "[x] pool" in get(f"http://{switch}/pool/on")
        finally:
            process.send_signal(signal.SIGINT)
            _, rest = process.communicate(timeout=120)
    assert process.returncode == 0, rest


class TestShortened:
    def test_every_time_is_short_and_nothing_else_changes(self):
        for path in RULES.glob("*.yml"):
            long, short = path.read_text(), shortened.shorten(path.read_text())
            times = r"\[\w+\]|offset \w+|for: \w+|start_time_seconds < \d+"
            assert re.sub(times, "", long) == re.sub(times, "", short)
            for value in re.findall(r"(?:\[|offset |for: )(\d+[smhd])\b", short):
                assert value.endswith("s") and int(value[:-1]) <= 60
            for value in re.findall(r"(?:\[|offset )(\d+)s\b", short):
                assert int(value) >= 20

    def test_prometheus_takes_it(self, tmp_path, promtool):
        written = shortened.write(tmp_path / "new", 9999)
        assert all(path.is_file() for path in written)
        config = tmp_path / "new" / "prometheus.yml"
        assert load(config)["scrape_configs"][0]["static_configs"] == [{"targets": ["localhost:9999"]}]
        done = promtool("check", "config", config)
        assert done.returncode == 0, done.stdout

    def test_rules_keep_their_names(self, tmp_path):
        shortened.write(tmp_path, 9464)
        for path in RULES.glob("*.yml"):
            ours = yaml.safe_load((tmp_path / "rules" / path.name).read_text())
            names = [[r.get("alert") or r["record"] for r in g["rules"]] for g in ours["groups"]]
            assert names == [[r.get("alert") or r["record"] for r in g["rules"]] for g in load(path)["groups"]]
