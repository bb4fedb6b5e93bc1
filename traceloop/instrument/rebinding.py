"""Gives the traced loop the names by which programs ask for a loop.

No event loop policy is set: a program that sets one of its own would undo it, and since 3.14 policies are on their way
out. traceloop patches the few names through which every loop is created:

- `SelectorEventLoop` and `EventLoop` in `asyncio` and `asyncio.unix_events`: direct construction, `loop_factory=`;
- `_loop_factory` of the default policy's class (3.11 to 3.15): `asyncio.run`, `new_event_loop`, and every policy that a
  program derives from the default one;
- `Loop` of uvloop and its like, whose `run`, `install`, `new_event_loop` and policy look that name up when called.

`asyncio._set_running_loop` is wrapped: there, and only there, every loop that asyncio knows passes, traced or not, when
it begins and ends to run. No failure of ours may reach the program from there.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from typing import TYPE_CHECKING, Any

from .. import notices
from ..record import signal_handlers

if TYPE_CHECKING:
    from types import ModuleType

    from ..settings import Settings

#: Called with each loop that begins to run, and with None when one ends, in the loop's thread.
running_loop_watchers: list[Any] = []

#: Class names of loops that ran untraced, with how many times one began to run.
untraced: dict[str, int] = {}

_originals: list[tuple[Any, str, Any]] = []
_run_dir: str | None = None


def rebind_asyncio(module: ModuleType, settings: Settings | None = None) -> None:
    """Rebinds the names of asyncio; doing it twice changes nothing. Where it raises, nothing is rebound."""
    global _run_dir
    if settings is not None:
        _run_dir = settings.run_dir
    if not hasattr(module, "SelectorEventLoop") or not hasattr(module, "unix_events"):
        return  # a program's own module of that name
    watch_running_loops()
    try:
        from ..loop.event_loop import EventLoop
    except BaseException:
        restore()
        raise

    unix_events: Any = module.unix_events
    for name in ("SelectorEventLoop", "EventLoop"):
        for place in (module, unix_events):
            if hasattr(place, name):
                _rebind(place, name, EventLoop)
    policy = getattr(unix_events, "_UnixDefaultEventLoopPolicy", None)
    if policy is not None:
        _rebind(policy, "_loop_factory", EventLoop)


def rebind_library(module: ModuleType) -> None:
    """Gives a package that offers a loop of its own (uvloop and its like) the traced one in its place."""
    for name in ("Loop", "RLoop", "ZLoop", "EventLoop"):
        loop_class = getattr(module, name, None)
        if isinstance(loop_class, type) and issubclass(loop_class, asyncio.AbstractEventLoop):
            _rebind(module, name, _stand_in(module.__name__, name))


def restore() -> None:
    """Gives every rebound name back, newest first. Loops that exist remain what they are."""
    while _originals:
        place, name, value = _originals.pop()
        setattr(place, name, value)


def _rebind(place: Any, name: str, value: Any) -> None:
    current = vars(place)[name] if name in vars(place) else getattr(place, name)
    if current is not value:
        _originals.append((place, name, current))
        setattr(place, name, value)


def _stand_in(library: str, name: str) -> type:
    from ..loop.event_loop import EventLoop

    class Loop(EventLoop):
        """The traced loop under the name of another library's."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            notices.say_once(
                _run_dir,
                library,
                f"the program asks for {library}; the traced loop runs in its place (--keep-uvloop keeps {library})",
            )
            super().__init__(*args, **kwargs)

    Loop.__name__ = Loop.__qualname__ = name
    return Loop


def watch_running_loops() -> None:
    """Has `running_loop_watchers` called; doing it twice changes nothing."""
    # Before the loop's own module is imported, and before uvloop takes a reference of its own.
    set_running_loop = events._set_running_loop
    if getattr(set_running_loop, "_traceloop", False):
        return
    traced: Any = None
    failed = False

    def look(loop: Any) -> None:
        nonlocal traced
        if loop is not None:
            if traced is None:
                from ..loop.event_loop import EventLoop as traced
            # A loop that runs has its thread by now. A subclass of ours that has none and its own way to run is driven
            # by a library (qasync). Without one, the program has called us by hand.
            kind = type(loop)
            is_ours = kind is traced or (
                isinstance(loop, traced)
                and (
                    getattr(loop, "_thread_id", None) is not None
                    or (kind.run_forever is traced.run_forever and kind.run_until_complete is traced.run_until_complete)
                )
            )
            if not is_ours:
                name = f"{kind.__module__}.{kind.__qualname__}"
                untraced[name] = untraced.get(name, 0) + 1
        for watcher in running_loop_watchers:
            watcher(loop)

    def _set_running_loop(loop: Any) -> None:
        nonlocal failed
        set_running_loop(loop)
        if failed:
            return
        try:
            look(loop)
        except Exception as error:
            if signal_handlers.has_raised(error):
                raise
            failed = True
            notices.say(f"loops are not watched any more: {error!r}")

    _set_running_loop._traceloop = True  # type: ignore[attr-defined]
    _rebind(events, "_set_running_loop", _set_running_loop)
    _rebind(asyncio, "_set_running_loop", _set_running_loop)
