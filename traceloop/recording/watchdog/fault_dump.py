"""Stacks where no Python thread can take them: under a C call that holds the GIL, and at a crash.

``faulthandler`` writes the stacks of all threads from a signal handler, without the GIL. Two uses:

* A real-time signal, on which the collector has the process write its stacks into ``dump`` in its folder. That is
  advertised in ``dump.json`` (signal number, descriptor, pid, start), and withdrawn before it stops being true: the
  default action of such a signal ends the process.
* The fatal signals (SIGSEGV, SIGABRT, ...), whose stacks go to ``crash``, so that the report names the callback. Only
  where the application has not enabled faulthandler itself; stderr and the exit status stay as they are.

Both write to descriptors that the application does not know (own_file.py), and the watchdog asks every turn whether
they are still ours: a daemon that closes all its descriptors must not find a dump in the file that got the number next.
faulthandler is given back when the last loop is closed, or at the first turn of the watchdog in which no loop runs.

``faulthandler.is_enabled`` is replaced while ours is enabled, by a function that says False: a program that asks, and
enables it for itself if it is not, must get its own dump. Its ``enable`` then takes the place of ours.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import weakref
from collections.abc import Callable
from typing import Any

from ...core.choose import load_native
from ...record import files
from ...record.proc import own_pid, process_start_ticks, signal_masks
from .. import failures
from ..own_file import OwnFile

SIGNAL_VARIABLE = "OTEL_PYTHON_TRACELOOP_DUMP_SIGNAL"
#: Whether faulthandler itself may end the process where a function frees its variables (core/native/fault_guard.c).
NEEDS_GUARD = sys.version_info[:3] == (3, 13, 0)

# Bound here: tests and tools that replace these functions mean the application's calls.
_open, _rename, _unlink, _dumps = open, os.rename, os.unlink, json.dumps


def _nothing() -> None:
    return None


class FaultDump:
    """The faulthandler side of one process. One thread at a time, under the watchdog's lock. No method raises.

    faulthandler keeps the only reference to a file of ours that it writes to: where that is gone, the application has
    disabled faulthandler or has given it a file of its own, and there is nothing of ours to undo.
    """

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self._signal = 0
        self._advertised = False
        self._dump: Callable[[], OwnFile | None] = _nothing
        self._crash: Callable[[], OwnFile | None] = _nothing
        # The crash file between two runs of loops.
        self._kept: OwnFile | None = None
        self._may_advertise = True

    def install(self) -> None:
        """A loop begins to run: a crash from now on is reported. Without a folder: nothing. Costs 5 us, at first 50."""
        if self._directory is None or self._crash() is not None:
            return
        try:
            if _genuine_is_enabled():
                return  # the application's, or that of -X faulthandler
            file, self._kept = self._kept, None
            if file is None:
                file = OwnFile(os.path.join(self._directory, files.CRASH))
            file.reopen()
            options: dict[str, Any] = {"c_stack": False} if sys.version_info >= (3, 14) else {}
            faulthandler.enable(file=file, all_threads=True, **options)
            self._crash = weakref.ref(file)
            _enabled_by_us.append(self._crash)
            if faulthandler.is_enabled is _genuine_is_enabled:
                faulthandler.is_enabled = is_enabled
        except OSError:  # no descriptor left, a full disk: the application runs on without it
            pass
        except Exception as error:
            failures.report_once("the stacks of a crash would not be kept", error)

    def give_back(self) -> None:
        """No loop runs: faulthandler is as the application left it, and no dump is asked for."""
        try:
            self._kept = self._crash() or self._kept
            self._disable()
            self._unadvertise()
        except Exception:
            pass

    def _disable(self) -> None:
        if self._crash() is not None:
            faulthandler.disable()
        self._crash = _nothing
        _enabled_by_us.clear()
        if faulthandler.is_enabled is is_enabled:
            faulthandler.is_enabled = _genuine_is_enabled

    def advertise(self) -> None:
        """Registers the signal, where that has not been done, and says in the folder that it may be sent."""
        if self._directory is None or self._advertised or not self._may_advertise:
            return
        self._advertised = True
        try:
            self._advertise(self._directory)
        except Exception:
            self.withdraw()

    def _advertise(self, directory: str) -> None:
        if not hasattr(faulthandler, "register"):
            return
        dump = self._dump()
        if not self._signal or dump is None or dump.size() is None:
            number = chosen_signal(os.environ.get(SIGNAL_VARIABLE, ""))
            guard = load_native()[0] if NEEDS_GUARD else None
            if not number or (NEEDS_GUARD and guard is None):
                self._may_advertise = False
                return
            dump = OwnFile(os.path.join(directory, files.DUMP))
            faulthandler.register(number, file=dump, all_threads=True, chain=False)
            self._dump = weakref.ref(dump)
            self._signal = number
            if guard is not None:
                guard.guard_dump(number)
        # The watchdog, whose thread this is, takes no other signal (own_threads.py). The program's may have blocked it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (self._signal,))
        advert = {
            "signal": self._signal,
            "fd": dump.fileno(),
            "pid": own_pid(),
            "start_ticks": process_start_ticks(),
        }
        temporary = os.path.join(directory, "." + files.DUMP_ADVERT)
        # UTF-8, whose codec is there already: this is the watchdog's first turn, while the program's loop runs.
        with _open(temporary, "w", encoding="utf-8") as advert_file:
            advert_file.write(_dumps(advert))
        _rename(temporary, os.path.join(directory, files.DUMP_ADVERT))

    def _unadvertise(self) -> bool:
        """Takes the advertisement back; the signal's handler stays, since a signal may be on its way. False where the
        file cannot be removed: the process has changed its user.
        """
        if not self._advertised or self._directory is None:
            return True
        try:
            _unlink(os.path.join(self._directory, files.DUMP_ADVERT))
        except FileNotFoundError:
            pass
        except OSError:
            return False
        self._advertised = False
        return True

    def check(self) -> int:
        """Withdraws what is no longer ours: a descriptor that was closed or replaced, a signal that the application
        took. Returns the size of the dump file, 0 where there is none. Costs about 2 us.
        """
        crash = self._crash()
        if crash is not None and crash.size() is None:
            self._disable()
            self.install()
        if not self._signal:
            return 0
        dump = self._dump()
        size = dump.size() if dump is not None else None
        if size is None or signal.getsignal(self._signal) is not signal.SIG_DFL:
            # A descriptor that was closed is replaced at the next turn; a signal that was taken is not asked for again.
            self.withdraw(for_good=dump is None or size is not None)
            return 0
        return size

    def dumped_within(self, seconds: float) -> bool:
        """Whether a dump was asked for and written in the last so many seconds."""
        dump = self._dump() if self._signal else None
        age = dump.age() if dump is not None else None
        return age is not None and -_CLOCK_SECONDS <= age <= seconds + _CLOCK_SECONDS

    def withdraw(self, *, for_good: bool = False) -> None:
        """Takes the signal and its advertisement back."""
        if for_good:
            self._may_advertise = False
        # A signal that is advertised, and not caught, would end the process.
        if not self._signal or not self._unadvertise():
            return
        # Where the application has taken the signal, the handler in place is its own: unregistering would take it away.
        if self._dump() is not None and signal.getsignal(self._signal) is signal.SIG_DFL:
            faulthandler.unregister(self._signal)
        self._signal = 0

    def read_dump(self, offset: int) -> str:
        """What was dumped from ``offset`` on, at most 64 KiB."""
        dump = self._dump()
        return dump.read(offset, 65536).decode("utf-8", "replace") if dump is not None else ""

    def forget(self) -> None:
        """In the child of a fork: the files, the advertisement and the record are the parent's."""
        self._directory = None
        try:
            self._disable()
            self.withdraw()
        except Exception:
            pass


