"""Statistics with every part that there is: the one place that puts them together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .findings import trends
from .requests import parts as request_parts
from .stalls import parts as stall_statistics
from .statistics.run import Statistics
from .statistics.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..settings import Settings
    from .requests.totals import Request


def new_statistics(
    *, requests: bool = True, watchers: tuple[Callable[[Request], None], ...] = (), **choices: Any
) -> Statistics:
    """Empty statistics; ``choices`` as ``Statistics`` takes them. ``requests``: whether requests are followed, of which
    ``watchers`` are called with each.
    """
    statistics = Statistics(**choices)
    stall_statistics.add_to(statistics)
    trends.add_to(statistics)  # not by way of the rules: none of them is needed before there is something to judge
    if requests:
        request_parts.add_to(statistics, *watchers)
    statistics.loop_parts.append(Timeline)
    return statistics


def make_statistics(settings: Settings, *watchers: Callable[[Request], None]) -> Statistics:
    """Empty statistics with the thresholds of these settings; ``watchers`` are called with each request."""
    lowest_pattern = min((seconds for _, seconds in settings.slow_patterns), default=float("inf"))
    return new_statistics(
        requests=settings.requests,
        watchers=watchers,
        threshold_for=settings.threshold_for, lowest_threshold=lambda threshold: min(threshold, lowest_pattern)
    )
