"""Puts the following of requests into a run's statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .ledger import Ledger
from .totals import Request, RequestTotals

if TYPE_CHECKING:
    from ..statistics.loop import LoopStatistics
    from ..statistics.process import ProcessStatistics
    from ..statistics.run import Statistics


def add_to(statistics: Statistics, *watchers: Callable[[Request], None]) -> None:
    """Every process attached from now on has its requests followed, and each watcher is called with every one of them.

    There is no later way to watch: the first chunk's requests are counted before anybody else sees the chunk.
    """
    statistics.process_parts.append(lambda process: RequestTotals(watchers))
    statistics.first_loop_parts.append(_ledger)


def _ledger(process: ProcessStatistics, loop: LoopStatistics) -> Ledger:
    return Ledger(requests_of(process) or RequestTotals(), lambda: process.sites, process.waits, process.executors)


def requests_of(process: ProcessStatistics) -> RequestTotals | None:
    """The requests of a process slot; None where none are followed."""
    return next((part for part in process.parts if isinstance(part, RequestTotals)), None)
