"""What the recorders of one process share: its folder in the run directory, the site log, its rings.

The folder is ``RUN_DIR/p-PID-START[-N]`` (START in clock ticks since boot, N where an exec began anew), with

    process.json   pid, parent, start, interpreter, command
    sites          the site log (sites.py)
    loop-N.ring    a ring for each loop that runs at the same time; reused when a loop is closed
    process.ring   a ring for the records of other threads
    ended          made at an orderly exit: nothing more will be written
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

from .. import notices
from ..core.choose import core
from ..record import files, layout
from ..record.proc import own_pid, process_start_ticks
from ..record.secrets import command_line
from ..settings import Settings, chosen
from . import own_threads
from .ring import Ring, make_ring
from .site_log import SiteLog
from .space import Space

# Bound here: tests that replace it mean the application's calls.
_open = open
# For loops that run at the same time after the process has changed its user.
_RINGS_AHEAD = 2


class Process:
    """The recording of this process. ``directory`` is None where it records into private memory."""

    def __init__(self, settings: Settings) -> None:
        self.pid = own_pid()
        #: The settings of the run, parsed once for all recorders.
        self.settings = settings
        #: Whether the run that it belonged to is over while the process lives on (see `leave`).
        self.left = False
        #: The loops that record into it.
        self.loops: weakref.WeakSet[Any] = weakref.WeakSet()
        self.ring_size = settings.ring_size
        run_dir = settings.run_dir
        self.notice: str | None = None
        self._run_dir = run_dir
        self._space = Space(run_dir)
        self.directory = self._make_directory(run_dir) if run_dir else None
        self.site_log = SiteLog(os.path.join(self.directory, files.SITES) if self.directory else None)
        # Stands in for a ring until a loop runs; nothing is ever written to it.
        self.idle_ring = Ring(None, layout.KIND_LOOP, 0, layout.MIN_CAPACITY)
        self.rings: list[Ring] = []
        #: Whether this is the parent's recording, in the child of a fork.
        self.forked = False
        #: The recorders that write to the rings, and refer to their words.
        self.recorders: weakref.WeakSet[Any] = weakref.WeakSet()
        self._free_rings: list[Ring] = []
        self._lock = own_threads.allocate_lock()
        self._loop_numbers = itertools.count(1)
        # Task numbers, times SITE_LIMIT as in an ident: unique in the process. A loop takes one by a single call.
        self.next_task = itertools.count(float(layout.SITE_LIMIT), float(layout.SITE_LIMIT)).__next__
        #: Numbers the events of the process ring; called in any thread.
        self.next_event = itertools.count(1).__next__
        self._process_ring: Ring | None = None
        #: Wakes a collector that is a thread of this process (the pipe in the run directory wakes one that is a process
        #: of its own). Called in any thread after a quarter of a ring has been written, so it takes no lock.
        self.wake_collector: Callable[[], None] | None = None
        self.process_lock = own_threads.allocate_lock()
        _living.add(self)
        if self.notice is not None:
            notices.say_once(run_dir, "no-ring", self.notice)

    def _make_directory(self, run_dir: str) -> str | None:
        for generation in range(1, 1000):
            path = os.path.join(run_dir, str(files.ProcessName(self.pid, process_start_ticks(), generation)))
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                continue
            except OSError as error:
                self.notice = f"cannot record into {run_dir} ({error.strerror}); recording into private memory"
                return None
            self._describe(path)
            return path
        return None

    def describe(self) -> dict[str, int | str | bool]:
        """The description of this process: pid, parent, start, command, versions."""
        return {
            "pid": self.pid,
            "parent": os.getppid(),
            "start_ticks": process_start_ticks(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "implementation": sys.implementation.name,
            "executable": sys.executable,
            "core": core().name,
            "command": " ".join(command_line(sys.orig_argv, self.settings.command_arguments))[:1000],
            "debug": sys.flags.dev_mode or bool(os.environ.get("PYTHONASYNCIODEBUG")),
            "monotonic_ns": time.monotonic_ns(),
            "realtime_ns": time.time_ns(),
        }

    def _describe(self, path: str) -> None:
        temporary = os.path.join(path, ".process.json")
        try:
            with _open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps(self.describe()))  # json.dump leaves cyclic garbage
            os.rename(temporary, os.path.join(path, files.PROCESS))
        except OSError:
            pass  # readers make do with the folder's name

    def next_loop_number(self) -> int:
        """A number that no other loop of this process has."""
        return next(self._loop_numbers)

    def take_ring(self) -> Ring:
        """A ring for a loop that begins to run."""
        with self._lock:
            if self._free_rings:
                return self._free_rings.pop()
            number = len(self.rings)
            ring, notice = self._make_ring(files.loop_ring(number), layout.KIND_LOOP, number, self.ring_size)
            self.rings.append(ring)
        self._say(notice)
        return ring

    def _make_ring(self, name: str, kind: int, number: int, size: int) -> tuple[Ring, str | None]:
        if not self._space.has_addresses():
            raise MemoryError("the address space that is left is the program's")
        size = self._space.mappable(size, sum(ring.mapped for ring in self._all_rings()))
        return make_ring(self.directory, name, kind, number, size, self._may_grow, self._wake_reader)

    def _wake_reader(self) -> None:
        if self._run_dir is not None:
            files.wake_reader(self._run_dir)
        wake = self.wake_collector
        if wake is not None:
            wake()

    @property
    def has_room_for_thread(self) -> bool:
        """Whether a thread of ours leaves the program enough of a limited address space. About 1 us where it is not."""
        return self._space.has_addresses(for_thread=True)

    def _may_grow(self, size: int, more: int) -> bool:
        return self._space.allows(size, more, sum(ring.size for ring in self._all_rings()))

    def _all_rings(self) -> list[Ring]:
        ring = self._process_ring
        return [*self.rings, ring] if ring is not None else list(self.rings)

    def _say(self, notice: str | None) -> None:
        if notice is not None and self.notice is None:
            self.notice = notice
            notices.say_once(self._run_dir, "no-ring", notice)

    def give_ring(self, ring: Ring) -> None:
        """Takes back the ring of a loop that was closed; the next loop reuses it."""
        with self._lock:
            self._free_rings.append(ring)

    def process_write(self, records: list[float], text: list[str], now: float, missed: int = 0) -> None:
        """Writes to the process ring. Called from any thread, never from a signal handler or a gc callback.

        ``missed``: how many records before these found no room; readers count them as dropped.
        """
        with self.process_lock:
            ring = self._open_process_ring()
            ring.records += missed
            ring.write(records, text, now)

    def open_process_ring(self) -> Ring:
        """The process ring, made if nothing was written to it yet; from any thread."""
        with self.process_lock:
            return self._open_process_ring()

    def _open_process_ring(self) -> Ring:
        ring = self._process_ring
        if ring is None:
            size = max(self.ring_size // 8, 1 << 20)
            ring, _ = self._make_ring(files.PROCESS_RING, layout.KIND_PROCESS, 0, size)
            ring.words[layout.W_OPEN] = 1.0
            self._process_ring = ring
        return ring

    @property
    def process_ring(self) -> Ring | None:
        """The process ring, None until something was written to it."""
        return self._process_ring

    def open_ahead(self) -> None:
        """Makes rings while the process still has the right to: the process ring, and one each for two loops."""
        if self.directory is None:
            return
        self.open_process_ring()
        ahead = [self.take_ring() for _ in range(_RINGS_AHEAD)]
        for ring in reversed(ahead):
            self.give_ring(ring)

    def after_fork_in_child(self) -> None:
        """Called in the child of a fork: folder, rings and site log are the parent's, and nothing more is written."""
        self.forked = True
        self.directory = None
        self._lock = own_threads.allocate_lock()
        self.process_lock = own_threads.allocate_lock()
        self.site_log.leave()
        for ring in [self.idle_ring, *self._all_rings()]:
            ring.leave()
        for recorder in list(self.recorders):
            recorder.words = recorder.ring.words

    def end(self) -> None:
        """Ends the recording at an orderly exit: writes the end marker, after which nothing is written."""
        if self.directory is None or self.pid != own_pid():
            return
        for ring in self._all_rings():  # a process that changed its user may make no file any more
            ring.words[layout.W_ENDED] = 1.0
        try:
            os.close(os.open(os.path.join(self.directory, files.ENDED), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError:
            pass


_living: weakref.WeakSet[Process] = weakref.WeakSet()
_current: Process | None = None
_lock = own_threads.allocate_lock()


def current_process() -> Process | None:
    """The recording of this process; made at the first call, and anew in the child of a fork."""
    global _current
    process = _current
    if process is not None and process.pid == own_pid():
        return process
    with _lock:
        if _current is None or _current.pid != own_pid():
            _current = Process(chosen(_report_once))
        return _current


def existing_process() -> Process | None:
    """The recording of this process where it has begun, else None. A fork's child has not its parent's."""
    process = _current
    return process if process is not None and process.pid == own_pid() else None


def prepare_change_of_user() -> None:
    """Opens what the recording will need later, since the process may now lose its rights to the run directory."""
    process = current_process()
    if process is not None:
        process.open_ahead()


def _report_once(line: str) -> None:
    notices.say_once(None, line, line)


def leave() -> None:
    """Lets loops that are made from now on record into the run that is chosen by then.

    Existing loops go on recording into their rings, which are no longer read.
    """
    global _current
    process = existing_process()
    if process is not None:
        process.left = True
    _current = None


def _after_fork_in_child() -> None:
    # The parent's rings are the parent's: the child must not write them, and its lock may have been held.
    global _current, _lock
    _current = None
    _lock = own_threads.allocate_lock()
    for process in list(_living):
        process.after_fork_in_child()
    _living.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
