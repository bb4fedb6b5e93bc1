"""Threads that want the GIL beside a busy loop."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import pytest

from tests.helpers.cores import CORES

if sys.platform == "linux":
    import resource

NAPS = 50


@pytest.mark.skipif("c" not in CORES, reason="the C core was not built")
@pytest.mark.parametrize("width", [100, 1000])
def test_a_thread_is_not_woken_by_each_poll(width: int) -> None:
    """It was, and came too late: the loop had the GIL again. So it waited anew, up to a second."""
    loop = CORES["c"]()
    slept = threading.Event()
    switches: list[int] = []

    def nap() -> None:
        for _ in range(NAPS):
            time.sleep(0.001)
        switches.append(resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw)
        slept.set()

    async def spin() -> None:
        while not slept.is_set():
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*[spin() for _ in range(width)])

    thread = threading.Thread(target=nap)
    thread.start()
    loop.run_until_complete(main())
    thread.join()
    loop.close()
    # One to sleep, and one or two until the interpreter has the GIL handed over.
    assert switches[0] / NAPS < 6
