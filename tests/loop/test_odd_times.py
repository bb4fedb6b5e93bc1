"""Timers at times that are none (NaN, the infinities) or no floats, and clocks that a program puts on its loop."""

from __future__ import annotations

import asyncio
import math
import sys

import pytest

from tests.helpers.cores import CORES
from tests.helpers.observed import observe, program

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


class Single:
    """A number as numpy's float32: no float, and with a float it makes another of its kind."""

    def __init__(self, value):
        self.value = value

    def __float__(self):
        return self.value

    def __add__(self, other):
        return Single(self.value + float(other))

    def __sub__(self, other):
        return Single(self.value - float(other))

    def __mul__(self, other):
        return Single(self.value * float(other))

    def __lt__(self, other):
        return self.value < float(other)

    def __le__(self, other):
        return self.value <= float(other)

    def __gt__(self, other):
        return self.value > float(other)

    def __ge__(self, other):
        return self.value >= float(other)

    __radd__ = __add__


@pytest.mark.parametrize("core", list(CORES))
@pytest.mark.parametrize("recorder", [None, False], ids=["recorded", "unrecorded"])
def test_the_poll_waits_for_numbers_that_are_no_floats(core, recorder):
    for factory in (asyncio.SelectorEventLoop, lambda: CORES[core](recorder=recorder)):
        with asyncio.Runner(loop_factory=factory) as runner:
            started = runner.get_loop().time()
            assert runner.run(asyncio.sleep(Single(0.02), "slept")) == "slept"
            assert runner.get_loop().time() - started >= 0.02


@pytest.mark.parametrize("core", list(CORES))
def test_a_clock_of_the_programs_that_fails_lets_the_loop_be_closed(core):
    async def main():
        asyncio.get_running_loop().time = lambda: 1 // 0

    for factory in (asyncio.SelectorEventLoop, CORES[core]):
        loop = factory()
        loop.create_task(main())
        loop.call_soon(loop.stop)
        try:
            loop.run_forever()
        except ZeroDivisionError:
            pass
        loop.close()
        assert loop.is_closed()


PUTS_ON = """
async def main():
    loop = asyncio.get_running_loop()
    monotonic = loop.time
    for offset in (-5000, 5000):
        loop.time = lambda: monotonic() + offset
        await asyncio.sleep(0.01)
run(main())
"""


@pytest.mark.parametrize("core", list(CORES))
def test_the_record_does_not_go_by_a_clock_that_is_put_on_the_loop_while_it_runs(core, tmp_path):
    seen = observe(tmp_path, program(tmp_path, PUTS_ON), OTEL_PYTHON_TRACELOOP_CORE=core)
    assert seen.metric("asyncio_slow_callback_time_seconds_total") < 100
    assert sum(each.sum for each in seen.loop.callbacks.delays.values()) < 100
    assert seen.loop.active_s < 100
