"""Puts the following of requests into a run's statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .ledger import Ledger
from .totals import RequestTotals

if TYPE_CHECKING:
    from ..statistics.loop import LoopStatistics
    from ..statistics.process import ProcessStatistics
    from ..statistics.run import Statistics


def add_to(statistics: Statistics) -> None:
    """Every process attached from now on has its requests followed."""
    statistics.process_parts.append(lambda process: RequestTotals())
    statistics.first_loop_parts.append(_ledger)


def _ledger(process: ProcessStatistics, loop: LoopStatistics) -> Ledger:
    return Ledger(requests_of(process) or RequestTotals(), lambda: process.sites, process.waits, process.executors)


def requests_of(process: ProcessStatistics) -> RequestTotals | None:
    """The requests of a process slot; None where none are followed."""
    return next((part for part in process.parts if isinstance(part, RequestTotals)), None)
