"""Offloads of one process, put together: submit and delivery come by a loop's ring, start and end by the process's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from traceloop.reading.decoding.decoded import Decoded

OUTCOMES: Final = {1: "result", 2: "exception", 3: "cancelled"}
_MAX_OPEN: Final = 100_000
_MAX_WORKERS: Final = 4096


class OffloadCall:
    """One call. Times are monotonic s, 0 where unknown. ring, run: the loop's ring and run that submitted it.

    executor, ident (of the function), worker, outcome: numbers, 0 unknown.
    """

    __slots__ = (
        "delivered", "delivered_by", "executor", "finish", "ident", "number", "outcome", "ring", "run", "start",
        "submit", "worker",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number
        self.submit = self.start = self.finish = self.delivered = self.ident = 0.0
        self.executor = self.run = self.delivered_by = self.outcome = self.worker = 0
        self.ring = -1


class OffloadCalls:
    """The calls of one process. executors: labels by number. workers: name and native thread id by number."""

    def __init__(self) -> None:
        self.executors: dict[int, str] = {}
        self.workers: dict[int, tuple[str, int]] = {}
        self._open: dict[int, OffloadCall] = {}
        self._delivered: list[int] = []

    def feed(self, decoded: Decoded, ring: int) -> None:
        """Takes what one ring said; ``ring``: its number, -1 for the process ring."""
        for executor in decoded.executors:
            self.executors[executor.number] = executor.label
        for worker in decoded.threads:
            if len(self.workers) >= _MAX_WORKERS:
                self.workers.clear()
            self.workers[worker.number] = (worker.name, worker.thread_id)
        for step in decoded.offloads:
            call = self._open.get(step.number)
            if call is None:
                if len(self._open) >= _MAX_OPEN:  # results that were never asked for
                    del self._open[next(iter(self._open))]
                call = self._open[step.number] = OffloadCall(step.number)
            if step.step == "submit":
                call.submit, call.executor, call.ident = step.when, step.executor, step.ident
                call.ring, call.run = ring, step.run
            elif step.step == "start":
                call.start, call.worker = step.when, step.worker
            elif step.step == "finish":
                call.finish, call.outcome = step.when, step.outcome
            else:
                call.delivered, call.delivered_by = step.when, step.run
                self._delivered.append(step.number)

    def take(self, *, final: bool = False) -> Iterator[OffloadCall]:
        """The calls that are known whole. ``final``: the others too, as far as they are known."""
        waiting: list[int] = []
        for number in self._delivered:
            call = self._open.get(number)
            if call is None:
                continue
            # Cancelled before it started, it has neither start nor finish: that shows at the end only.
            if call.finish and call.start and call.submit:
                del self._open[number]
                yield call
            else:
                waiting.append(number)
        self._delivered = waiting
        if final:
            calls, self._open, self._delivered = list(self._open.values()), {}, []
            yield from (call for call in calls if call.submit or call.start)
