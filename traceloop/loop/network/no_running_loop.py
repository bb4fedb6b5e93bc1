"""Calls that the standard loop makes while it runs, and that must not be taken for an application's blocking ones."""

from __future__ import annotations

import contextlib
from asyncio import events
from collections.abc import Iterator


@contextlib.contextmanager
def no_running_loop() -> Iterator[None]:
    """Hides the running loop meanwhile.

    Tools that refuse blocking calls while a loop runs (blockbuster, in the tests of aiohttp, anyio and starlette)
    excuse sendfile, the read by which Popen waits for its child's exec, and the look at a unix socket's file, for the
    standard loop: by the name of its file, and not for ours.
    """
    running = events._get_running_loop()
    events._set_running_loop(None)
    try:
        yield
    finally:
        events._set_running_loop(running)
