"""Stacks where no Python thread can take them: under a C call that holds the GIL, and at a crash.

``faulthandler`` writes the stacks of all threads from a signal handler, without the GIL. Two uses:

* A real-time signal, on which the collector has the process write its stacks into ``dump`` in its folder. That is
  advertised in ``dump.json`` (signal number, descriptor, pid, start), and withdrawn before it stops being true: the
  default action of such a signal ends the process.
* The fatal signals (SIGSEGV, SIGABRT, ...), whose stacks go to ``crash``, so that the report names the callback. Only
  where the application has not enabled faulthandler itself; stderr and the exit status stay as they are.

Both write to descriptors that the application does not know. They are given high numbers, so that the application's
own stay what they would be, and the watchdog asks every turn whether they are still ours: a daemon that closes all its
descriptors must not find a dump in the file that got the number next.
"""

from __future__ import annotations

import faulthandler
import fcntl
import json
import os
import signal
import sys
import weakref
from collections.abc import Callable
from typing import Any

from ...record import files
from ...record.proc import process_start_ticks, signal_masks

SIGNAL_VARIABLE = "OTEL_PYTHON_TRACELOOP_DUMP_SIGNAL"

_HIGH_DESCRIPTOR = 200


class _DumpFile:
    """A descriptor, as faulthandler wants it. faulthandler keeps the only reference: when this object is gone, the
    application has disabled faulthandler or has given it a file of its own, and there is nothing of ours to undo.
    """

    __slots__ = ("__weakref__", "_fd", "_identity")

    def __init__(self, path: str) -> None:
        low = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._fd = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _HIGH_DESCRIPTOR)
        except OSError:  # a low limit on descriptors
            self._fd = os.dup(low)
        finally:
            os.close(low)
        status = os.fstat(self._fd)
        self._identity = (status.st_dev, status.st_ino)

    def fileno(self) -> int:
        return self._fd

    def flush(self) -> None:
        pass

    def size(self) -> int | None:
        """Bytes in the file; None where the descriptor is another file's by now."""
        try:
            status = os.fstat(self._fd)
        except OSError:
            return None
        return status.st_size if (status.st_dev, status.st_ino) == self._identity else None

    def __del__(self) -> None:
        if self.size() is not None:
            os.close(self._fd)


def _nothing() -> None:
    return None


class FaultDump:
    """The faulthandler side of one process. One thread at a time, under the watchdog's lock. No method raises."""

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self._signal = 0
        self._dump: Callable[[], _DumpFile | None] = _nothing
        self._crash: Callable[[], _DumpFile | None] = _nothing

    def install(self) -> None:
        """Opens the files, registers the signal and advertises it. Without a folder: nothing."""
        if self._directory is None or self._signal:
            return
        try:
            self._install_crash(self._directory)
            self._install_signal(self._directory)
        except Exception:  # no descriptor left, a full disk: the application runs on without it
            self.remove()

    def _install_crash(self, directory: str) -> None:
        if faulthandler.is_enabled():
            return  # the application's, or that of -X faulthandler
        file = _DumpFile(os.path.join(directory, files.CRASH))
        options: dict[str, Any] = {"c_stack": False} if sys.version_info >= (3, 14) else {}
        faulthandler.enable(file=file, all_threads=True, **options)
        self._crash = weakref.ref(file)

    def _install_signal(self, directory: str) -> None:
        number = chosen_signal(os.environ.get(SIGNAL_VARIABLE, ""))
        if not number or not hasattr(faulthandler, "register"):
            return
        file = _DumpFile(os.path.join(directory, files.DUMP))
        faulthandler.register(number, file=file, all_threads=True, chain=False)
        self._dump = weakref.ref(file)
        self._signal = number
        advert = {"signal": number, "fd": file.fileno(), "pid": os.getpid(), "start_ticks": process_start_ticks()}
        temporary = os.path.join(directory, "." + files.DUMP_ADVERT)
        with open(temporary, "w", encoding="ascii") as advert_file:
            json.dump(advert, advert_file)
        os.rename(temporary, os.path.join(directory, files.DUMP_ADVERT))

    def check(self) -> int:
        """Withdraws what is no longer ours: a descriptor that was closed or replaced, a signal that the application
        took. Returns the size of the dump file, 0 where there is none. Costs about 2 us.
        """
        crash = self._crash()
        if crash is not None and crash.size() is None:
            faulthandler.disable()
        if not self._signal:
            return 0
        dump = self._dump()
        size = dump.size() if dump is not None else None
        if size is None or signal.getsignal(self._signal) is not signal.SIG_DFL:
            self.withdraw()
            return 0
        return size

    def withdraw(self) -> None:
        """Takes the signal and its advertisement back."""
        if not self._signal:
            return
        if self._directory is not None:
            try:
                os.unlink(os.path.join(self._directory, files.DUMP_ADVERT))
            except OSError:
                pass
        # Where the application has taken the signal, the handler in place is its own: unregistering would take it away.
        if self._dump() is not None and signal.getsignal(self._signal) is signal.SIG_DFL:
            faulthandler.unregister(self._signal)
        self._signal = 0

    def read_dump(self, offset: int) -> str:
        """What was dumped from ``offset`` on, at most 64 KiB."""
        dump = self._dump()
        try:
            return os.pread(dump.fileno(), 65536, offset).decode("utf-8", "replace") if dump is not None else ""
        except OSError:
            return ""

    def remove(self) -> None:
        """Undoes what ``install`` did and can still be undone."""
        try:
            if self._crash() is not None:
                faulthandler.disable()
            self.withdraw()
        except Exception:
            pass

    def forget(self) -> None:
        """In the child of a fork: the files, the advertisement and the record are the parent's."""
        self._directory = None
        self.remove()


def chosen_signal(text: str) -> int:
    """The number of the signal to use: what the variable says (a number, ``SIGRTMIN+3``, ``off``), else a real-time
    signal that nobody handles; 0 for none.
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
            wanted = int(getattr(signal, text, 0))
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
