"""What the tests of the loop share: every one of them runs on the standard loop and on ours."""

import asyncio

import pytest

from tests.helpers.cores import CORES

LOOPS = {"standard": asyncio.SelectorEventLoop, **CORES}


@pytest.fixture(params=list(LOOPS))
def loop_factory(request):
    """Makes a loop: once the standard one, then ours, on each core. Where they differ, ours is wrong."""
    return LOOPS[request.param]


@pytest.fixture
def loop(loop_factory):
    loop = loop_factory()
    yield loop
    loop.close()


@pytest.fixture
def contexts(loop):
    """What the loop's exception handler is told of."""
    seen = []
    loop.set_exception_handler(lambda _, context: seen.append(context))
    return seen


@pytest.fixture
def run(loop_factory):
    """Runs ``coroutine_function(loop)`` on a new loop; whatever takes a minute hangs."""

    def run(coroutine_function):
        async def bounded():
            async with asyncio.timeout(60):
                return await coroutine_function(asyncio.get_running_loop())

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(bounded())

    return run


@pytest.fixture(params=list(CORES))
def ours(request):
    """Runs as ``run`` does, on our loop alone: for what the standard one has not, or does wrong."""

    def run(coroutine_function):
        async def bounded():
            async with asyncio.timeout(60):
                return await coroutine_function(asyncio.get_running_loop())

        with asyncio.Runner(loop_factory=CORES[request.param]) as runner:
            return runner.run(bounded())

    return run
