"""What the garbage collector finds from a loop does not grow with what the loop has run.

Programs count the objects that a stream or a client refers to, directly or not, to find leaks (aiohttp's own tests,
objgraph, pympler). The loop is among them, and with it all that it refers to.
"""

from __future__ import annotations

import pytest

from tests.helpers.cores import CORES
from tests.helpers.observed import observe, program

PROGRAM = """
import types

def reached(root):
    seen, left = {}, [root]
    while left:
        each = left.pop()
        if id(each) not in seen and not isinstance(each, (type, types.ModuleType, types.FunctionType, types.FrameType)):
            seen[id(each)] = each
            left += gc.get_referents(each)
    return len(seen)

async def work():
    await asyncio.sleep(0)

async def rounds(number):
    for _ in range(number):
        await asyncio.gather(*(work() for _ in range(20)))

async def main():
    loop = asyncio.get_running_loop()
    await rounds(5)
    await asyncio.to_thread(int)
    first = reached(loop)
    await rounds(200)
    tell(first=first, then=reached(loop))
run(main())
"""


@pytest.mark.parametrize("core", CORES)
def test_what_is_reached_from_a_loop_does_not_grow_with_its_record(tmp_path, core):
    (truth,) = observe(tmp_path, program(tmp_path, PROGRAM), OTEL_PYTHON_TRACELOOP_CORE=core).truth
    # Twelve thousand runs of four thousand tasks in between. Some objects belong to code that ran for the first time,
    # to a larger ring, and to what the watchdog measures on a busy machine (150 were seen); none of them to a run.
    assert truth["then"] - truth["first"] < 1000
