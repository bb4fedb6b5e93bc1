"""The lines that a process says of its own stalls."""

import pytest

from tests.helpers.observed import observe

# Stacks and causes are told by clocks: on a busy machine something else is to blame.
pytestmark = pytest.mark.timing

PROGRAM = """
import asyncio, time
from traceloop import EventLoop
async def main():
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.05)
    loop.call_soon(time.sleep, 0.3)
    await asyncio.sleep(0.05)
with asyncio.Runner(loop_factory=EventLoop) as runner:
    runner.run(main())
"""


def test_a_c_function_that_the_loop_calls_has_no_place(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    observed = observe(tmp_path, path, OTEL_PYTHON_TRACELOOP_ROOT_PID="1")
    assert observed.errors.startswith("traceloop: stall: time.sleep blocks the loop of MainThread in process ")
