"""Chooses the code that runs a loop, by what the program has replaced of asyncio's and of ours. Decided when a run
begins, and again when that may have changed.
"""

from __future__ import annotations

import asyncio
import functools
import os
import select
import selectors
import sys
import time
from types import ModuleType
from typing import Any, NamedTuple

from ..record.built import OUTDATED, OutdatedError, import_extension

# What asyncio itself defines, kept before a program can replace it.
HANDLE_RUN: Any = asyncio.Handle._run
_SELECT: Any = getattr(getattr(selectors, "EpollSelector", None), "select", None)
#: The clock of asyncio's loops. freezegun and its like replace it here, too.
MONOTONIC: Any = time.monotonic

#: ``c`` or ``python`` forces one of the two cores.
VARIABLE = "OTEL_PYTHON_TRACELOOP_CORE"


class Core(NamedTuple):
    """The core that runs this process's loops. native: the extension module, None for plain Python. problem: a line for
    the user about the choice, "" if there is none.
    """

    name: str
    native: ModuleType | None
    problem: str


@functools.cache
def core() -> Core:
    """Chosen once a process: C where it was built and can be used, unless the variable says otherwise."""
    wanted = os.environ.get(VARIABLE, "").strip().lower()
    if wanted not in ("", "c", "python"):
        return Core("python", None, f"{VARIABLE} must be c or python, not {wanted[:40]!r}; the Python core runs")
    if wanted == "python":
        return Core("python", None, "")
    native, reason = load_native()
    if native is not None:
        return Core("c", native, "")
    if reason == OUTDATED:
        return Core("python", None, reason)
    return Core("python", None, f"{VARIABLE}=c, but {reason}; the Python core runs" if wanted else "")


def load_native() -> tuple[ModuleType | None, str]:
    """The extension module; or None, and why it cannot be used here."""
    # abiflags, and not sysconfig, which would read all variables of the build (60 KB of bytecode) at each start.
    if not getattr(sys, "_is_gil_enabled", lambda: True)() or "t" in sys.abiflags:
        return None, "it needs an interpreter with a GIL"
    if sys.byteorder != "little":
        return None, "it needs a little-endian machine"  # as the record has its numbers
    try:
        return import_extension("traceloop.core._core"), ""
    except ModuleNotFoundError:
        return None, "it was not built into this installation"
    except OutdatedError:
        return None, OUTDATED
    except Exception as error:  # of any kind: this asyncio is not the one that the module was written for
        return None, f"it cannot be loaded ({error})"


class Originals(NamedTuple):
    """The event loop's methods that a subclass, an instance or a patch may replace, as the class defines them."""

    run_once: Any
    process_events: Any


class Plan(NamedTuple):
    """How one run of the loop goes.

    once: one iteration was asked for. epoll: the selector's epoll object, which is polled directly; None if the
    selector is asked. keys: the selector's keys by descriptor. own_clock: the loop had a clock of its own when the run
    began. originals: what it was planned by.
    """

    once: bool
    epoll: Any
    keys: dict[int, Any]
    own_clock: bool
    originals: Originals


def replaces_iteration(loop: Any, originals: Originals) -> bool:
    """Whether the program has an iteration of its own (nest_asyncio, a subclass), which asks for ours one at a time."""
    return type(loop)._run_once is not originals.run_once or _has_own(loop, "_run_once")


def _has_own(loop: Any, method: str) -> bool:
    """Whether the program has put a method of its own on ``loop`` itself.

    Not by ``loop.__dict__``: where that was asked for once, CPython 3.11 and 3.12 make a dict of the loop's attributes,
    and asyncio's C code then takes twice as long to find ``call_soon``.
    """
    get = getattr(getattr(type(loop), method), "__get__", None)
    return get is None or getattr(loop, method) != get(loop, type(loop))


def replaces_handle_run() -> bool:
    """Whether a monitor has put its own function in place of ``asyncio.Handle._run``: handles go through it then."""
    return asyncio.Handle._run is not HANDLE_RUN


def plan(loop: Any, originals: Originals, own_clock: bool, *, once: bool = False) -> Plan:
    """The plan of a run that begins now, or goes on."""
    epoll, keys = (None, {}) if once else _direct_poll(loop, originals)
    return Plan(once, epoll, keys, own_clock, originals)


def polls_otherwise(loop: Any, plan: Plan) -> bool:
    """Whether the program has replaced what the plan says of the poll, or has put it back."""
    epoll, _ = _direct_poll(loop, plan.originals)
    return epoll is not plan.epoll


def has_own_clock(loop: Any) -> bool:
    """Whether the loop or its class has a ``time`` of its own now, or ``time.monotonic`` is the program's."""
    return (
        type(loop).time is not type(loop)._original_time
        or _has_own(loop, "time")
        or time.monotonic is not MONOTONIC
    )


def _direct_poll(loop: Any, originals: Originals) -> tuple[Any, dict[int, Any]]:
    """The epoll object and the selector's keys by descriptor, if both are as the standard library makes them. Else
    None: the selector is asked.

    ``EpollSelector.select`` builds a list of keys and masks that the loop takes apart again: 0.7 us a poll.
    """
    selector = loop._selector
    if (
        type(selector) is getattr(selectors, "EpollSelector", None)
        and "select" not in selector.__dict__
        and type(selector).select is _SELECT
        and not _has_own(loop, "_process_events")
        and type(loop)._process_events is originals.process_events
    ):
        epoll = getattr(selector, "_selector", None)
        keys = getattr(selector, "_fd_to_key", None)
        if type(epoll) is select.epoll and type(keys) is dict and keys:
            return epoll, keys
    return None, {}
