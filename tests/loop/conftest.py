"""What the tests of the loop share."""

import asyncio

import pytest

from traceloop.loop.event_loop import EventLoop

LOOPS = {"standard": asyncio.SelectorEventLoop, "traceloop": EventLoop}


@pytest.fixture(params=list(LOOPS))
def loop_factory(request):
    """Makes a loop: once the standard one, once ours. Where they differ, ours is wrong."""
    return LOOPS[request.param]
