"""A service at a steady rate for a long time, beside a receiver that misbehaves: nothing grows, nothing is uncounted.

``TRACELOOP_SOAK_SECONDS=3600`` makes it an hour; ``TRACELOOP_SOAK_FIGURES=FILE`` keeps what was measured as JSON.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.helpers.traced import Traced
from tests.helpers.waiting import until
from traceloop.record import files

SECONDS = float(os.environ.get("TRACELOOP_SOAK_SECONDS", "120"))
RATE = 5000
PROGRAM = """
import asyncio, os, sys, time

seconds, rate = float(sys.argv[1]), int(sys.argv[2])
GROUP = 50
ran = iterations = 0

def work():
    global ran
    ran += 1

def tick(loop, due, end):
    global ran
    ran += 1
    for _ in range(GROUP - 1):
        loop.call_soon(work)
    due += GROUP / rate
    if due < end:
        loop.call_at(due, tick, loop, due, end)
    else:
        loop.call_later(1, over)

def over():
    global ran
    ran += 1
    print(ran, flush=True)

def left(loop):
    os.read(0, 1)
    loop.stop()

loop = asyncio.new_event_loop()
loop.add_reader(0, left, loop)
loop.call_soon(tick, loop, loop.time(), loop.time() + seconds)
loop.run_forever()
"""


def resident(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def scrape(url: str) -> dict[str, float]:
    """Sums of the series by name, and of buckets by name and bound."""
    with urllib.request.urlopen(url, timeout=120) as answer:
        text = answer.read().decode()
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = re.match(r"([a-z_]+)(?:\{(.*)\})? (\S+)$", line)
        if match:
            bound = re.search(r'le="([^"]*)"', match[2] or "")
            name = match[1] + (f" {bound[1]}" if bound else "")
            found[name] = found.get(name, 0.0) + float(match[3])
    return found


def spans_counted(found: dict[str, float]) -> float:
    return found["traceloop_spans_exported_total"] + found["traceloop_spans_dropped_total"]


def flat(sizes: list[int]) -> bool:
    """Whether the last third is no larger than what was reached before, but for what an allocator rounds."""
    third = len(sizes) // 3
    return max(sizes[-third:]) <= 1.05 * max(sizes[third : 2 * third]) + (4 << 20)


@pytest.mark.slow
def test_a_long_run_beside_a_receiver_that_misbehaves(traced: Traced, tmp_path: Path) -> None:
    program = tmp_path / "service.py"
    program.write_text(PROGRAM)
    code = str(Path(__file__).with_name("misbehaving_receiver.py"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    receiver = subprocess.Popen([sys.executable, code, str(min(20.0, SECONDS / 40))], **pipes)  # type: ignore[call-overload]
    port = int(receiver.stdout.readline())
    command = [*traced.command, "--metrics-port", "0", "--otlp-endpoint", f"http://127.0.0.1:{port}", str(program)]
    with (tmp_path / "stderr").open("wb") as stderr:
        # Readable at once, and quiet: the traced program's stderr is a file.
        service = subprocess.Popen([*command, str(SECONDS), str(RATE)], stderr=stderr, **pipes)  # type: ignore[call-overload]
    url = until(lambda: re.search(r"http://\S+/metrics", (tmp_path / "stderr").read_text()))[0]
    (run_dir,) = until(lambda: [path for path in _runs() if (path / files.COLLECTOR).exists() and _is_of(path, url)])
    collector = json.loads((run_dir / files.COLLECTOR).read_text())["pid"]
    sizes: dict[str, list[int]] = {"service": [], "collector": []}
    deadline = time.monotonic() + SECONDS
    period = max(1.0, SECONDS / 360)
    slowest = 0.0
    while time.monotonic() < deadline:
        time.sleep(period)
        begun = time.monotonic()
        scrape(url)
        slowest = max(slowest, time.monotonic() - begun)
        sizes["service"].append(resident(service.pid))
        sizes["collector"].append(resident(collector))
    receiver.stdin.write("be good\n")
    receiver.stdin.flush()
    ran = int(service.stdout.readline())

    def all_counted() -> dict[str, float] | None:
        """Once there is a span of every run, but the last: it waits for the end of its iteration."""
        found = scrape(url)
        many = found["asyncio_eventloop_iterations_total"] - found["asyncio_eventloop_iteration_callbacks_bucket 1.0"]
        made = found["asyncio_callback_runs_total"] + many
        print(f"{made:,.0f} spans made, {spans_counted(found):,.0f} counted", file=sys.stderr)
        complete = found["asyncio_callback_runs_total"] == ran and made - spans_counted(found) in (0, 1)
        return found if complete else None

    found = until(all_counted, "a count for every span")
    receiver.stdin.close()
    received = json.loads(receiver.stdout.read())
    service.communicate("x")
    receiver.wait()
    for each in (receiver, service):
        each.stdin.close()
        each.stdout.close()
    figures = {
        "seconds": SECONDS,
        "handles": ran,
        "counted": found["asyncio_callback_runs_total"],
        "records_dropped": found["traceloop_records_dropped_total"],
        "exported": found["traceloop_spans_exported_total"],
        "dropped": found["traceloop_spans_dropped_total"],
        "received": received,
        "slowest_scrape_s": round(slowest, 2),
        "collector_cpu_s": found["traceloop_collector_cpu_seconds_total"],
        "resident_mb": {name: [round(size / 1e6, 1) for size in each[:: len(each) // 12 or 1]]
                        for name, each in sizes.items()},
        "stderr": (tmp_path / "stderr").read_text().splitlines(),
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    if os.environ.get("TRACELOOP_SOAK_FIGURES"):
        Path(os.environ["TRACELOOP_SOAK_FIGURES"]).write_text(json.dumps({**figures, "sizes": sizes}))
    assert service.returncode == 0
    assert found["traceloop_records_dropped_total"] == 0.0
    assert found["asyncio_callback_runs_total"] == ran
    assert found["traceloop_spans_exported_total"] == received["taken"]
    assert all(line.isprintable() and line.startswith("traceloop: ") for line in figures["stderr"])
    assert len(figures["stderr"]) < 200
    assert flat(sizes["service"]) and flat(sizes["collector"])


def _runs() -> list[Path]:
    return [path for place in ("/dev/shm", "/tmp") for path in Path(place).glob("traceloop-*")]


def _is_of(path: Path, url: str) -> bool:
    try:
        return json.loads((path / files.COLLECTOR).read_text())["url"] == url
    except (OSError, ValueError, KeyError):
        return False
