"""`--find-blocking`: the calls of the application, on a loop's thread, that may block, however quick they are here.

The interpreter calls audit hooks (PEP 578) for every file that is opened, every connection, look-up, subprocess, import
and sleep. The facts that shape this module:

* An audit hook stays for the life of the interpreter. So we add one only when it was asked for, one serves every run of
  the process, and it returns at once in threads without a running loop.
* The interpreter calls it for all events, some of which are frequent (`gc.get_referents`, `sys._getframe`). An event
  that we ignore costs about 0.7 us, in any thread. One that we note costs some 40 us.
* The hook is called when a call begins. To learn when the call has ended, we ask `sys.monitoring` (3.12) for the next
  instruction of the application's frame. So the time is that of the whole call in the application's line: of
  `requests.get`, not of the `connect` below it. On 3.11 no time is known.
* Before 3.13, `time.sleep` raises no event: there we replace `time.sleep` by a function of ours.
* An exception in a hook is raised by the audited call. So the hook lets no exception out, except an interrupt that was
  about to come anyway.

A call is attributed to the innermost frame of the application's own code between the loop and the call; where there is
none, to the innermost frame of a library. Calls that asyncio itself makes (to start a subprocess, or on a socket that
does not block) are not the application's. What an import opens and imports is part of that import.
"""

from __future__ import annotations

import json
import os
import sys
import time
from asyncio import events
from time import monotonic
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from ..record import layout
from ..record.frames import OUR_FOLDER, is_application, is_library, is_loop
from ..record.sites import module_name
from . import failures, own_threads
from .before import Before
from .outbox import outbox_of
from .process import Process

#: The audit events that are noted. Reports show them under the same names.
CALLS: Final = frozenset(
    (
        "fcntl.flock",
        "fcntl.lockf",
        "import",
        "open",
        "os.posix_spawn",
        "os.system",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyaddr",
        "socket.gethostbyname",
        "sqlite3.connect",
        "subprocess.Popen",
        "time.sleep",
    )
)

_MAX_PLACES: Final = 1000
_MAX_KNOWN: Final = 8192
_MAX_FRAMES: Final = 200
_ROWS_AN_EVENT: Final = 50
_WRITE_SECONDS: Final = 1.0
_IMPORTLIB: Final = "<frozen importlib"

# The kinds of code that a frame may run.
_LOOP, _OWN, _LIBRARY, _ASYNCIO, _IMPORT, _OTHER = range(6)


class Call(NamedTuple):
    """A call and its place. call: the audit event; file, line, module, qualname: of the frame that made the call."""

    call: str
    file: str
    line: int
    module: str
    qualname: str


