"""`traceloop demo`: its troubles show, and what it writes for Prometheus works."""

import contextlib
import re
import signal
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
    with urllib.request.urlopen(url, timeout=60) as answer:
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
            process.communicate(timeout=60)


def until(url, pattern, seconds=60):
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
        with pytest.raises(urllib.error.HTTPError):
            get(f"{url}/nothing").close()


def test_a_trouble_that_there_is_not(python):
    done = subprocess.run(
        [python, "-m", "traceloop", "demo", "--port", "0", "--metrics-port", "0", "--trouble", "nosuch"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "nosuch" in done.stderr


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
