"""Timers at times that are none: NaN and the infinities. Every loop does with them what the standard one does."""

from __future__ import annotations

import asyncio
import math
import sys

import pytest

from tests.helpers.cores import CORES

NAN = math.nan


def outcome(loop, delays, at):
    """What ran, and what ``run_forever`` raised, with timers that are set in this order."""
    ran: list[object] = []
    for number, delay in enumerate(delays):
        if at:
            loop.call_at(delay if not math.isfinite(delay) else loop.time() + delay, ran.append, number)
        else:
            loop.call_later(delay, ran.append, number)
    loop.call_later(0.03, loop.stop)
    try:
        loop.run_forever()
    except ValueError as error:
        ran.append(str(error))
    finally:
        loop.close()
    return ran


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("at", [False, True], ids=["later", "at"])
@pytest.mark.parametrize("delays", [(NAN,), (0.001, NAN), (NAN, 0.001), (-math.inf,), (math.inf,)], ids=str)
@pytest.mark.parametrize("core", list(CORES))
def test_they_do_what_they_do_on_the_standard_loop(core, delays, at, debug):
    loops = [asyncio.SelectorEventLoop(), CORES[core]()]
    for loop in loops:
        loop.set_debug(debug)
    plain, ours = (outcome(loop, delays, at) for loop in loops)
    assert ours == plain
    if delays == (NAN,):
        assert plain == (["cannot convert float NaN to integer"] if sys.version_info >= (3, 13) else [0])
