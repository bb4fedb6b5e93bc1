"""A loop at full speed under its collector: what the collector costs a handle run, and what it loses.

    python benchmarks/collector/full_speed.py [--seconds 60] [--width 100] [--spans] [--core c|python]

The loop runs the shortest handles there are, with a ring of the default size; the collector works beside it at ordinary
priority. Its CPU time is that of the whole of its life, counted by waiting for it as its parent: start, scrape and end
included. With ``--spans`` each run has a span, packed and sent to a receiver that throws it away.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from harness.measured import ROOT, become_subreaper, reap_collector

PROGRAM = """
import asyncio, sys, time

seconds, width = float(sys.argv[1]), int(sys.argv[2])
loop = asyncio.new_event_loop()
done = 0
end = time.monotonic() + seconds

def tick():
    global done
    done += 1
    if done & 1023 or time.monotonic() < end:
        loop.call_soon(tick)
    else:
        loop.stop()

for _ in range(width):
    loop.call_soon(tick)
begun = time.monotonic()
loop.run_forever()
print(done, time.monotonic() - begun, time.process_time(), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--spans", action="store_true")
    parser.add_argument("--core", choices=("c", "python"), help="of loop and reader; by default what is there")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that traceloop is installed for")
    options = parser.parse_args()
    become_subreaper()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    if options.core:
        environ["OTEL_PYTHON_TRACELOOP_CORE"] = options.core
    receiver = None
    arguments = ["--spans", "off"]
    if options.spans:
        path = os.path.join(ROOT, "benchmarks", "collector", "null_receiver.py")
        receiver = subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True)
        assert receiver.stdout is not None
        arguments = ["--otlp-endpoint", f"http://127.0.0.1:{receiver.stdout.readline().strip()}"]
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "full_speed.py")
        with open(program, "w") as file:
            file.write(PROGRAM)
        command = [options.python, "-m", "traceloop", "run", "--metrics-port", "0", "--exit-timeout", "60", *arguments]
        done = subprocess.run(
            [*command, program, str(options.seconds), str(options.width)],
            capture_output=True, text=True, env=environ, check=False, cwd=folder,
        )  # fmt: skip
    usage = reap_collector()
    if receiver is not None:
        receiver.kill()
        receiver.wait()
        assert receiver.stdout is not None
        receiver.stdout.close()
    print(done.stderr.strip())
    handles, lasted, cpu = map(float, done.stdout.split()[-3:])
    read = re.search(r"loops?, ([\d,]+) callbacks?", done.stderr)
    seen = int(read[1].replace(",", "")) if read is not None else 0
    print(f"{handles:,.0f} handles in {lasted:.1f} s, {handles / lasted:,.0f} a second; the program's CPU {cpu:.1f} s")
    print(f"the collector saw {seen:,}: {max(0.0, handles - seen):,.0f} lost")
    if usage is not None:
        spent = usage.ru_utime + usage.ru_stime
        each = spent / max(1, seen) * 1e6
        print(f"collector: {spent:.1f} s CPU, {each:.3f} us a handle run, {usage.ru_maxrss >> 10} MB")


if __name__ == "__main__":
    main()
