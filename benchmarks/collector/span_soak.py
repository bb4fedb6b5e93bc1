"""Handles at a steady rate with a span each, to a receiver that counts them: was every one received?

    python benchmarks/collector/span_soak.py [--rate 50000] [--seconds 180] [--python python3.13]

Prints the handle runs of the run's summary, the spans that the receiver has, what was dropped, and each process's CPU
time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from harness.measured import ROOT, become_subreaper, reap_collector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50_000)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    become_subreaper()
    folder = os.path.join(ROOT, "benchmarks")
    receiver = subprocess.Popen(
        [options.python, os.path.join(folder, "collector", "counting_receiver.py")], stdout=subprocess.PIPE, text=True
    )
    assert receiver.stdout is not None
    url = f"http://127.0.0.1:{receiver.stdout.readline().strip()}"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [options.python, "-m", "traceloop", "run", "--metrics-port", "0", "--exit-timeout", "60"]
    command += ["--otlp-endpoint", url, os.path.join(folder, "workloads", "paced_handles.py"), str(options.rate)]
    process = subprocess.Popen(
        [*command, str(options.seconds)], stderr=subprocess.PIPE, text=True, env=environ | {"PYTHONPATH": ROOT}
    )
    assert process.stderr is not None
    metrics = process.stderr.readline().split()[-1]
    time.sleep(max(1.0, options.seconds - 5))
    with urllib.request.urlopen(metrics) as answer:
        text = answer.read().decode()
    for line in text.splitlines():
        if re.match(r"traceloop_(spans|records)_dropped\w* *.*[^0.]$|process_resident_memory_bytes", line):
            print(line)
    begun = os.times()
    _, stderr = process.communicate()
    print(stderr.strip())
    own = os.times()
    usage = reap_collector()
    with urllib.request.urlopen(url) as answer:
        counted = json.load(answer)
    received = _cpu_seconds(receiver.pid)
    receiver.kill()
    receiver.wait()
    receiver.stdout.close()
    summary = re.search(r"(\d+) loops?, ([\d,]+) callbacks?", stderr)
    assert summary is not None, stderr
    handles = int(summary[2].replace(",", ""))
    collector = usage.ru_utime + usage.ru_stime
    loop = own.children_user - begun.children_user + own.children_system - begun.children_system
    spans = counted["handles"] + counted["iterations"]
    print(f"{handles:,} handle runs, {counted['handles']:,} spans of handle runs received")
    print(f"and {counted['iterations']:,} of iterations; {counted['bytes'] / max(1, spans):.0f} bytes a span")
    cost_us, peak_mb = collector / handles * 1e6, usage.ru_maxrss >> 10
    print(f"collector: {collector:.1f} s CPU, {cost_us:.2f} us a handle run, {peak_mb} MB")
    print(f"loop's process: {loop:.1f} s CPU; receiver: {received:.1f} s CPU")


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