class Total:
    """How often a call was made, and how long it took (s; -1 where the time is not known)."""

    __slots__ = ("changed", "count", "longest_s", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.longest_s = -1.0
        self.changed = False


class BlockingCalls:
    """The calls of one process, by place. The loops' threads call ``note``; one thread at a time calls ``write``."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._outbox = outbox_of(process)
        self.totals: dict[Call, Total] = {}
        #: Calls at places beyond the first thousand.
        self.left_out = 0
        #: The first failure of ours to note a call, until it is reported.
        self.failure: Exception | None = None
        self._written = 0.0
        self._kinds: dict[CodeType, int] = {}
        # The call under way in each thread: its frame's id, its code, its total, and when it began (monotonic s).
        self._lasting: dict[int, tuple[int, CodeType, Total, float]] = {}
        # Which code is monitored depends on all threads. Reentrant, because a signal handler may open a file.
        self._lock = own_threads.RLock()

    def note(self, event: str, frame: FrameType) -> None:
        """A call begins; ``frame`` is the innermost."""
        outer: FrameType | None = frame
        if event == "import":
            # From 3.15 on the event of an import comes from the import system's own code.
            while outer is not None and self._kind(outer) == _IMPORT:
                outer = outer.f_back
        own = self._own_frame(outer)
        if own is None:
            return
        code = own.f_code
        module = module_name(dict.get(own.f_globals, "__name__"))
        key = Call(event, code.co_filename, own.f_lineno, module, code.co_qualname)
        total = self.totals.get(key)
        if total is None:
            if len(self.totals) >= _MAX_PLACES:
                self.left_out += 1
                return
            total = self.totals[key] = Total()
        total.count += 1
        total.changed = True
        if _monitoring is None:
            return
        thread = own_threads.get_ident()
        lasting = self._lasting.get(thread)
        if lasting is not None and lasting[0] == id(own):
            return  # part of a call of the application that was noted already
        with self._lock:
            self._lasting[thread] = (id(own), code, total, monotonic())
            _monitoring.set_local_events(_tool, code, _monitoring.events.INSTRUCTION)

    def returned(self, code: CodeType, frame: FrameType) -> None:
        """The interpreter reached the instruction after a call: the call has returned, or raised an exception."""
        now = monotonic()
        thread = own_threads.get_ident()
        lasting = self._lasting.get(thread)
        is_over = lasting is not None and lasting[0] == id(frame)
        with self._lock:
            if is_over:
                del self._lasting[thread]
            if not any(each[1] is code for each in self._lasting.values()):
                _monitoring.set_local_events(_tool, code, 0)
        if is_over and lasting is not None:
            _, _, total, since = lasting
            total.seconds += now - since
            total.longest_s = max(total.longest_s, now - since)
            total.changed = True

    def write(self, now: float) -> None:
        """Writes what has changed, at most once a second. ``now``: monotonic s; infinite at the end of the process."""
        if now - self._written < _WRITE_SECONDS:
            return
        self._written = now
        if self.failure is not None:
            failures.report_once("calls that may block could not be noted, and are missing", self.failure)
        changed = [(key, total) for key, total in list(self.totals.items()) if total.changed]
        for start in range(0, len(changed), _ROWS_AN_EVENT):
            rows = []
            for key, total in changed[start : start + _ROWS_AN_EVENT]:
                total.changed = False
                rows.append([*key, total.count, round(total.seconds, 6), round(total.longest_s, 6)])
            text = json.dumps({"kind": "blocking_calls", "rows": rows, "left_out": self.left_out})
            at = monotonic()
            self._outbox.define([at, layout.R_EVENT, self._process.next_event()], text, at)

    def _own_frame(self, frame: FrameType | None) -> FrameType | None:
        """The frame to which the call is attributed; None where the application did not make the call."""
        own: FrameType | None = None
        library: FrameType | None = None
        for _ in range(_MAX_FRAMES):
            if frame is None:
                return None  # the call was not made within a handle of the loop
            kind = self._kind(frame)
            if kind == _LOOP:
                return own or library
            if kind == _IMPORT or (kind == _ASYNCIO and own is None and library is None):
                return None
            if kind == _OWN and own is None:
                own = frame
            elif kind == _LIBRARY and library is None:
                library = frame
            frame = frame.f_back
        return None

    def _kind(self, frame: FrameType) -> int:
        code = frame.f_code
        kind = self._kinds.get(code)
        if kind is None:
            if len(self._kinds) >= _MAX_KNOWN:
                self._kinds.clear()
            kind = self._kinds[code] = _kind_of(code, module_name(dict.get(frame.f_globals, "__name__")))
        return kind


def _kind_of(code: CodeType, module: str) -> int:
    file = code.co_filename
    if is_loop(file, code.co_name):
        return _LOOP
    if file.startswith(_IMPORTLIB):
        return _IMPORT
    if file.startswith(OUR_FOLDER) or module == "asyncio" or module.startswith("asyncio."):
        return _ASYNCIO
    if is_application(file, module):
        return _OWN
    return _LIBRARY if is_library(file) else _OTHER


# -- the one hook of the interpreter

_monitoring: Any = getattr(sys, "monitoring", None)
_tool = -1
_active: BlockingCalls | None = None
_installed = False


def find_in(process: Process) -> BlockingCalls:
    """Starts noting the calls of ``process``, and stops noting those of an earlier one. Returns the calls."""
    global _active, _installed
    if _active is None or _active._process is not process:
        _active = BlockingCalls(process)
    if not _installed:
        _installed = True
        _take_tool()
        sys.addaudithook(_audited)
        if sys.version_info < (3, 13):
            time.sleep = Before(time.sleep, _note_sleep)
    return _active


def found_in(process: Process) -> BlockingCalls | None:
    """The calls of ``process``; None where they are not noted."""
    return _active if _active is not None and _active._process is process else None


def are_noted() -> bool:
    """Whether calls of this process are noted."""
    return _active is not None


def _take_tool() -> None:
    global _tool, _monitoring
    if _monitoring is None:
        return
    for number in (4, 3):  # those that PEP 669 leaves to any tool
        try:
            _monitoring.use_tool_id(number, "traceloop")
        except ValueError:
            continue
        _tool = number
        kinds = _monitoring.events
        _monitoring.register_callback(number, kinds.INSTRUCTION, _went_on)
        _monitoring.register_callback(number, kinds.PY_UNWIND, _unwound)
        _monitoring.set_events(number, kinds.PY_UNWIND)
        return
    _monitoring = None  # times are not known


def _audited(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in CALLS or _active is None or events._get_running_loop() is None:
        return
    try:
        # A socket of asyncio does not wait, and neither does a sleep of no time.
        if event == "socket.connect" and arguments[0].gettimeout() == 0.0:
            return
        if event == "time.sleep" and not arguments[0]:
            return
        _active.note(event, sys._getframe(1))
    except Exception as error:
        _failed(error)  # the call is the program's, and goes ahead


def _note_sleep() -> None:
    if _active is not None and events._get_running_loop() is not None:
        try:
            _active.note("time.sleep", sys._getframe(2))
        except Exception as error:
            _failed(error)


def _went_on(code: CodeType, offset: int) -> None:
    try:
        if _active is not None:
            _active.returned(code, sys._getframe(1))
    except Exception as error:
        _failed(error)


def _unwound(code: CodeType, offset: int, exception: BaseException) -> None:
    try:
        if _active is not None and _active._lasting:
            frame = sys._getframe(1)
            lasting = _active._lasting.get(own_threads.get_ident())
            if lasting is not None and lasting[0] == id(frame):
                _active.returned(code, frame)
    except Exception as error:
        _failed(error)


def _failed(error: Exception) -> None:
    """A call could not be noted. That is reported later: a report may open files, which would call the hook again."""
    if _active is not None and _active.failure is None and failures.is_own(error):
        _active.failure = error


def _after_fork_in_child() -> None:
    # Another thread of the parent may have held the lock; it does not exist in the child, and would never release it.
    if _active is not None:
        _active._lock = own_threads.RLock()
        _active._lasting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
