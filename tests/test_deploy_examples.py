"""examples/deploy: the files that people copy into their staging, checked and run as a container would run them."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import textwrap
from pathlib import Path

import fastjsonschema
import pytest
import yaml

from tests.helpers.paths import ROOT
from traceloop.dashboards.kubernetes import manifests

DEPLOY = ROOT / "examples" / "deploy"
SCHEMAS = ROOT / "tests" / "data" / "kubernetes"

# A container's view: read-only root, 64 MB of shared memory, process 1, no network but localhost.
CONTAINER = """
ip link set lo up && mount --make-rprivate / && mount -t proc proc /proc &&
mount -t tmpfs -o size=64m tmpfs /dev/shm && mount --bind "$BIN" /mnt && mount -o remount,ro,bind / || exit 77
ulimit -n 1024
"$PYTHON" "$CLIENT" &
# A user without a name or a home. Reading all files is the one capability left: the interpreter may lie in a home.
exec setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs \
  --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search --bounding-set=-all,+dac_read_search "$@"
"""
CLIENT = """
import json, os, signal, sys, time, urllib.request
def get(url):
    with urllib.request.urlopen(url, timeout=120) as response:
        return response.read().decode()
deadline = time.monotonic() + 120
while True:
    try:
        get("http://localhost:8000/healthz")
        break
    except OSError:
        assert time.monotonic() < deadline
        time.sleep(0.05)
for _ in range(2):
    get("http://localhost:8000/")
# On a busy machine the watchdog may come too late for a stack of the first: it is asked for again.
deadline = time.monotonic() + 120
while True:
    get("http://localhost:8000/slow")
    metrics = get("http://localhost:9464/metrics")
    if 'culprit="app.slow_digest"' in metrics or time.monotonic() > deadline:
        break
print("METRICS", json.dumps(metrics), flush=True)
try:
    open("/traceloop-was-here", "w")
except OSError as error:
    print("ROOT", error.strerror, flush=True)
os.kill(1, signal.SIGTERM)
"""


def test_the_deployment_is_as_the_api_server_wants_it() -> None:
    deployment = yaml.safe_load((DEPLOY / "kubernetes.yaml").read_text())
    fastjsonschema.compile(json.loads((SCHEMAS / "Deployment.json").read_text()))(deployment)


def test_the_exported_podmonitor_finds_the_example() -> None:
    deployment = yaml.safe_load((DEPLOY / "kubernetes.yaml").read_text())
    monitor = yaml.safe_load(manifests({}, {})["podmonitor.yaml"])["spec"]
    template = deployment["spec"]["template"]
    assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert monitor["jobLabel"] in template["metadata"]["labels"]
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == ["traceloop"]
    assert f"OTEL_PYTHON_TRACELOOP_METRICS_PORT={ports['traceloop']}" in (DEPLOY / "Dockerfile").read_text()


def test_the_unit_is_valid(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "shop.service"
    unit.write_text((DEPLOY / "shop.service").read_text().replace("/srv/shop/venv/bin/traceloop", "/bin/true"))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_dockerfile_copies_what_is_there() -> None:
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            assert all((DEPLOY / name).is_file() for name in line.split()[1:-1])
        if line.startswith("CMD "):
            assert ast.literal_eval(line.removeprefix("CMD "))[:2] == ["traceloop", "run"]


def run_in_a_container(traced, folder: Path, *command: str) -> tuple[str, str]:
    """What the program and a client wrote: stdout and stderr. Skips where there are no namespaces to be had."""
    client = folder / "client.py"
    client.write_text(textwrap.dedent(CLIENT))
    for program in ("unshare", "setpriv", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        ["unshare", "-m", "-p", "-n", "-f", "--kill-child", "sh", "-c", CONTAINER, "sh", *command],
        cwd=DEPLOY,
        # Commands are looked up without the capability, and the folder may be closed to other users: hence /mnt.
        env={"PATH": "/mnt:/usr/sbin:/usr/bin:/sbin:/bin", "BIN": f"{traced.folder}/bin", "HOME": "/nonexistent",
             "PYTHON": traced.python, "CLIENT": str(client), "OTEL_PYTHON_TRACELOOP_METRICS_PORT": "9464"},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    if done.returncode == 77 or "unshare failed" in done.stderr or "setpriv:" in done.stderr:
        pytest.skip(f"no such namespaces here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    assert "ROOT Read-only file system" in done.stdout, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("command", "processes"),
    [
        (["uvicorn", "app:app", "--port", "8000"], 1),
        (["gunicorn", "-c", "gunicorn.conf.py", "app:app"], 2),
    ],
    ids=["uvicorn", "gunicorn"],
)
def test_servers_run_as_process_1_of_a_container(traced, tmp_path: Path, command: list[str], processes: int) -> None:
    stdout, stderr = run_in_a_container(traced, tmp_path, *traced.command, *command)
    (line,) = [line for line in stdout.splitlines() if line.startswith("METRICS ")]
    metrics = json.loads(line.removeprefix("METRICS "))
    assert ".RequestResponseCycle.run_asgi" in metrics
    # SIGTERM to process 1: the server ends in order, and the last line sums it up.
    summaries = [line for line in stderr.splitlines() if line.startswith("traceloop: ") and " callbacks, " in line]
    assert len(summaries) == 1, stderr
    assert summaries[0].startswith(f"traceloop: {processes} loop"), stderr
    assert 'culprit="app.slow_digest"' in metrics, (stderr, metrics)
