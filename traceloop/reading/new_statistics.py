"""Statistics with all their parts: the one place that puts them together."""

from __future__ import annotations

from ..settings import Settings
from .stalls import parts as stall_statistics
from .statistics.run import Statistics


def make_statistics(settings: Settings) -> Statistics:
    """Empty statistics with all their parts, and the thresholds of the settings."""
    lowest_pattern = min((seconds for _, seconds in settings.slow_patterns), default=float("inf"))
    statistics = Statistics(
        threshold_for=settings.threshold_for, lowest_threshold=lambda threshold: min(threshold, lowest_pattern)
    )
    stall_statistics.add_to(statistics)
    return statistics
