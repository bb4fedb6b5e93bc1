"""A real loop that computes in short callbacks, beside busy processes on one processor and beside none.

Whether it waited for a processor is no matter of what the test has set up (other tests run beside it), but of what the
kernel counted: the program tells that itself.
"""

from __future__ import annotations

import sys

import pytest

from tests.helpers.observed import observe, program
from traceloop.reading.findings.verdict import verdict

pytestmark = [
    pytest.mark.timing,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a thread waits for a processor"),
]

PROGRAM = """
import resource

def waited():
    with open("/proc/thread-self/schedstat") as file:
        return int(file.read().split()[1]) / 1e9

def short():
    end = time.thread_time() + 0.004
    while time.thread_time() < end:
        pass

async def main():
    began, before = time.monotonic(), waited()
    while time.monotonic() < began + 4.0:
        short()
        await asyncio.sleep(PAUSE)
    tell(share=(waited() - before) / (time.monotonic() - began))

os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
children = []
for _ in range(BUSY):
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
        while os.getppid() != 1:
            sum(range(100_000))
        os._exit(0)
    children.append(child)
try:
    run(main())
finally:
    for child in children:
        os.kill(child, signal.SIGKILL)
"""


@pytest.mark.parametrize(("busy", "pause"), [(3, "0"), (0, "0.05")])
def test_a_loop_is_starved_if_its_thread_has_waited_for_a_processor(tmp_path, busy, pause):
    # No callback is slow by itself: what a starved one waited would be a slow run, and seen by that alone.
    text = PROGRAM.replace("BUSY", str(busy)).replace("PAUSE", pause)
    observed = observe(tmp_path, program(tmp_path, text), OTEL_PYTHON_TRACELOOP_SLOW_THRESHOLD="5")
    share = observed.facts["share"]
    if busy:
        assert share > 0.25
    kinds = {each.kind for each in verdict(observed.statistics).findings}
    if not 0.03 < share < 0.12:  # between those it depends on which seconds were looked at
        assert ("processor-starved" in kinds) == (share >= 0.12)
    assert kinds <= {"processor-starved"}
