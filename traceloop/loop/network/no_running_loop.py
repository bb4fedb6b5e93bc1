"""Calls that the standard loop makes while it runs, and that must not be taken for an application's blocking ones."""

from __future__ import annotations

import contextlib
import sys
from asyncio import events
from collections.abc import Iterator
from typing import Any

from ...recording import blocking_calls

# In C: what stands in its place (instrument/rebinding.py) would believe that a loop ends, and another begins.
_SET_RUNNING_LOOP: Any = getattr(events, "_c__set_running_loop", events._set_running_loop)


@contextlib.contextmanager
def no_running_loop() -> Iterator[None]:
    """Hides the running loop meanwhile, from tools that look for blocking calls.

    Tools that refuse blocking calls while a loop runs (blockbuster, in the tests of aiohttp, anyio and starlette)
    excuse sendfile, the read by which Popen waits for its child's exec, and the look at a unix socket's file, for the
    standard loop: by the name of its file, and not for ours. Without such a tool nothing is hidden: a signal's handler
    or a finalizer that runs meanwhile may ask for the running loop.
    """
    if "blockbuster" not in sys.modules and not blocking_calls.are_noted():
        yield
        return
    running = events._get_running_loop()
    _SET_RUNNING_LOOP(None)
    try:
        yield
    finally:
        _SET_RUNNING_LOOP(running)
