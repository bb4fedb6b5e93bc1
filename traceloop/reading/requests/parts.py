"""Adds the requests to a run's statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .ledger import Ledger
from .server_spans import ServerSpans
from .totals import Request, RequestTotals

if TYPE_CHECKING:
    from ..statistics.loop import LoopStatistics
    from ..statistics.process import ProcessStatistics
    from ..statistics.run import Statistics


def add_to(statistics: Statistics, *watchers: Callable[[Request], None]) -> None:
    """Follows the requests of every process that is attached from now on, and calls each watcher with each request.

    A watcher cannot be added later: the first chunk's requests are counted before anything else sees the chunk.
    """
    statistics.process_parts.append(lambda process: RequestTotals(watchers))
    statistics.first_loop_parts.append(_ledger)


def keep_spanned(statistics: Statistics) -> None:
    """Lets every loop attached from now on keep its requests that have a server span, for ``spanned_of``."""
    statistics.first_loop_parts.insert(0, _server_spans)


def spanned_of(loop: LoopStatistics) -> list[tuple[Request, int]]:
    """The loop's requests with a server span that were answered since the last call; with each, the span's number."""
    part = next((part for part in loop.parts if isinstance(part, ServerSpans)), None)
    return part.take() if part is not None else []


def _server_spans(process: ProcessStatistics, loop: LoopStatistics) -> ServerSpans:
    totals = requests_of(process) or RequestTotals()
    spans = ServerSpans(totals)
    totals.watchers.append(spans.request_ended)
    return spans


def _ledger(process: ProcessStatistics, loop: LoopStatistics) -> Ledger:
    return Ledger(requests_of(process) or RequestTotals(), lambda: process.sites, process.waits, process.executors)


def requests_of(process: ProcessStatistics) -> RequestTotals | None:
    """The requests of a process slot; None where none are followed."""
    return next((part for part in process.parts if isinstance(part, RequestTotals)), None)
