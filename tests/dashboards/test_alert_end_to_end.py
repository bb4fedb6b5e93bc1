"""A service blocks its loop; a real Prometheus and a real Alertmanager tell a webhook who it was.

Rules, Alertmanager's example and scrape interval (5 s) are those that `traceloop dashboards export` writes.
"""

import contextlib
import http.server
import json
import queue
import re
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.helpers.local_servers import http_server
from tests.helpers.needed_programs import need
from tests.helpers.prometheus_server import alertmanager, free_port, prometheus
from traceloop.dashboards import export

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


@contextlib.contextmanager
def webhook():
    """A server that keeps what Alertmanager sends: yields its URL and a queue of (time, notification)."""
    received = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.put((time.time(), json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http_server(Handler) as address:
        yield f"{address}/", received


@contextlib.contextmanager
def traced(python, script, log):
    """The service under `traceloop run`: yields the port that it serves and the port of its metrics."""
    port, metrics = free_port(), free_port()
    command = [python, "-m", "traceloop", "run", "--metrics-port", str(metrics), str(HERE / script), str(port)]
    with open(log, "wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            deadline = time.monotonic() + 120
            for url in (f"http://127.0.0.1:{port}/health", f"http://127.0.0.1:{metrics}/metrics"):
                while True:
                    try:
                        urllib.request.urlopen(url, timeout=120).close()
                        break
                    except OSError:
                        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                        time.sleep(0.05)
            yield port, metrics
        finally:
            process.terminate()
            process.wait(120)


def wait_for(seconds, question):
    """The first true answer to `question`, which is asked until then."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("script, culprit", [
    ("service_aiohttp.py", "__main__.load_prices"),
    ("service_fastapi.py", "__main__.load_prices"),
])  # fmt: skip
def test_the_first_slow_callback_of_a_fresh_service_is_told_with_its_culprit(
    python, script, culprit, tmp_path, record_property, capsys
):
    pytest.importorskip("fastapi" if "fastapi" in script else "aiohttp")
    export(tmp_path, rules=True, provisioning=True)
    config = (tmp_path / "prometheus.yml").read_text().replace("environment: demo", "environment: staging")
    with contextlib.ExitStack() as stack:
        hook, received = stack.enter_context(webhook())
        port, metrics = stack.enter_context(traced(python, script, tmp_path / "service.log"))
        routes = (tmp_path / "alertmanager" / "alertmanager.yml").read_text().replace("http://localhost:9099/", hook)
        teller = stack.enter_context(alertmanager(need("prometheus-alertmanager"), tmp_path, routes))
        config = config.replace("alertmanager:9093", teller.removeprefix("http://"))
        server = stack.enter_context(
            prometheus(need("prometheus"), tmp_path, config.replace("demo:9464", f"127.0.0.1:{metrics}"))
        )
        # Scraped once while all was well, or but for the server's own slow start: that is what makes it the first.
        wait_for(60, lambda: server.query("asyncio_eventloop_slow_callbacks_total", time.time()))
        assert not server.query(f'asyncio_slow_callbacks_total{{culprit="{culprit}"}}', time.time())

        blocked = time.time()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/prices", timeout=120) as answer:
            assert b"prices" in answer.read()
        while True:
            told, notification = received.get(timeout=180)
            alerts = [one for one in notification["alerts"] if one["labels"]["alertname"] == "AsyncioSlowCallback"]
            # A machine that is busy can make another callback slow, too.
            alerts = [one for one in alerts if one["labels"]["culprit"] == culprit]
            if alerts:
                break

        (alert,) = alerts
        assert alert["status"] == "firing"
        assert alert["labels"]["environment"] == "staging"
        assert alert["labels"]["severity"] == "warning"
        text = alert["annotations"]["description"]
        (line,) = [n for n, code in enumerate((HERE / script).read_text().splitlines(), 1) if "time.sleep" in code]
        assert f"/{script}:{line}), in callback {alert['labels']['callback']}, held loop" in text
        assert text.startswith(f"Culprit {culprit} (")
        assert re.search(r"process \d+ \(pid \d+\) on 127\.0\.0\.1:", text)
        took = re.search(r"slow runs in 5 minutes: 1, ([\d.]+)(m?)s each on average", text)
        assert took, text
        # It slept for 0.6 s, and on a busy machine waited for a processor.
        assert 0.6 <= float(took[1]) / (1000 if took[2] else 1) < 5
        assert alert["annotations"]["summary"] == f"{culprit} blocks the event loop of demo"
        record_property("seconds_from_block_to_alert", told - blocked)
        with capsys.disabled():
            print(f"\n{script}: {told - blocked:.1f} s from the block to the delivered alert. {text}")
        # A scrape, two evaluations (recorded, then alerted), Alertmanager's wait, each at its longest, and some room.
        assert told - blocked < 30
