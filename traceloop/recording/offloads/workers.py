"""The numbers of worker threads and processes, and the records that they leave for the process ring."""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
from time import monotonic
from typing import Any

from ...record import layout
from ..outbox import LIMIT, Outbox
from .process_pools import Ran

# Definitions of executors and workers are repeated, since the ring that holds them is overwritten in time.
REPEAT_SECONDS = 30.0
_MAX_PROCESSES = 1000
#: How a call ended, as it is added to its number.
RESULT = layout.OUTCOME * layout.OUTCOME_RESULT
EXCEPTION = layout.OUTCOME * layout.OUTCOME_EXCEPTION
CANCELLED = layout.OUTCOME * layout.OUTCOME_CANCELLED


class Workers:
    """The workers of one process. Its methods may be called in any thread.

    ``local``: of a worker thread, its ``number`` times OUTCOME, and ``until`` when (s) it need not be announced again.
    """

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.local = threading.local()
        self._numbers = itertools.count(1)
        self._processes: dict[int, tuple[float, float]] = {}

    def worker_number(self) -> float:
        """This thread's number times OUTCOME, as it is added to an offload's number; the worker is announced."""
        local = self.local
        now = monotonic()
        try:
            number: float = local.number
        except AttributeError:
            number = local.number = next(self._numbers) * layout.OUTCOME
        local.until = now + REPEAT_SECONDS
        self.outbox.define(
            [number / layout.OUTCOME, layout.R_THREAD, threading.get_native_id()],
            threading.current_thread().name,
            now,
        )
        return number

    def process_number(self, ran: Ran) -> float:
        """The number of a worker process times OUTCOME; the worker is announced. Any thread."""
        now = monotonic()
        number, until = self._processes.get(ran.pid, (0.0, 0.0))
        if now >= until:
            number = number or next(self._numbers) * layout.OUTCOME
            self._processes.pop(ran.pid, None)
            self._processes[ran.pid] = number, now + REPEAT_SECONDS
            if len(self._processes) > _MAX_PROCESSES:
                del self._processes[next(iter(self._processes))]
            self.outbox.define([number / layout.OUTCOME, layout.R_THREAD, ran.pid], ran.name, now)
        return number

    def note(self, records: tuple[float, ...]) -> None:
        """Leaves records for the process ring; any thread."""
        outbox = self.outbox
        outbox.pending.extend(records)
        if len(outbox.pending) > LIMIT:
            outbox.drain(monotonic())

    def unrun(self, number: float, started: bool, source: concurrent.futures.Future[Any]) -> None:
        """Notes the end of a call that no worker ended; for the C core, in the thread that ended it."""
        now = monotonic()
        if source.cancelled():
            self.note((now, layout.R_FINISH, number + CANCELLED))
            return
        # Not ``exception()``: a subclass's own may do anything.
        error: BaseException | None = source._exception
        if not started and not isinstance(error, concurrent.futures.BrokenExecutor):
            self.note((now, layout.R_START, number + self.worker_number()))
        self.note((now, layout.R_FINISH, number + (RESULT if error is None else EXCEPTION)))
