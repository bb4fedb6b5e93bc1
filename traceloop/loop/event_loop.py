"""The event loop: run_once and the life of the loop."""

import asyncio


class EventLoop(asyncio.SelectorEventLoop):
    """Placeholder while the loop is being written: everything is still inherited."""
