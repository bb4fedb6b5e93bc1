"""Records that wait for the process ring. Any thread leaves them here, and so do callbacks that may do almost nothing.

An append to a list is all that a worker thread pays. It is also all that a garbage collector's callback may do, since
such a callback can interrupt a flush. Loops write the waiting records at each flush, the watchdog at each look. Where
neither has done so for a while, a worker does it.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from ..core.choose import core
from . import own_threads
from .process import Process

# A busy loop flushes at least this often, s. After that, something blocks it, or it waits in its poll.
UNATTENDED_SECONDS = 0.02
LIMIT = 3 * 8192
# The longest wait for a lock, s: a garbage collection within a write can run a finalizer that comes here again.
_PATIENCE_SECONDS = 0.5


def _new_pending() -> Any:
    native = core().native
    return [] if native is None else native.Record()


def _take(pending: Any) -> Any:
    if type(pending) is not list:
        return pending.take()[0]
    records = pending[:]
    # Only what was copied is deleted: other threads append at the end meanwhile.
    del pending[: len(records)]
    return records


class Outbox:
    """The waiting records of one process. ``pending`` takes whole records, by ``extend``, from any thread.

    It is a list, or, with the C core, a buffer of doubles with the few methods of a list that are needed here.
    drained: when it was last emptied, monotonic s. forked: whether this is the child of a fork, which writes nothing.
    missed: a list of one number: how many records were lost because there was no room for them.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pending = _new_pending()
        self.drained = 0.0
        self.missed = [0]
        self.forked = False
        self._lock = own_threads.allocate_lock()
        _living.add(self)

    def drain(self, now: float, *, wait: bool = True) -> None:
        """Writes the waiting records. ``wait=False``: returns at once where another thread is writing."""
        patience = _PATIENCE_SECONDS if wait else 0.0
        if not self._lock.acquire(timeout=patience):
            return
        try:
            if self.forked:
                self.pending.clear()
            elif len(self.pending):
                if not self._is_free(patience):
                    return
                missed = self.missed[0]
                self._process.process_write(_take(self.pending), [], now, missed)
                self.missed[0] -= missed
            self.drained = now
        finally:
            self._lock.release()

    def define(self, record: list[float], text: str, now: float) -> None:
        """Writes a record with its text at once, since it must stand before the records that refer to it."""
        if not self.forked and self._is_free(_PATIENCE_SECONDS):
            self._process.process_write(record, [text], now)

    def _is_free(self, patience: float) -> bool:
        lock = self._process.process_lock
        if not lock.acquire(timeout=patience):
            return False
        lock.release()
        return True

    def _after_fork(self) -> None:
        self.forked = True
        self._lock = own_threads.allocate_lock()
        self.pending.clear()
        self.missed[0] = 0


_living: weakref.WeakSet[Outbox] = weakref.WeakSet()
_making = own_threads.RLock()  # see watchdog.py


def outbox_of(process: Process) -> Outbox:
    """The outbox of ``process``, made at the first call."""
    with _making:
        attributes: dict[str, Any] = vars(process)
        outbox: Outbox | None = attributes.get("outbox")
        if outbox is None:
            outbox = attributes["outbox"] = Outbox(process)
        return outbox


def _after_fork_in_child() -> None:
    # The parent writes its waiting records itself; its rings are not the child's either.
    global _making
    _making = own_threads.RLock()
    for outbox in list(_living):
        outbox._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
