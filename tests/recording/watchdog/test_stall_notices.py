"""The lines that a process says of its own stalls."""

import subprocess
import sys

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


LIBRARY = """
import asyncio, logging, time, traceloop
logging.basicConfig(format="%(name)s %(message)s")
async def main():
    await asyncio.sleep(0.01)
    time.sleep(0.4)
    await asyncio.sleep(0.01)
def alone():
    with asyncio.Runner(loop_factory=traceloop.new_event_loop) as runner:
        runner.run(main())
"""


def run_program(text):
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True)


def test_a_loop_without_a_run_says_nothing():
    done = run_program(LIBRARY + "alone(); traceloop.run(main())")
    assert done.stdout + done.stderr == ""


def test_a_loop_in_a_run_that_the_program_begins_says_its_stalls():
    done = run_program(LIBRARY + "alone(); traceloop.start(collector='thread', metrics=False, spans='off'); alone()")
    assert done.stderr.count("stall: time.sleep") + done.stderr.count("stall: __main__.main") == 1
