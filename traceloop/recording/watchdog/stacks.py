"""Where a thread's loop stands at this moment: the handle that runs, its Python frames, who awaits it.

Everything here looks at another thread's running frames, which holds together for these reasons:

* With the GIL in our hands the other thread is between two bytecodes or inside a C call that released the GIL; its
  frames' locals and line numbers are those of that moment.
* The Python iteration is one function, and its locals say what runs; the C core is asked (core/running.py). Reading
  them costs the loop nothing; publishing each run would.

Only code is looked at: files, lines, names. Never a repr, an argument or a value.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, NamedTuple

from ...core.interface import Running
from ...core.running import running, running_on_another_stack
from ...core.site_of import site_of
from ...record import layout
from ...record.frames import Frame, is_loop, is_recording
from ...record.sites import module_name
from ..application_spans import flags_of, state_of

_INLINED = (".<locals>.<listcomp>", ".<locals>.<dictcomp>", ".<locals>.<setcomp>", ".<locals>.<genexpr>")

# A recursion of a thousand frames says no more than its ends.
MAX_FRAMES = 100
_KEPT_OUTER = 30
_MAX_AWAITING_TASKS = 8


class Run(NamedTuple):
    """A handle run that is under way.

    start: s of the loop's clock, equal to the start in the run's record. frames: outermost first, from the callback
    down to the line at which the thread stands. awaiting: as ``awaiting_frames`` has them. span: as ``active_span``.
    Numbers and text only: nothing of the program's is held by it.
    """

    start: float
    ident: float
    frames: list[Frame]
    awaiting: list[Frame]
    span: list[Any] | None


def find_run(top: FrameType | None, loop: Any = None) -> Run | None:
    """The handle run in which a thread stands, from its innermost frame; None where it runs no handle (it polls, or
    works for itself). Call with the GIL held; never from the thread itself. ``loop``: as for ``below_loop``.

    All that is to be known of the handle is looked up here, and every reference is gone when this returns: nothing
    between may let another thread run (no file, no lock), or the program would see its objects live longer.
    """
    run, inner = below_loop(top, _line_of, loop)
    handle = run.handle if run is not None else None
    try:
        if run is None:
            return None
        if len(inner) > MAX_FRAMES:
            frames = [describe(*item) for item in inner[:_KEPT_OUTER]]
            frames.append(("", 0, "", f"... {len(inner) - MAX_FRAMES} frames left out ..."))
            frames += [describe(*item) for item in inner[_KEPT_OUTER - MAX_FRAMES :]]
        else:
            frames = [describe(*item) for item in inner]
        if handle is None:  # it has run, and what it held is being released
            return Run(run.start, run.ident, frames, [], None)
        return Run(run.start, run.ident, frames, awaiting_frames(handle._callback), active_span(handle))
    finally:
        # Also when something above fails: the error's traceback has this frame.
        inner.clear()
        run = None
        del top, handle


def below_loop(
    top: FrameType | None, position: Callable[[FrameType], int], loop: Any = None
) -> tuple[Running | None, list[tuple[FrameType, int]]]:
    """What the loop runs in the thread whose innermost frame is ``top``, None for nothing; and the frames from its
    callback down, outermost first, with their ``position``. As for ``find_run``: with the GIL, and every reference is
    to be dropped before another thread may run. ``loop``: one that says of itself that it runs something, in this
    thread; it is asked where its frame is not above ``top``, as in a greenlet.
    """
    inner: list[tuple[FrameType, int]] = []
    frame = top
    try:
        while frame is not None:
            code = frame.f_code
            if is_loop(code.co_filename, code.co_name):
                break
            inner.append((frame, position(frame)))
            frame = frame.f_back
        if frame is not None and inner and is_recording(inner[-1][0].f_code.co_filename):
            inner.clear()  # between two handles records are being written, or a callback is being named
            return None, inner
        if frame is not None:
            run = running(frame)
        else:
            run = running_on_another_stack(loop) if loop is not None and inner else None
        if run is None:
            inner.clear()
            return None, inner
        while inner and is_recording(inner[0][0].f_code.co_filename):
            del inner[0]  # a callback of ours, such as the garbage collector's
        inner.reverse()
        return run, inner
    finally:
        run = None
        del top, frame, loop


def _line_of(frame: FrameType) -> int:
    return frame.f_lineno or frame.f_code.co_firstlineno


def describe(frame: FrameType, line: int) -> Frame:
    """A frame as it is recorded, at this line of it."""
    code = frame.f_code
    return (code.co_filename, line, module_name(dict.get(frame.f_globals, "__name__")), qualname_of(code))


def qualname_of(code: CodeType) -> str:
    """The qualified name of the function that a code object belongs to: a comprehension's is the function around it
    (as it is from 3.12 on), a lambda's ends with its line.
    """
    name = code.co_qualname
    while name.endswith(_INLINED):
        name = name.rpartition(".<locals>.")[0]
    return f"{name}:{code.co_firstlineno}" if name.endswith("<lambda>") else name


def awaiting_frames(callback: Any) -> list[Frame]:
    """The coroutines that wait for the task whose step ``callback`` is, nearest first: of each waiting task the
    coroutine that awaits, then those above it, and so on through the tasks that wait for that one. None of a task whose
    coroutine has returned, and whose step wakes up who awaits it: the time was not spent for those.
    """
    out: list[Frame] = []
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task) and getattr(task.get_coro(), "cr_frame", task) is None:
        return out
    seen: set[int] = set()
    for _ in range(_MAX_AWAITING_TASKS):
        if not isinstance(task, asyncio.Task) or id(task) in seen:
            break
        seen.add(id(task))
        task = waiter_of(task)
        if task is not None:
            out += reversed(suspended_frames(task.get_coro()))
    return out[:MAX_FRAMES]


def waiter_of(task: Any) -> Any:
    """A task that waits for this one, None where none is known."""
    awaited_by = getattr(task, "_asyncio_awaited_by", None)  # 3.14 and later; knows of gather and wait too
    for future in tuple(awaited_by or ())[:1]:
        for _ in range(_MAX_AWAITING_TASKS):  # a gather's own future stands between the two
            if isinstance(future, asyncio.Task):
                return future
            above = tuple(getattr(future, "_asyncio_awaited_by", None) or ())
            if not above:
                break
            future = above[0]
    for entry in getattr(task, "_callbacks", None) or ():
        owner = getattr(entry[0], "__self__", None)
        if isinstance(owner, asyncio.Task):
            return owner
    return None


def suspended_frames(coro: Any) -> list[Frame]:
    """The frames of a suspended coroutine, outermost first: along ``cr_await``, ``gi_yieldfrom`` and ``ag_await``."""
    return [describe(frame, _line_of(frame)) for frame in frames_of_coroutine(coro)]


def frames_of_coroutine(coro: Any) -> list[FrameType]:
    """As ``suspended_frames``, the frames themselves."""
    out: list[FrameType] = []
    while coro is not None and len(out) < MAX_FRAMES:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None) or getattr(coro, "ag_frame", None)
        if not isinstance(frame, FrameType):
            break
        out.append(frame)
        coro = getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None) or getattr(coro, "ag_await", None)
    return out


def ready_descriptors(loop: Any, limit: int = 100) -> dict[str, int] | None:
    """The callbacks of descriptors that are ready now but have not been polled for, by name, with how many: an
    estimate of what waits in the kernel. None where the poller can't be asked from another thread.

    Only epoll allows it: asking is one more ``epoll_wait`` without waiting, and it takes nothing away.
    """
    selector = getattr(loop, "_selector", None)
    epoll = getattr(selector, "_selector", None)
    if type(epoll).__name__ != "epoll" or epoll is None:
        return None
    try:
        found = epoll.poll(0, limit)
        keys = getattr(selector, "_fd_to_key", {})
        out: dict[str, int] = {}
        for fd, event in found:
            key = keys.get(fd)
            if key is None or key.fileobj is getattr(loop, "_ssock", None):
                continue
            reader, writer = key.data
            # 0x4 is EPOLLOUT, 0x1 EPOLLIN; errors and hang-ups wake both.
            for handle, wanted in ((reader, event & ~0x4), (writer, event & ~0x1)):
                if handle is not None and wanted and not handle._cancelled:
                    name = site_of(handle._callback).label
                    out[name] = out.get(name, 0) + 1
        return out
    except Exception:
        return None  # the selector was closed, or is not as the standard library makes it


def active_span(handle: Any) -> list[Any] | None:
    """The OpenTelemetry span that is active in the running handle's context, as ``[trace id, span id, flags, state]``
    (hex, hex, number, text); None where there is none, or the application uses no OpenTelemetry.

    The context is the object in which the callback runs, so what the callback has set in it is seen.
    """
    runtime = getattr(sys.modules.get("opentelemetry.context"), "_RUNTIME_CONTEXT", None)
    key = getattr(sys.modules.get("opentelemetry.trace.propagation"), "_SPAN_KEY", None)
    variable = getattr(runtime, "_current_context", None)
    if key is None or variable is None:
        return None
    try:
        span = handle._context[variable][key].get_span_context()
        if not span.trace_id or not span.span_id:
            return None
        flags = flags_of(span.trace_flags, span.is_remote)
        return [format(span.trace_id, "032x"), format(span.span_id, "016x"), flags, state_of(span.trace_state)]
    except Exception:  # no span is active, or the API is another than we know
        return None


def site_number(ident: float) -> int:
    """The site in a run's ident."""
    return int(ident % layout.SITE_LIMIT)
