"""The memory of the C core. Where there is no more: what waits stays, or is dropped and counted; the process lives on.
After a burst: it is given back.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tracemalloc

import pytest

from tests.helpers.cores import CORES, NATIVE

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


# The last double that there is memory for ends no record: 4,096 times a power of two is no multiple of three.
ALIGNED = """
record = native.Record()
while not record.lost:
    for number in (1.0, 2.0, 3.0):
        record.append(number)
for _ in range(10):
    for number in (4.0, 5.0, 6.0):
        record.append(number)
doubles = record.take()[0].tolist()
print(len(doubles) % 3, doubles[:3], doubles[-3:])
"""


@pytest.mark.skipif(NATIVE is None or sys.platform != "linux", reason="no C core here, or no address space")
@pytest.mark.parametrize(
    ("program", "output"),
    [
        (TIMERS, "True 5.0 True True\n"),
        (RECORD, "True [4.0, 5.0, 6.0]\n"),
        (ALIGNED, "0 [4.0, 5.0, 6.0] [4.0, 5.0, 6.0]\n"),
    ],
    ids=["timers", "record", "record-by-doubles"],
)
def test_what_waits_survives_a_lack_of_memory(program, output):
    result = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY + program], capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stdout) == (0, output), result.stderr


def taken_by(fill, empty) -> tuple[int, int]:
    """Bytes that are held at the height of a burst, and after it."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        fill()
        full = tracemalloc.get_traced_memory()[0] - before
        empty()
        return full, tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def nothing() -> None:
    pass


@pytest.mark.skipif(NATIVE is None, reason="there is no C core here")
@pytest.mark.parametrize("recorder", [False, None], ids=["plain", "recorded"])
@pytest.mark.parametrize("kind", ["ready", "timers", "cancelled"])
def test_what_a_burst_took_is_given_back(kind, recorder):
    loop = CORES["c"](recorder=recorder)
    loop.set_debug(False)  # there the handles are the Python core's, and each has its traceback
    handles = []

    def fill() -> None:
        for _ in range(100_000):
            if kind == "ready":
                loop.call_soon(nothing)
            else:
                handles.append(loop.call_later(0 if kind == "timers" else 1000, nothing))

    def empty() -> None:
        if kind == "cancelled":
            for handle in handles:
                handle.cancel()
        handles.clear()
        loop.call_later(0.001, loop.stop)
        loop.run_forever()

    loop.run_until_complete(asyncio.sleep(0))  # what is made once
    # What other threads of the tests' process allocate counts too, but they do not do so each time.
    bursts = [taken_by(fill, empty) for _ in range(3)]
    loop.close()
    # A queue that kept its room would hold 0.8 MB.
    assert min(full for full, _ in bursts) > 10_000_000 and min(left for _, left in bursts) < 700_000, bursts


@pytest.mark.skipif(NATIVE is None, reason="there is no C core here")
def test_a_sample_may_be_empty_and_not_negative():
    timers = NATIVE.Timers()
    loop = CORES["c"](recorder=False)
    timers.push(loop.call_later(1, nothing))
    loop.close()
    assert timers.sample(0) == ([], 1)
    with pytest.raises(ValueError):
        timers.sample(-1)
