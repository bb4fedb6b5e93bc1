"""Who fills the timer heap: the callbacks that wait in it, and the code that put them there.

``call_at`` notes nothing: it is on the hot path, and nearly every timer is cancelled or due soon. Instead

* the callbacks are counted in a random sample of the heap, when growth is found;
* the code that sets timers is noted only while growth is suspected: then the loop gets, on the instance, a ``call_at``
  that looks at its caller's frames for some of the calls. Of those, the ones whose timer still waits are counted.

A timer of ``asyncio.sleep`` or ``asyncio.timeout`` counts for the code of the task that waits in it.
"""

from __future__ import annotations

import os
import random
import sys
import weakref
from collections import Counter
from types import CodeType, FrameType
from typing import Any

from .naming import site_of, site_of_code, unwrap

# Entries of the heap that are looked at: about 1.5 us each.
_SAMPLE = 500
# Calls whose caller is noted, and timers remembered from them.
_EVERY = 4
_REMEMBERED = 1000
_TOP = 5

_ASYNCIO = os.path.dirname(os.path.abspath(sys.modules["asyncio"].__file__ or "")) + os.sep
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

Top = list[tuple[str, int]]


def callbacks_waiting(heap: list[Any]) -> Top:
    """The callbacks of most entries that are not cancelled, with estimated numbers of entries; at most five.

    For any thread: a heap that changes meanwhile gives a smaller sample. ``heap``: entries answer ``[2]`` with their
    handle.
    """
    entries = list(heap)
    count = len(entries)
    if count > _SAMPLE:
        entries = random.Random().sample(entries, _SAMPLE)
    names: Counter[str] = Counter()
    live = 0
    for entry in entries:
        handle = entry[2]
        if not handle._cancelled:
            live += 1
            names[_label_of_timer(handle)] += 1
    scale = count / len(entries) if entries else 0.0
    return [(name, round(number * scale)) for name, number in names.most_common(_TOP)]


def _label_of_timer(handle: Any) -> str:
    try:
        task = _waiting_task(handle)
        if task is not None:
            label = _label_of_task(task)
            if label:
                return label
        return site_of(handle._callback).label
    except Exception:  # an object that lies about itself
        return "unknown"


def _waiting_task(handle: Any) -> Any:
    """The task that waits for what asyncio's own timer callbacks are about."""
    callback = handle._callback
    function = unwrap(callback)
    if not str(getattr(function, "__module__", "")).startswith("asyncio."):
        return None
    owner = getattr(callback, "__self__", None)
    if owner is not None:  # asyncio.timeout
        return getattr(owner, "_task", None)
    for argument in handle._args or ():  # asyncio.sleep: the future that it sets
        for entry in getattr(argument, "_callbacks", None) or ():
            waiter = entry[0] if isinstance(entry, tuple) else entry
            task = getattr(waiter, "__self__", None)
            if task is not None and hasattr(task, "get_coro"):
                return task
    return None


def _label_of_task(task: Any) -> str:
    """The innermost code of the program's own in what the task awaits."""
    label = ""
    awaited = task.get_coro()
    for _ in range(100):
        code = getattr(awaited, "cr_code", None) or getattr(awaited, "gi_code", None)
        if not isinstance(code, CodeType):
            break
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if not code.co_filename.startswith(_ASYNCIO):
            module = frame.f_globals.get("__name__", "") if frame is not None else ""
            label = site_of_code(code, module if isinstance(module, str) else "").label
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return label


def _caller(frame: FrameType | None) -> str:
    """The code that set a timer: the nearest frame that is neither asyncio's nor the loop's."""
    for _ in range(30):
        if frame is None:
            break
        code = frame.f_code
        if not code.co_filename.startswith((_ASYNCIO, _OURS)):
            module = frame.f_globals.get("__name__", "")
            return f"{site_of_code(code, module if isinstance(module, str) else '').label}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


class CreationSites:
    """Notes who sets timers of one loop, between ``start`` and ``stop``; these from one thread, not needfully its."""

    def __init__(self) -> None:
        self._noted: list[tuple[weakref.ref[Any], str]] = []
        self._calls = 0
        self._seen = 0
        self._random = random.Random()
        self.active = False

    def start(self, loop: Any) -> None:
        """Puts the noting ``call_at`` on the loop, unless it has another one on the instance already."""
        if self.active or "call_at" in vars(loop):
            return
        self.active = True
        reference = weakref.ref(loop)
        plain = type(loop).call_at

        def call_at(when: float, callback: Any, *args: Any, context: Any = None) -> Any:
            loop = reference()
            handle = plain(loop, when, callback, *args, context=context)
            self._calls += 1
            if self._calls % _EVERY == 0:
                self._note(handle, sys._getframe(1))
            return handle

        loop.call_at = call_at
        self._call_at = call_at

    def stop(self, loop: Any) -> None:
        """Takes it away again and forgets what was noted."""
        if self.active and vars(loop).get("call_at") is self._call_at:
            del loop.call_at
        self.active = False
        self._noted.clear()
        self._seen = 0

    def _note(self, handle: Any, frame: FrameType) -> None:
        try:
            label = _caller(frame)
            if not label:
                return
            self._seen += 1
            if len(self._noted) < _REMEMBERED:
                self._noted.append((weakref.ref(handle), label))
            else:
                # Each call has the same chance to be remembered.
                place = self._random.randrange(self._seen)
                if place < _REMEMBERED:
                    self._noted[place] = (weakref.ref(handle), label)
        except Exception:  # the record's fault, never the application's
            pass

    def top(self) -> Top:
        """The places whose timers still wait, most first, with estimated numbers of timers; at most five."""
        names: Counter[str] = Counter()
        for reference, label in list(self._noted):
            handle = reference()
            if handle is not None and handle._scheduled and not handle._cancelled:
                names[label] += 1
        scale = _EVERY * max(1.0, self._seen / len(self._noted)) if self._noted else 0.0
        return [(name, round(number * scale)) for name, number in names.most_common(_TOP)]
