"""Which code runs a loop, decided once a run, from what the program has put in place of asyncio's and of ours."""

from __future__ import annotations

import asyncio
import select
import selectors
from collections.abc import Callable
from typing import Any, NamedTuple

# What asyncio itself defines, kept before a program can replace it.
_HANDLE_RUN = asyncio.Handle._run


class Originals(NamedTuple):
    """The event loop's methods that a subclass, an instance or a patch may replace, as the class defines them."""

    run_once: Any
    process_events: Any
    time: Any


class Plan(NamedTuple):
    """How one run of the loop goes.

    once: one iteration was asked for. poll: the epoll object's own method, and keys: the selector's keys by
    descriptor; None and empty where the selector is asked. own_clock: the loop's class has a ``time`` of its own, or
    the loop had when the run began.
    """

    once: bool
    poll: Callable[..., Any] | None
    keys: dict[int, Any]
    own_clock: bool


def replaces_iteration(loop: Any, originals: Originals) -> bool:
    """Whether the program has an iteration of its own (nest_asyncio, a subclass), which asks for ours one at a time."""
    return type(loop)._run_once is not originals.run_once or "_run_once" in loop.__dict__


def replaces_handle_run() -> bool:
    """Whether a monitor has put its own function in place of ``asyncio.Handle._run``: handles go through it then."""
    return asyncio.Handle._run is not _HANDLE_RUN


def plan(loop: Any, originals: Originals, *, once: bool) -> Plan:
    """The plan of a run that begins now."""
    poll, keys = (None, {}) if once else _direct_poll(loop, originals)
    return Plan(once, poll, keys, type(loop).time is not originals.time or "time" in loop.__dict__)


def _direct_poll(loop: Any, originals: Originals) -> tuple[Any, dict[int, Any]]:
    """The poll method of the epoll object itself and the selector's keys by descriptor, where both are as the
    standard library makes them; else None, and the selector is asked.

    ``EpollSelector.select`` builds a list of keys and masks that the loop takes apart again: 0.7 us a poll.
    """
    selector = loop._selector
    if (
        type(selector) is getattr(selectors, "EpollSelector", None)
        and "select" not in selector.__dict__
        and "_process_events" not in loop.__dict__
        and type(loop)._process_events is originals.process_events
    ):
        epoll = getattr(selector, "_selector", None)
        keys = getattr(selector, "_fd_to_key", None)
        if type(epoll) is select.epoll and type(keys) is dict and keys:
            return epoll.poll, keys
    return None, {}
