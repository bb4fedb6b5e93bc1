"""The rule on errors that no code handles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ...record.swallowed import CALLBACK, NOT_AWAITED, NOT_RETRIEVED
from ..statistics.swallowed import SwallowedError
from ..units import counted
from . import thresholds
from .model import WARNING, Finding, Who
from .scope import Scope, frame_line

_PLACES: Final = 3
_TITLES: Final = {
    NOT_AWAITED: "{who} calls {name} and never awaits it: it does not run",
    NOT_RETRIEVED: "Tasks of {who} fail, and no code looks at their exception",
    CALLBACK: "Callbacks fail at {who}, and no code handles it",
}
_REMEDIES: Final = {
    NOT_AWAITED: "Write `await` before the call, or keep `asyncio.create_task(...)` of it.",
    NOT_RETRIEVED: "Await the task, or use an `asyncio.TaskGroup`; for work in the background add a callback that logs "
    "`task.exception()`.",
    CALLBACK: "Handle the error in the callback, or set `loop.set_exception_handler` to report it where it is seen.",
}


def swallowed(scope: Scope) -> Iterator[Finding]:
    """Coroutines that were never awaited, exceptions that were never retrieved, callbacks that failed."""
    found: dict[tuple[str, str], list[tuple[SwallowedError, int]]] = {}
    for error, number in scope.process.swallowed.found.items():
        found.setdefault((error.sort, error.function), []).append((error, number))
    for (sort, function), those in found.items():
        total = sum(number for _, number in those)
        if total < thresholds.SWALLOWED:
            continue
        those.sort(key=lambda each: -each[1])
        place = those[0][0].place
        who = scope.who(function)
        if place[0] and (sort != NOT_RETRIEVED or not who.file):
            who = Who(f"{place[2]}.{place[3]}" if place[2] else place[3], place[0], place[1])
        yield Finding(
            "errors-swallowed",
            sort,
            WARNING,
            _TITLES[sort].format(who=who.place, name=function.rpartition(".")[2]),
            counted(total, "time"),
            thresholds.SWALLOWED_SHARE * scope.observed_s,
            scope.process.slot,
            "",
            who,
            tuple(_line(error, number if len(those) > 1 else 0) for error, number in those[:_PLACES]),
            _REMEDIES[sort],
        )


def _line(error: SwallowedError, number: int) -> str:
    """``number``: how often; 0 where that is said already."""
    what = error.error or "called"
    where = f" at {frame_line(error.place)}" if error.place[0] else ""
    return f"{counted(number, 'time')} {what}{where}" if number else f"{what}{where}"
