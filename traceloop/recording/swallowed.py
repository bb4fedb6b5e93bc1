"""Errors that no code handles: coroutines never awaited, exceptions never retrieved, failed callbacks.

The interpreter and asyncio report each of them, and go on doing so. Here they are counted, by their code and the
line they come from. Names of code only: no message of an exception, no value.

The interpreter calls ``warnings._warn_unawaited_coroutine`` where a coroutine is freed that never began
(CPython's Python/_warnings.c). That is mostly in the line that made it, so the frames there tell the line. A function
of ours stands in for it, with a frame that the warnings module takes for one of the import system's and passes over:
the warning shows the same line as without it.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final

from ..core.site_of import site_of_coroutine
from ..record.frames import Frame, culprit_frame
from ..record.sites import module_name
from ..record.swallowed import CALLBACK, NOT_AWAITED, NOT_RETRIEVED

_MAX_PENDING: Final = 10_000
_MAX_ENTRIES: Final = 200
_MAX_FRAMES: Final = 60
_WRITE_SECONDS: Final = 1.0
_NEVER_RETRIEVED: Final = "exception was never retrieved"

# The errors seen: sort, label of the code, type of the exception, place. Any thread appends, even within a garbage
# collection. None while nothing is recorded.
_pending: deque[tuple[str, str, str, Frame]] | None = None
_wrapped: Any = None

_SOURCE: Final = """
def _warn_unawaited_coroutine(coro):
    note(coro)
    original(coro)
"""


class Swallowed:
    """The unhandled errors of one process. The watchdog's thread calls ``poll``."""

    def __init__(self, report: Callable[[dict[str, Any], float], bool]) -> None:
        """``report(event, now)`` writes an event; it returns False where the limit on events does not allow it now."""
        global _pending
        self._report = report
        self._written = 0.0
        # Counts that are not written yet.
        self._found: Counter[tuple[str, str, str, Frame]] = Counter()
        _pending = deque(maxlen=_MAX_PENDING)
        _wrap()

    def poll(self, now: float) -> None:
        """Writes down what was seen, once a second."""
        if (_pending or self._found) and now - self._written >= _WRITE_SECONDS:
            self.write(now)

    def write(self, now: float) -> None:
        """Writes the errors seen since the last time. Those that the limit on events does not allow now wait."""
        self._written = now
        found = self._found
        for _ in range(len(_pending or ())):
            if len(found) >= _MAX_PENDING:
                break  # too many wait: the deque drops the oldest
            try:
                found[_pending.popleft()] += 1  # type: ignore[union-attr]
            except (IndexError, AttributeError):
                break
        while found:
            most = found.most_common(_MAX_ENTRIES)
            if not self._report({"kind": "swallowed", "entries": [[*key, number] for key, number in most]}, now):
                break
            for key, _ in most:
                del found[key]


def note_unhandled(context: Any) -> None:
    """A loop's exception handler is called with ``context``. From any thread; never raises."""
    if _pending is None:
        return
    try:
        error = context.get("exception")
        if error is None:
            return
        message = str(context.get("message", ""))
        if message.endswith(_NEVER_RETRIEVED):
            sort = NOT_RETRIEVED
        elif message.startswith("Exception in callback") or "handle" in context:
            sort = CALLBACK
        else:
            return
        future = context.get("future") or context.get("task")
        coro = future.get_coro() if hasattr(future, "get_coro") else None
        place = _raised_at(error.__traceback__)
        label = site_of_coroutine(coro).label if coro is not None else f"{place[2]}.{place[3]}"
        _pending.append((sort, label, type(error).__qualname__, place))
    except Exception:
        pass  # the count is lost; the program does not depend on it


def _note_unawaited(coro: Any) -> None:
    if _pending is None:
        return
    try:
        origin = getattr(coro, "cr_origin", None)
        if origin:
            file, line, name = origin[0]
            place: Frame = (file, line, "", name)
        else:
            place = _freed_at(sys._getframe(2))
        _pending.append((NOT_AWAITED, site_of_coroutine(coro).label, "", place))
    except Exception:
        pass  # the interpreter may be going down


def _freed_at(frame: FrameType | None) -> Frame:
    """The application's innermost line from this frame outwards, else a library's, else none."""
    frames: list[Frame] = []
    while frame is not None and len(frames) < _MAX_FRAMES:
        frames.append(_described(frame, frame.f_lineno))
        frame = frame.f_back
    frames.reverse()
    return culprit_frame(frames) or ("", 0, "", "")


def _raised_at(traceback: TracebackType | None) -> Frame:
    frames: list[Frame] = []
    while traceback is not None and len(frames) < 10 * _MAX_FRAMES:
        frames.append(_described(traceback.tb_frame, traceback.tb_lineno))
        traceback = traceback.tb_next
    return culprit_frame(frames) or (frames[-1] if frames else ("", 0, "", ""))


def _described(frame: FrameType, line: int | None) -> Frame:
    code = frame.f_code
    module = module_name(dict.get(frame.f_globals, "__name__"))
    return (code.co_filename, line or code.co_firstlineno, module, code.co_qualname)


def _wrap() -> None:
    """Puts our function in place of the warnings module's, once."""
    global _wrapped
    original = getattr(warnings, "_warn_unawaited_coroutine", None)
    if original is None or original is _wrapped:
        return
    names: dict[str, Any] = {"note": _note_unawaited, "original": original}
    # Both parts of the name are what the warnings module looks for.
    exec(compile(_SOURCE, "<frozen importlib._bootstrap of traceloop>", "exec"), names)
    _wrapped = names["_warn_unawaited_coroutine"]
    warnings._warn_unawaited_coroutine = _wrapped  # type: ignore[attr-defined]