# How far a file's time and the clock may be apart, s.
_CLOCK_SECONDS = 0.05
_genuine_is_enabled = faulthandler.is_enabled
# What tells whether ours is enabled in this process; empty where it is not.
_enabled_by_us: list[Callable[[], OwnFile | None]] = []


def is_enabled() -> bool:
    """Return True if the handler is enabled."""
    # The program's own, that is.
    return _genuine_is_enabled() and not any(file() is not None for file in _enabled_by_us)


is_enabled.__module__ = "faulthandler"


def chosen_signal(text: str) -> int:
    """The number of the signal to use: what the variable says (a number, ``SIGRTMIN+3``, ``off``), else a real-time
    signal that has no handler; 0 for none.
    """
    text = text.strip().upper()
    first, last = getattr(signal, "SIGRTMIN", 0), getattr(signal, "SIGRTMAX", 0)
    if text in ("OFF", "0", "NONE", "FALSE", "NO"):
        return 0
    wanted = 0
    if text:
        base, _, plus = text.partition("+")
        if text.isdigit():
            wanted = int(text)
        elif base == "SIGRTMIN" and (not plus or plus.isdigit()):
            wanted = first + int(plus or 0)
        elif text.startswith("SIG"):
            wanted = int(signal.Signals.__members__.get(text, 0))
        return wanted if 0 < wanted <= (last or 64) and _is_free(wanted) else 0
    # Both ends have their users (libc below, Java and valgrind above, service managers from the bottom on).
    for number in range(last - 13, first + 8, -1):
        if _is_free(number):
            return number
    return 0


def _is_free(number: int) -> bool:
    if signal.getsignal(number) is not signal.SIG_DFL:
        return False
    # Handlers that C code installed are unknown to the signal module.
    masks = signal_masks()
    return bool(masks) and not any(mask >> (number - 1) & 1 for mask in masks.values())
