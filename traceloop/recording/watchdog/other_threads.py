"""The other threads of a process while its loop is blocked: where they stand, and how much each has computed."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from types import FrameType
from typing import Any, Final, NamedTuple

from ...record.frames import Frame, culprit_frame, is_recording, waits_for_work
from ..kernel_files import schedule_of_thread, threads
from .stacks import describe

# So many threads are looked at, and so many of their stacks recorded.
_MAX_THREADS: Final = 64
_MAX_STACKS: Final = 16
_MAX_FRAMES: Final = 100
_KEPT_FRAMES: Final = 12
_MAX_NAMES: Final = 3
_MAX_NAME: Final = 80
# CPU times are read this often (s), so that there is a value to compare with when a loop is blocked.
_READ_SECONDS: Final = 5.0


class Standing(NamedTuple):
    """A thread, and where it stands. ident: Python's; native: the kernel's, 0 if not known; frames: outermost first."""

    ident: int
    native: int
    name: str
    frames: list[Frame]

    @property
    def own(self) -> Frame:
        """The application's innermost frame; else that of a library; else the innermost of all."""
        return culprit_frame(self.frames) or (self.frames[-1] if self.frames else ("", 0, "", ""))


def threads_now(tops: dict[int, FrameType], without: Collection[int]) -> list[Standing]:
    """Where the threads of ``tops`` (``current_frames()``) stand, except those in ``without`` and traceloop's own.
    It opens no file, and so never gives the GIL away.
    """
    known = dict(getattr(threading, "_active", {}))
    out: list[Standing] = []
    for ident, top in tops.items():
        if ident in without or len(out) >= _MAX_THREADS:
            continue
        frames = _frames(top)
        thread = known.get(ident)
        values = vars(thread) if thread is not None else {}
        name, native = values.get("_name"), values.get("_native_id")
        if not frames or (thread is None and is_recording(frames[0][0])):
            continue
        name = name[:_MAX_NAME] if type(name) is str else f"{ident:#x}"
        out.append(Standing(ident, native if isinstance(native, int) else 0, name, frames))
    return out


def frames_of(top: FrameType | None) -> Iterator[FrameType]:
    """A thread's frames, innermost first."""
    for _ in range(_MAX_FRAMES):
        if top is None:
            return
        yield top
        top = top.f_back


def _frames(top: FrameType) -> list[Frame]:
    found = [describe(each, each.f_lineno or each.f_code.co_firstlineno) for each in frames_of(top)]
    found.reverse()
    return found


def is_idle(standing: Standing) -> bool:
    """Whether a thread waits for work."""
    return waits_for_work(standing.frames)


def as_recorded(threads: list[Standing], computed: dict[int, float]) -> list[list[Any]]:
    """The stacks of threads that are not idle, one row for each place, those that compute most first: names (at most
    three), number of threads, seconds of CPU time, the twelve innermost frames (outermost first).
    """
    by_stack: dict[tuple[Frame, ...], list[Any]] = {}
    for each in threads:
        seconds = computed.get(each.native, 0.0)
        if is_idle(each) and seconds < 0.01:
            continue
        frames = [frame for frame in each.frames if not is_recording(frame[0])][-_KEPT_FRAMES:]
        entry = by_stack.setdefault(tuple(frames), [[], 0, 0.0, frames])
        entry[1] += 1
        entry[2] = round(entry[2] + seconds, 6)
        if len(entry[0]) < _MAX_NAMES:
            entry[0].append(each.name)
    return sorted(by_stack.values(), key=lambda entry: (-entry[2], -entry[1]))[:_MAX_STACKS]


class ThreadClocksOfAll:
    """How much each thread of the process has computed. For the watchdog's thread."""

    def __init__(self) -> None:
        self._before: dict[int, float] = {}
        self._read_at = 0.0

    def poll(self, now: float) -> None:
        """Reads the clocks every five seconds. Takes 15 us a thread."""
        if now - self._read_at >= _READ_SECONDS:
            self.computed(now)

    def computed(self, now: float) -> tuple[float, dict[int, float]]:
        """Reads the clocks. Returns the seconds since the last time (0: none), and each thread's CPU time since, by
        native id.
        """
        since = now - self._read_at if self._read_at else 0.0
        before, self._before = self._before, _clocks()
        self._read_at = now
        if not before:
            return since, {}
        # A thread that was not there before is new.
        return since, {native: seconds - before.get(native, 0.0) for native, seconds in self._before.items()}


def _clocks() -> dict[int, float]:
    natives = threads()
    if len(natives) > _MAX_THREADS:
        return {}
    found = {native: schedule_of_thread(native).cpu_s for native in natives}
    return {native: seconds for native, seconds in found.items() if seconds >= 0.0}
