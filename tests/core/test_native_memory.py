"""The C core where there is no memory for more: what waits stays, or is dropped and counted; the process lives on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from traceloop.core.choose import load_native

LITTLE_MEMORY = """
import asyncio, resource
from traceloop.core.choose import load_native

native = load_native()[0]
with open("/proc/self/statm") as file:
    mapped = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (48 << 20), -1))
"""

TIMERS = """
loop = asyncio.SelectorEventLoop()
handle = loop.call_at(5.0, print)
timers = native.Timers()
try:
    while True:
        timers.push(handle)
except MemoryError:
    pass
count = len(timers)
print(count > 100_000, timers.next_due(), timers.pop() is handle, len(timers) == count - 1)
timers.clear()
loop.close()
"""

RECORD = """
record = native.Record()
while not record.lost:
    record.add(1.0, 2.0, 3.0)
lost = record.lost
for _ in range(10):
    record.add(4.0, 5.0, 6.0)
print(lost > 100_000, record.take()[0].tolist()[-3:])
"""


@pytest.mark.skipif(load_native()[0] is None or sys.platform != "linux", reason="no C core here, or no address space")
@pytest.mark.parametrize(
    ("program", "output"),
    [(TIMERS, "True 5.0 True True\n"), (RECORD, "True [4.0, 5.0, 6.0]\n")],
    ids=["timers", "record"],
)
def test_what_waits_survives_a_lack_of_memory(program, output):
    result = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY + program], capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout) == (0, output), result.stderr
