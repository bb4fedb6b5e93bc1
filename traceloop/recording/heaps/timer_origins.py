"""Who fills the timer heap: the callbacks that wait in it, and the code that put them there.

``call_at`` is on the hot path, and nearly every timer is cancelled or due soon. So

* the callbacks are counted in a random sample of the heap, when growth is found;
* of one timer in some 128 the code that set it is remembered, until it has run or is cancelled.

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

from ...core.site_of import site_of, site_of_code, unwrap
from ...core.timers import Timers
from ...record.frames import OUR_FOLDER
from ...record.sites import UNKNOWN_LABEL

# Entries of the heap that are looked at: about 1.5 us each.
_SAMPLE = 500
# A timer whose number, less its lowest bits, is 0 is noted; then some numbers are left out, up to so many.
NOTED_TIMERS = 255
# So one timer in so many is noted, on average.
EVERY = (NOTED_TIMERS + 2) / 2
_REMEMBERED = 1000
_TOP = 5

# One for all loops: to seed one costs more than all else that a short loop needs of this.
_random = random.Random()

_ASYNCIO = os.path.dirname(os.path.abspath(sys.modules["asyncio"].__file__ or "")) + os.sep

Top = list[tuple[str, int]]


def callbacks_waiting(timers: Timers) -> Top:
    """The callbacks of most timers that are not cancelled, with estimated numbers of them; at most five. Any thread."""
    handles, count = timers.sample(_SAMPLE)
    names: Counter[str] = Counter()
    live = 0
    for handle in handles:
        if not handle._cancelled:
            live += 1
            names[_label_of_timer(handle)] += 1
    scale = count / len(handles) if handles else 0.0
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
        return UNKNOWN_LABEL


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
            label = site_of_code(code, module).label
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return label


# One timer that was noted: its handle, the code and the line that set it, the module, how many such it stands for.
_Noted = tuple[weakref.ref[Any], CodeType, int, object, float]


def _waits(noted: _Noted) -> bool:
    handle = noted[0]()
    return handle is not None and handle._scheduled and not handle._cancelled


def _caller(frame: FrameType | None) -> FrameType | None:
    """The code that set a timer: the nearest frame that is neither asyncio's nor the loop's."""
    for _ in range(30):
        if frame is None or not frame.f_code.co_filename.startswith((_ASYNCIO, OUR_FOLDER)):
            return frame
        frame = frame.f_back
    return None


class CreationSites:
    """Who set the timers of one loop that still wait: a sample of them. ``note`` in the loop's thread, ``top`` in any.

    Handles are referred to weakly. Where there is no more room, what has run or was cancelled is dropped; if most wait,
    every other one, and what is left stands for twice as many.
    """

    def __init__(self) -> None:
        self._noted: list[_Noted] = []
        self._thinned = 1.0

    def note(self, handle: Any, frame: FrameType) -> int:
        """Remembers the code that set ``handle``, the caller of ``frame``'s. Returns how many calls to leap over."""
        try:
            chance = _random.random
            if self._thinned == 1.0 or chance() * self._thinned < 1.0:
                caller = _caller(frame)
                if caller is not None:
                    module = caller.f_globals.get("__name__")
                    noted = self._noted
                    noted.append((weakref.ref(handle), caller.f_code, caller.f_lineno, module, self._thinned))
                    if len(noted) >= _REMEMBERED:
                        self._make_room()
            return int(chance() * (NOTED_TIMERS + 1))
        except Exception:  # the record's fault, never the application's
            return 0

    def _make_room(self) -> None:
        kept = [noted for noted in self._noted if _waits(noted)]
        if len(kept) > _REMEMBERED // 2:
            self._thinned *= 2
            kept = [(*noted[:4], noted[4] * 2) for noted in kept if _random.random() < 0.5]
        elif len(kept) < _REMEMBERED // 4:
            self._thinned = 1.0
        self._noted = kept

    def top(self) -> Top:
        """The places whose timers still wait, most first, with estimated numbers of timers; at most five."""
        places: dict[str, float] = {}
        for noted in list(self._noted):
            if _waits(noted):
                _, code, line, module, weight = noted
                place = f"{site_of_code(code, module).label}:{line}"
                places[place] = places.get(place, 0.0) + weight
        ranked = sorted(places.items(), key=lambda item: -item[1])
        return [(place, round(number * EVERY)) for place, number in ranked[:_TOP]]
